//! Which ensemble a server takes itself for a part of: what its files say, or what it was told before its first start.

use std::path::Path;
use std::sync::Arc;

use oxkeeper_proto::EnsembleConfig;
use oxkeeper_storage::{Directories, SimDisk, StorageError};

use super::Server;

/// The file of the configuration in force.
pub(super) const COMMITTED: &str = "dynamic";
/// The file of the configuration last seen.
pub(super) const SEEN: &str = "dynamic.next";

/// No configuration here is longer.
const TEXT_BYTES_MAX: usize = 4096;

/// The configuration in force, and the one last seen if there is one.
type Found = (Arc<EnsembleConfig>, Option<Arc<EnsembleConfig>>);

impl Server {
    /// The configurations that a start goes by.
    pub(super) fn members_on_disk(
        &self,
        dirs: &Directories,
        told: &Arc<EnsembleConfig>,
    ) -> Result<Found, StorageError> {
        let read = |name: &str| {
            let Ok(file) = dirs.disk.open_to_read(&dirs.snapshots.join(name)) else { return Ok(None) };
            let mut bytes = vec![0; TEXT_BYTES_MAX];
            let len = file.read_at(&mut bytes, 0).unwrap_or(0);
            let found = bytes.get(..len).and_then(parse);
            let refused = || StorageError::Refused(format!("the configuration in {name} cannot be read"));
            found.map(Some).ok_or_else(refused)
        };
        Ok((read(COMMITTED)?.unwrap_or_else(|| Arc::clone(told)), read(SEEN)?))
    }

    /// The configuration in force as it would be found after a loss of power; `None` if no file says one.
    #[must_use]
    pub fn durable_config(&self) -> Option<String> {
        durable_configs(&self.disk).0
    }
}

/// The configuration in force and the one last seen as they would be found on a disk after a loss of power.
pub(crate) fn durable_configs(disk: &SimDisk) -> (Option<String>, Option<String>) {
    let files = disk.durable_files(&Path::new(super::DATA).join("version-2"));
    let read = |wanted: &str| {
        let (_, inode, _) = files.iter().find(|(name, ..)| name == wanted)?;
        String::from_utf8(disk.durable_bytes(*inode, 0)).ok()
    };
    (read(COMMITTED), read(SEEN))
}

fn parse(bytes: &[u8]) -> Option<Arc<EnsembleConfig>> {
    EnsembleConfig::parse(std::str::from_utf8(bytes).ok()?).ok().map(Arc::new)
}
