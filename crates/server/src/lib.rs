//! A server to run or to embed: the driver around a [`oxkeeper_node::Node`].
//!
//! It reads sockets, keeps the log and the snapshots, tells the node the time, and does what the node wants
//! done. It decides nothing. `flow` tells why no queue grows without bound, `core` is the loop, `conn` one
//! connection of it.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use oxkeeper_server::{Config, Server, Storage};
//!
//! let config = Config::standalone("unused", 0);
//! let server = Server::start(config, Storage::Memory).await?;
//! println!("clients may connect to {}", server.address());
//! server.shutdown().await?;
//! # Ok(())
//! # })
//! # }
//! ```

mod conn;
mod core;
#[cfg(test)]
mod crash_points;
mod disk_thread;
mod error;
mod flow;
mod four_letter;
mod listen;
mod listing;
mod memory;
mod pace;
mod recover;
mod server;
mod setup;
mod space;
mod utc;
mod words;

pub use conn::ByteStream;
pub use error::ServerError;
pub use oxkeeper_config::Config;
pub use oxkeeper_node::{DigestAlgorithm, Tree, digest_id};
pub use oxkeeper_storage::SnapshotTail;
pub use recover::{RecoverOptions, Recovered, load_snapshot, recover};
pub use server::{Server, Storage, inspect};
pub use utc::Utc;

/// The line that `srvr` gives as the version.
#[must_use]
pub fn version() -> String {
    words::version()
}
