//! How long it may take until everything is well again once nothing is wrong any more.
//!
//! Ten seconds after healing there is a leader, and a minute after it everybody is in step and every call is answered.
//! Time runs from the moment from which nothing of what was wrong is left: the last server has stopped standing still, and
//! what a slow disk or a slow network had been given before is done. What a server waits for at that moment may be lost
//! already, and it finds that out after `initLimit`; so that comes on top, and where elections wait as long as ZooKeeper's
//! may, two of their waits.

use std::collections::BTreeSet;

use oxkeeper_node::Role;

use crate::process::Server;
use crate::queue::{MS, Nanos, SECOND};
use crate::swarm::Swarm;
use crate::world::World;

/// From healing to a leader.
const LEADER: Nanos = 10 * SECOND;
/// From healing until everybody is in step.
const IN_STEP: Nanos = 60 * SECOND;
/// What a disk or a network may still have to do of what it was given while it was slow.
const LEFT_OVER: Nanos = 15 * SECOND;
/// The longest that elections of ZooKeeper wait.
const BACK_OFF: Nanos = 60 * SECOND;

/// How patient a run is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    leader: Nanos,
    in_step: Nanos,
}

impl Patience {
    /// For runs of a configuration.
    #[must_use]
    pub fn of(swarm: &Swarm) -> Patience {
        let init = 10 * u64::try_from(swarm.server.tick_ms).unwrap_or(0) * MS;
        let waits = swarm.special.manners.iter().any(|manners| manners.backs_off);
        let more = LEFT_OVER + init + if waits { 2 * BACK_OFF } else { 0 };
        Patience { leader: LEADER + more, in_step: IN_STEP + more }
    }

    /// The longest that anything may take.
    #[must_use]
    pub fn longest(&self) -> Nanos {
        self.in_step
    }
}

/// Lets time pass until everything is well; tells what is not in time.
///
/// # Errors
/// What took too long, in words.
pub fn wait(world: &mut World) -> Result<(), String> {
    let patience = world.patience;
    let now = world.stage.queue.now();
    let healed = world.servers.iter().map(|server| server.stands_still_until()).max().unwrap_or(0).max(now);
    if !world.run_until_so(healed + patience.leader, has_leader) {
        return Err(tell(world, "no leader", patience.leader));
    }
    if !world.run_until_so(healed + patience.in_step, is_well) {
        return Err(tell(world, "no convergence", patience.in_step));
    }
    Ok(())
}

fn has_leader(world: &World) -> bool {
    let leads = |server: &Server| matches!(server.role(), Some((Role::Leading, true, _)));
    world.servers.iter().any(|server| server.is_alone() && server.is_up() || leads(server))
}

/// Every server runs and serves in one epoch, and every client has a session and all its answers.
fn is_well(world: &World) -> bool {
    let now = world.stage.queue.now();
    // One who still leads in an old epoch does not know yet that he leads no more.
    let epochs: BTreeSet<i64> = world.members().filter_map(|server| Some(server.role()?.2.0)).collect();
    epochs.len() <= 1
        && world.members().all(|server| server.serves(now))
        && world.clients.iter().all(crate::client::Client::is_settled)
}

fn tell(world: &World, what: &str, limit: Nanos) -> String {
    let servers = world
        .servers
        .iter()
        .map(|server| format!("up {} {:?} {:?}", server.is_up(), server.role(), server.refused));
    let clients = world.clients.iter().filter(|client| !client.is_settled());
    let all: Vec<String> = servers.chain(clients.map(crate::client::Client::describe)).collect();
    format!("{what} in {} s: {}", limit / SECOND, all.join("; "))
}
