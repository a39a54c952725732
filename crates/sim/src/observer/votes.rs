//! What is checked of elections: who acts upon a vote has a quorum of voters behind it, of one round or of those that have
//! that leader already.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{Round, ServerId};

use super::Observer;

/// Who ever said what.
#[derive(Debug, Default)]
pub(super) struct Votes {
    /// Who, while it looked for a leader, wanted this one in this round.
    looking: BTreeMap<(ServerId, Round), BTreeSet<usize>>,
    /// Who had this leader.
    settled: BTreeMap<ServerId, BTreeSet<usize>>,
    judged: BTreeSet<(usize, ServerId, Round)>,
}

impl Observer {
    /// A server is about to say whom it wants to lead, or who leads it.
    pub fn notified(&mut self, server: usize, said: &Notification) {
        let vote = (said.leader, said.round);
        match said.state {
            ServerState::Looking => {
                self.votes.looking.entry(vote).or_default().insert(server);
            }
            ServerState::Following | ServerState::Leading | ServerState::Observing => {
                let is_news = self.votes.judged.insert((server, said.leader, said.round));
                // A reconfiguration hands over without a round.
                if is_news && said.round.0 >= 0 {
                    self.check_election(server, said);
                }
                self.votes.settled.entry(said.leader).or_default().insert(server);
            }
        }
    }

    fn check_election(&mut self, server: usize, said: &Notification) {
        let none = BTreeSet::new();
        let looking = self.votes.looking.get(&(said.leader, said.round)).unwrap_or(&none);
        let settled = self.votes.settled.get(&said.leader).unwrap_or(&none);
        let wanted = self.numbers(|v| looking.contains(&v) || settled.contains(&v));
        let enough = self.is_some_quorum(&wanted) || self.was_named(said.leader.0);
        self.check(1, enough, || {
            format!(
                "server {server} is {:?} under {} in round {}, which only the servers {wanted:?} ever wanted",
                said.state, said.leader, said.round.0
            )
        });
    }
}
