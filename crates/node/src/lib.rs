//! One server's mind: from a client's frame to its reply, without a socket, a file or a clock.
//!
//! Everything enters by [`Node::step`] as an [`Input`] and leaves as [`Effects`]. Nothing that depends on
//! durability leaves before [`Input::Persisted`] says so.
//!
//! The modules in the order of a write's walk: `admit` (what is this frame, and whose turn is it), `propose`
//! (request to transaction to proposal), `commit` (apply, tell the watchers), `watch`, `reply`. Beside them
//! `connect` opens sessions, `read` answers reads, `expiry` ends sessions, `auth` knows identities and
//! `query` serves operators.

mod admit;
mod auth;
mod commit;
mod conn;
mod connect;
mod effects;
mod expiry;
mod hand_over;
mod hold;
mod lead;
mod learn;
mod local;
mod masters;
mod member;
mod node;
mod peers;
mod propose;
mod query;
mod read;
mod reconfig;
mod reply;
mod scarcity;
mod settings;
mod throttle;
mod transfer;
mod watch;

pub use auth::digest_id;
pub use effects::{
    Answer, ConnId, ConnectionReport, Effects, ExpiryReport, Input, Now, OUTBOX_BYTES, PeerSession, Query,
    QueryId, RequestCounts, Role, Size, SnapshotStep, Status,
};
pub use node::Node;
pub use peers::{LinkEffect, Members, PeerEffects, PeerInput, Recovered, Task};
// Recovery brings a node the tree that it starts from; these are the words for it.
pub use oxkeeper_tree::{
    DigestEntry, Identity, LoadError, Loader, OwnerRules, Rules, Schemes, SnapshotStart, Tree,
};
// What a driver makes durable, and how it calls the connections between servers.
pub use oxkeeper_zab::{
    Durable, HandOverRefused, LinkId, ObserverMasters, PeerPort, Proposal, Ticket, Timing,
};
pub use scarcity::{Memory, Scarcity};
pub use settings::{DigestAlgorithm, DigestPolicy, EnsembleSettings, Reap, Settings};
pub use throttle::ThrottleSettings;
pub use watch::WatchSummary;
