//! From arguments, environment and file to a configuration.

use std::fs;
use std::process::ExitCode;

use oxkeeper_config::properties::{self, Property};
use oxkeeper_config::{Config, Parsed};
use tracing::{error, info, warn};

use crate::args::ConfigArgs;

/// Java's exit code for a configuration that cannot be used.
pub(crate) const INVALID_CONFIG: u8 = 2;
/// Where data go if nobody says where.
const DEFAULT_DATA_DIR: &str = "./oxkeeper-data";
const DEFAULT_PORT: &str = "2181";

/// A configuration and the name of where it came from.
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) parsed: Parsed,
}

/// Reads the configuration; says what is wrong with it and gives the exit code.
pub(crate) fn read(args: &ConfigArgs) -> Result<Source, ExitCode> {
    let (name, bytes) = match args.config.as_slice() {
        [] => (
            "built-in defaults".to_owned(),
            // A server that nobody configured listens to this host alone.
            format!("dataDir={DEFAULT_DATA_DIR}\nclientPort={DEFAULT_PORT}\nclientPortAddress=127.0.0.1\n")
                .into_bytes(),
        ),
        [file] => match fs::read(file) {
            Ok(bytes) => (file.clone(), bytes),
            Err(problem) => {
                error!("Invalid config, exiting abnormally: {file}: {problem}");
                return Err(INVALID_CONFIG.into());
            }
        },
        [port, data_dir, rest @ ..] => {
            let mut text = format!("clientPort={port}\ndataDir={data_dir}\n");
            for (key, value) in ["tickTime", "maxClientCnxns"].iter().zip(rest) {
                text += &format!("{key}={value}\n");
            }
            ("command line".to_owned(), text.into_bytes())
        }
    };
    match Config::parse(&name, &bytes, &definitions(args)) {
        Ok(parsed) => Ok(Source { name, parsed }),
        Err(errors) => {
            for problem in &errors.0 {
                error!("{problem}");
            }
            error!("Invalid config, exiting abnormally");
            Err(INVALID_CONFIG.into())
        }
    }
}

/// Definitions, the command line's last: they win over those of the environment.
fn definitions(args: &ConfigArgs) -> Vec<Property> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let mut all = properties::from_jvm_flags(&variable("SERVER_JVMFLAGS"));
    all.extend(properties::from_jvm_flags(&variable("JVMFLAGS")));
    all.extend(args.define.iter().filter_map(|text| properties::from_definition(text)));
    all
}

/// Logs what an operator should know about the configuration.
pub(crate) fn log_notices(source: &Source) {
    for notice in &source.parsed.notices {
        let place =
            if notice.line > 0 { format!("{}:{}: ", source.name, notice.line) } else { String::new() };
        if notice.is_warning {
            warn!("{place}{}", notice.text);
        } else {
            info!("{place}{}", notice.text);
        }
    }
}
