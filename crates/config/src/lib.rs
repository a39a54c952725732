//! `zoo.cfg`, dynamic configuration files and the properties of a JVM: text in, types out, and a good word for
//! what is wrong.
//!
//! Pure: it is given text and opens nothing. [`Config::parse`] is the way in for what every server is told,
//! [`EnsembleSettings::parse`] and [`dynamic`] for what one of several is told besides, [`keys`] the list of all
//! that ZooKeeper knows.

mod config;
pub mod dynamic;
mod ensemble;
pub mod keys;
pub mod properties;
mod text;

pub use config::{Config, ConnectionThrottle, FourLetterWords, Parsed, bind_address};
pub use ensemble::{EnsembleSettings, Servers};
pub use text::{ConfigError, ConfigErrors, Notice};
