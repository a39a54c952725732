//! What goes wrong with files, by what the caller must do about it.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A failure of storage.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No space is left: growth must be refused until there is some.
    #[error("no space left for {path}: {source}")]
    Full {
        /// The file that was to grow.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk failed. What was to become durable may not be: the server must stop.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds what nobody can have written.
    #[error("{path} is damaged at offset {offset}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong and what can be done.
        what: String,
    },
    /// The directory is not one to start on.
    #[error("{0}")]
    Refused(String),
    /// The directory cannot be used at all: Java's exit code 3.
    #[error("Unable to access datadir: {0}")]
    Directory(String),
}

impl StorageError {
    /// Sorts a system error by what it means.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> StorageError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                StorageError::Full { path: path.to_owned(), source }
            }
            _ => StorageError::failed(action, path, source),
        }
    }

    /// A failure after which nobody knows what is on the disk, whatever the reason.
    pub(crate) fn failed(action: &'static str, path: &Path, source: io::Error) -> StorageError {
        StorageError::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { path: path.to_owned(), offset, what: what.into() }
    }
}
