//! What the core does when the disk is full: it gives up the reserve, has the node refuse what grows, and looks every
//! second whether there is space again.

use oxkeeper_config::Config;
use tracing::{info, warn};

use crate::core::Core;
use crate::disk_thread::Job;

/// Space kept for what must still be logged on a full disk, unless files are small by configuration.
const RESERVE_BYTES: u64 = 16 << 20;
/// The reserve of a server that writes no zeros ahead.
const RESERVE_BYTES_MIN: u64 = 1 << 20;

/// Where a server is with its disk's space.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// The reserve is gone or was never there: nothing may grow.
    pub(crate) is_short: bool,
    /// Not even the reserve was enough: the batch waits.
    pub(crate) is_stalled: bool,
    /// The other thread is at work on a new reserve.
    is_regaining: bool,
    /// It was made while the log was away.
    regained_meanwhile: bool,
    /// The other thread could not write zeros ahead, so long ago in ticks of this module.
    prepare_failed: Option<u32>,
}

/// After so many seconds writing zeros ahead is tried again.
const PREPARE_AGAIN: u32 = 60;

pub(crate) fn reserve_bytes(config: &Config) -> u64 {
    if config.prepare_bytes == 0 { RESERVE_BYTES_MIN } else { RESERVE_BYTES.min(config.prepare_bytes) }
}

impl Core {
    /// Has the reserve made, and the next file of the log if that is wanted.
    pub(crate) fn regain_space(&mut self) {
        if !self.space.is_regaining {
            self.space.is_regaining = true;
            let prepare = self.begin_preparing();
            self.send(Job::Reserve { bytes: reserve_bytes(&self.config), prepare });
        }
    }

    /// The log found no space, but the reserve helped.
    pub(crate) fn space_is_short(&mut self) {
        if !std::mem::replace(&mut self.space.is_short, true) {
            self.tell_scarcity();
        }
    }

    /// The log found no space at all. Its batch stays, and nobody hears of it.
    pub(crate) fn stall(&mut self, error: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.space.is_stalled, true) {
            warn!("{error}: writes wait until there is space, nothing is lost");
        }
        self.space_is_short();
    }

    /// What the other thread achieved.
    pub(crate) fn space_regained(&mut self, done: bool, prepared: bool) {
        self.space.is_regaining = false;
        if prepared {
            self.prepared();
        }
        if !done {
            self.preparing = false;
            return self.space_is_short();
        }
        if self.log_is_here() { self.use_reserve() } else { self.space.regained_meanwhile = true }
    }

    /// The log is back.
    pub(crate) fn log_came_back(&mut self) {
        if std::mem::take(&mut self.space.regained_meanwhile) {
            self.use_reserve();
        }
    }

    fn use_reserve(&mut self) {
        if let Some(log) = self.log_mut() {
            log.set_reserve();
        }
        if std::mem::take(&mut self.space.is_short) {
            info!("There is space again on the disk of {}", self.dirs.logs.display());
            self.tell_scarcity();
        }
    }

    /// Zeros could not be written ahead. Trying again at once would fill the disk again and again.
    pub(crate) fn prepare_failed(&mut self) {
        self.space.prepare_failed = Some(0);
    }

    /// Once a second: tries what there was no space for.
    pub(crate) fn look_for_space(&mut self) {
        if let Some(seconds) = &mut self.space.prepare_failed {
            *seconds += 1;
            if *seconds >= PREPARE_AGAIN {
                self.space.prepare_failed = None;
                self.preparing = false;
            }
        }
        if !self.space.is_short {
            return;
        }
        if std::mem::take(&mut self.space.is_stalled) {
            // If this fails it stalls again, and says nothing.
            self.commit_wanted.notify_one();
        } else {
            self.space.prepare_failed = None;
            self.regain_space();
        }
    }
}
