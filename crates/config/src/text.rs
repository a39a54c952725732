//! What is said about a configuration: errors that stop the start, and notices that do not.

use std::fmt;

use thiserror::Error;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The line, 0 if there is none: the key is missing or came from the command line.
    pub line: usize,
    /// The key.
    pub key: String,
    /// What was read, if anything.
    pub found: Option<String>,
    /// What would be right.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { file, line, key, found, expected } = self;
        match (found, line) {
            (Some(found), 0) => write!(f, "-D{key}={found}: expected {expected}"),
            (Some(found), line) => write!(f, "{file}:{line}: {key}={found}: expected {expected}"),
            (None, _) => write!(f, "{file}: {key} is missing: expected {expected}"),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// Something an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is more than information.
    pub is_warning: bool,
    /// The line, 0 if it concerns several or none.
    pub line: usize,
    /// The key.
    pub key: String,
    /// The sentence.
    pub text: String,
}

impl Notice {
    pub(crate) fn warning(line: usize, key: &str, text: String) -> Notice {
        Notice { is_warning: true, line, key: key.to_owned(), text }
    }

    pub(crate) fn info(line: usize, key: &str, text: String) -> Notice {
        Notice { is_warning: false, line, key: key.to_owned(), text }
    }
}
