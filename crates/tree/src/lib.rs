//! The replicated state and its rules: znodes, sessions, access control lists, quotas.
//!
//! A write is two steps. [`prepare`](Pending::prepare) checks a request against the committed tree overlaid
//! with what is proposed but not applied yet, and makes a transaction of it; [`Tree::apply`] applies what was
//! agreed and cannot fail. Reads go to [`Tree::find`]. A snapshot is taken in slices while writes go on
//! ([`Tree::begin_snapshot`]), and loaded by [`Loader`].
//!
//! This crate does not know peers, connections, watches or the time of day: a transaction carries its time.

pub mod acl;
mod apply;
mod digest;
mod hash;
mod load;
mod names;
mod nodes;
mod owner;
mod pending;
mod prepare;
mod quota;
mod state;
mod tree;
mod view;

pub use acl::{Identity, Schemes};
pub use apply::{Change, ChangeKind, Changes, Divergence, Outcome};
pub use hash::{Map, Seeded};
pub use load::{LoadError, Loader};
pub use owner::{Owner, OwnerRules, TTL_MS_MAX};
pub use pending::Pending;
pub use prepare::{Asker, Stamp};
pub use quota::StatsTrack;
pub use tree::{DigestEntry, NodeRef, Rules, Tree};
pub use view::{Slice, SnapshotStart};
