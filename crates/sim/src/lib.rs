//! A deterministic simulator: whole servers and their clients in virtual time, on disks and networks that fail, under
//! the eyes of checkers that know the rules and not the code.
//!
//! One thread, one heap of events, one seed: the same seed and the same build give the same run, event by event.
//! Servers are real ([`oxkeeper_node::Node`], the real log, snapshots and recovery over a simulated disk); what is
//! simulated is the driver around them ([`process`]), the [`network`], the disk and the [`client`]s.
//!
//! Start with [`run()`]: chaos, healing, convergence, audit. [`swarm`] draws what a run is like, [`faults`] what goes
//! wrong, [`observer`] holds the invariants that are checked as the run goes, [`checker`] those of the whole history.

pub mod admin;
pub mod boot;
pub mod chance;
pub mod checker;
pub mod client;
pub mod convergence;
pub mod damage;
pub mod durable;
pub mod faultmap;
pub mod faults;
pub mod frames;
pub mod groups;
pub mod history;
pub mod judge;
pub mod manners;
pub mod model;
pub mod network;
pub mod observer;
pub mod operator;
pub mod partition;
#[cfg(feature = "planted")]
pub mod planted;
pub mod process;
pub mod queue;
pub mod roster;
pub mod run;
pub mod search;
pub mod slow;
pub mod special;
pub mod swarm;
pub mod trace;
pub mod watches;
pub mod workload;
pub mod world;

pub use run::{Record, Report, record, run};
pub use swarm::Profile;
