//! `zoo.cfg` and the properties of a JVM: text in, types out, and a good word for what is wrong.
//!
//! Pure: it is given text and opens nothing. [`Config::parse`] is the way in, [`keys`] the list of all that
//! ZooKeeper knows.

mod config;
pub mod keys;
pub mod properties;
mod text;

pub use config::{Config, ConnectionThrottle, FourLetterWords, Parsed, bind_address};
pub use text::{ConfigError, ConfigErrors, Notice};
