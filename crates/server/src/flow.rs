//! Why no queue grows without bound.
//!
//! There are four kinds of queue. **Into the node** there is none: a connection's task reads at most
//! [`READ_BYTES`] and steps the node with it before it reads again; a frame that is not complete is kept as
//! it comes, never by the length it claims, and at most `jute.maxbuffer` long. **Writes on their way** are
//! bounded by `globalOutstandingLimit`: above it the node has the driver stop reading from every client that
//! has something on its way. **To the log** goes what those are. **To each connection** there is its outbox: a
//! client whose outbox is above [`OUTBOX_BYTES`] is not read from, and what was read already waits in its
//! small form, which is its own affair and holds back nobody else; if it takes nothing for [`STUCK_AFTER`], it is
//! cut. Only the few reads before a write of its own are answered whatever the room. Watch events are all that can still be added, and above
//! [`OUTBOX_BYTES_MAX`] the client is cut at once. Snapshots go to their thread one slice at a time.

use std::time::Duration;

pub(crate) use oxkeeper_node::OUTBOX_BYTES;

/// Descriptors that connections leave to files: without one the log could not go on with its next file, and the
/// server would have to stop. Where the system grants few, half of them.
pub(crate) const FILES_KEPT: usize = 64;
/// Read from a connection at once.
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// How often a connection is read before others get their turn.
pub(crate) const READS_PER_TURN: usize = 4;
/// Parts of an outbox that are written at once, where it is made of many.
pub(crate) const PARTS_AT_ONCE: usize = 64;
/// Written to a connection before others get their turn.
pub(crate) const WRITE_BYTES: usize = 1 << 20;
/// Above this it is cut, unless a single reply is what is so large.
pub(crate) const OUTBOX_BYTES_MAX: usize = 64 << 20;
/// A full outbox that nobody takes from means that nobody is there.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(5);
/// An outbox keeps no more memory than this when it is empty.
pub(crate) const OUTBOX_KEEP: usize = 16 * 1024;
