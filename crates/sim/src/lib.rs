//! wip
pub mod chance;
pub mod network;
pub mod queue;
pub mod world;
