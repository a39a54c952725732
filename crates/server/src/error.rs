//! Why a server does not start, or stops.

use std::io;

use oxkeeper_storage::StorageError;
use thiserror::Error;

/// A failure of the whole server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The data directory cannot be used, must not be, or has failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The client port cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// What was asked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A thread or the runtime could not be made.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// An invariant was broken. The state is not to be trusted; what is on disk is.
    #[error("stopped by a broken invariant; see the message before this one")]
    Broken,
}
