//! What is checked of elections: who acts upon a vote has a quorum of voters behind it, of one round or of those that have
//! that leader already.

use std::collections::{BTreeMap, BTreeSet};

use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{ErrorCode, OpCode, Round, ServerId, SessionId, Txn, TxnRecord};

use super::Observer;

/// Who ever said what.
#[derive(Debug, Default)]
pub(super) struct Votes {
    /// Who, while it looked for a leader, wanted this one in this round.
    looking: BTreeMap<(ServerId, Round), BTreeSet<usize>>,
    /// Who had this leader.
    settled: BTreeMap<ServerId, BTreeSet<usize>>,
    judged: BTreeSet<(usize, ServerId, Round)>,
    /// Whom a reconfiguration has named: nobody votes for them, and those who are no voters are told of them with the
    /// round of an election that they had no part in.
    named: BTreeSet<ServerId>,
    /// Whether elections are made up: then nothing about them is checked.
    #[cfg(test)]
    made_up: bool,
}

impl Votes {
    /// A reconfiguration that is agreed names a leader.
    pub(super) fn named(&mut self, leader: ServerId) {
        self.named.insert(leader);
    }
}

#[cfg(test)]
impl Observer {
    /// Elections are made up from now on.
    pub(crate) fn elections_are_made_up(&mut self) {
        self.votes.made_up = true;
    }
}

impl Observer {
    /// A server is about to say whom it wants to lead, or who leads it.
    pub fn notified(&mut self, server: usize, said: &Notification) {
        #[cfg(test)]
        if self.votes.made_up {
            return;
        }
        let vote = (said.leader, said.round);
        match said.state {
            ServerState::Looking => {
                self.votes.looking.entry(vote).or_default().insert(server);
            }
            ServerState::Following | ServerState::Leading | ServerState::Observing => {
                let is_news = self.votes.judged.insert((server, said.leader, said.round));
                // A reconfiguration hands over without a round.
                if is_news && said.round.0 >= 0 && !self.is_named(said) {
                    self.check_election(server, said);
                }
                self.votes.settled.entry(said.leader).or_default().insert(server);
            }
        }
    }

    /// Whether the vote is that of a leader who hands over: its last transaction, a failure of nobody's with the code of
    /// success, names the next one in place of a client's number. Or that of a server which has become a voter or an
    /// observer by a reconfiguration, and comes to its leader anew.
    fn is_named(&self, said: &Notification) -> bool {
        let Some(record) = self.agreed.get(&said.zxid).and_then(|txn| TxnRecord::decode(txn).ok()) else {
            return false;
        };
        let hands_over = record.header.session == SessionId::NONE
            && matches!(record.txn, Txn::Error { code: ErrorCode::OK })
            && i64::from(record.header.cxid.0) == said.leader.0;
        hands_over || record.header.op == OpCode::Reconfig
    }

    fn check_election(&mut self, server: usize, said: &Notification) {
        let none = BTreeSet::new();
        let looking = self.votes.looking.get(&(said.leader, said.round)).unwrap_or(&none);
        let settled = self.votes.settled.get(&said.leader).unwrap_or(&none);
        let voters = self.numbers(|server| looking.contains(&server) || settled.contains(&server));
        let is_named = self.votes.named.contains(&said.leader);
        let enough = is_named || self.follows_word(server, said.leader) || self.is_quorum_of_some(&voters);
        self.check(1, enough, || {
            format!(
                "server {server} is {:?} under {} in round {}, which only the servers {voters:?} ever wanted",
                said.state, said.leader, said.round.0
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use oxkeeper_proto::{Epoch, Zxid};

    use super::*;

    fn says(observer: &mut Observer, server: usize, state: ServerState, leader: i64, round: i64) {
        let said = Notification {
            state,
            leader: ServerId(leader),
            zxid: Zxid::ZERO,
            round: Round(round),
            peer_epoch: Epoch(0),
            version: 2,
            config: None,
        };
        observer.notified(server, &said);
    }

    #[test]
    fn who_acts_upon_a_vote_needs_a_quorum_of_its_round_or_of_those_who_have_that_leader() {
        let mut observer = Observer::of_voters(5);
        says(&mut observer, 0, ServerState::Looking, 1, 1);
        says(&mut observer, 1, ServerState::Looking, 1, 1);
        says(&mut observer, 2, ServerState::Looking, 1, 1);
        says(&mut observer, 0, ServerState::Leading, 1, 1);
        says(&mut observer, 1, ServerState::Following, 1, 1);
        says(&mut observer, 2, ServerState::Following, 1, 1);
        says(&mut observer, 3, ServerState::Following, 1, 9);
        assert_eq!(observer.violation, None);
        says(&mut observer, 4, ServerState::Looking, 5, 2);
        says(&mut observer, 4, ServerState::Leading, 5, 2);
        assert!(observer.violation.is_some_and(|violation| violation.invariant == 1));
    }
}
