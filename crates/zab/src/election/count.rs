//! How the votes of a server that looks for a leader are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oxkeeper_planted::Fault;
use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{Round, ServerId};

use super::emptied::Heard;
use super::{Ballot, Election, Looking, Oracle, Output, Quorums, Role, Vote, emptied};
use crate::vote::Weights;

impl Election {
    /// Counts a message of a voter about a voter.
    ///
    /// Source: `FastLeaderElection.lookForLeader`, 3.9.
    pub(super) fn count(
        &mut self,
        now: Duration,
        from: ServerId,
        message: &Notification,
        out: &mut Vec<Output>,
    ) {
        match message.state {
            ServerState::Looking if message.zxid == emptied::NOT_COUNTED => {
                self.hear_emptied(now, from, message, out);
            }
            ServerState::Looking => self.count_looking(now, from, message, out),
            ServerState::Following => {
                self.count_settled(now, from, message, out);
            }
            ServerState::Leading => {
                let is_decided = self.count_settled(now, from, message, out);
                if !is_decided {
                    self.ask_oracle(message, out);
                }
            }
            ServerState::Observing => {}
        }
    }

    fn count_looking(
        &mut self,
        now: Duration,
        from: ServerId,
        message: &Notification,
        out: &mut Vec<Output>,
    ) {
        let Role::Looking(looking) = &mut self.role else { return };
        if !looking.is_counted() {
            return;
        }
        let weights = Weights { committed: &self.committed, seen: self.seen.as_deref() };
        let mut heard = Vote::of(message);
        if heard.round < self.round && oxkeeper_planted::is(Fault::OldRoundCounted) {
            heard.round = self.round;
        }
        let proposal = if heard.round > self.round {
            self.round = heard.round;
            looking.votes.clear();
            looking.finalize_at = None;
            let own = Vote { round: self.round, ..looking.own };
            Some(if heard.is_better_than(&own, weights) { heard } else { own })
        } else if heard.round < self.round {
            // Its sender was told so when the message was answered.
            return;
        } else {
            heard.is_better_than(&looking.proposal, weights).then_some(heard)
        };
        if let Some(proposal) = proposal {
            looking.proposal = proposal;
            looking.finalize_at = None;
        }
        let ballot = Ballot::looking(heard);
        let is_news = looking.votes.insert(from, ballot) != Some(ballot);
        let joins = proposal.is_none() && heard.is_ahead_of(&looking.proposal) && {
            // Those who want a server of no weight know of a reconfiguration that gives it one. With this voter they are
            // enough by what this voter knows, and without it perhaps nobody is.
            let mut supporters = looking.supporters(&looking.votes, &ballot);
            supporters.insert(self.me) && self.quorums.are_met(&supporters, Oracle::Absent)
        };
        if joins {
            looking.proposal = heard;
            looking.finalize_at = None;
        }
        if proposal.is_some() || joins {
            self.send_all(out);
        }
        self.judge(now, is_news);
    }

    /// A voter that does not know that it votes, because a reconfiguration that makes it one was on its way when
    /// everybody fell, stands for nobody. It may be ahead in rounds, for it has begun anew with each configuration that it
    /// heard of, and would take no vote of an earlier one: without it there may be no quorum. Java's servers drop its
    /// message, and all wait.
    pub(super) fn catch_up(&mut self, now: Duration, message: &Notification, out: &mut Vec<Output>) {
        let Role::Looking(looking) = &mut self.role else { return };
        if !looking.is_counted() || message.zxid == emptied::NOT_COUNTED || message.round <= self.round {
            return;
        }
        self.round = message.round;
        looking.votes.clear();
        looking.finalize_at = None;
        looking.proposal = Vote { round: self.round, ..looking.own };
        self.send_all(out);
        self.judge(now, true);
    }

    /// Looks whether a quorum agrees with the proposal, and if so starts to wait for a better one. News start
    /// the wait anew; what was known already does not, or a peer that repeats itself could hold it up forever.
    pub(super) fn judge(&mut self, now: Duration, is_news: bool) {
        let Role::Looking(looking) = &mut self.role else { return };
        if !looking.is_counted() || looking.proposal.leader == Vote::NOBODY {
            return;
        }
        let supporters = looking.supporters(&looking.votes, &Ballot::looking(looking.proposal));
        if !self.quorums.are_met(&supporters, self.oracle) {
            looking.finalize_at = None;
        } else if looking.finalize_at.is_none() || is_news {
            looking.finalize_at = Some(now + self.timing.finalize_wait);
        }
    }

    /// Counts what a server says that has a leader; true if that decided.
    ///
    /// Source: `FastLeaderElection.receivedFollowingNotification`, 3.9.
    fn count_settled(
        &mut self,
        now: Duration,
        from: ServerId,
        message: &Notification,
        out: &mut Vec<Output>,
    ) -> bool {
        let round = self.round;
        let Role::Looking(looking) = &mut self.role else { return false };
        let ballot = Ballot::of(message);
        if ballot.vote.round == round {
            // Kept without its version, as Java does: servers of one election differ in the epoch they tell,
            // depending on whether they serve already, and need only agree on the leader.
            looking.votes.insert(from, Ballot { version: 0, ..ballot });
        }
        looking.outside.insert(from, ballot);
        let Some(supporters) = self.established(ballot) else {
            // Its sender may have been one of the quorum that this server is about to act upon.
            self.judge(now, false);
            return false;
        };
        self.round = ballot.vote.round;
        self.settle(ballot.vote, supporters, false, out);
        true
    }

    /// Who stands behind the leader of `ballot`, if that is a quorum: of the votes of this round, or of what
    /// those say that have a leader.
    fn established(&self, ballot: Ballot) -> Option<BTreeSet<ServerId>> {
        let Role::Looking(looking) = &self.role else { return None };
        let here = (ballot.vote.round == self.round).then_some(&looking.votes);
        here.into_iter().chain([&looking.outside]).find_map(|votes| {
            let supporters = looking.supporters(votes, &ballot);
            let is_met = self.quorums.are_met(&supporters, self.oracle) || self.would_complete(&supporters);
            (is_met && self.leads(looking, votes, ballot.vote)).then_some(supporters)
        })
    }

    /// Whether those who have a leader are a quorum of the configuration in force, and with this server, and the others
    /// that look for one, also of the newer one that it has seen. Perhaps nobody else has seen it, and then nobody else
    /// would make up its quorum: this server would be kept out for ever. Epochs are agreed on later, so following is safe.
    fn would_complete(&self, supporters: &BTreeSet<ServerId>) -> bool {
        let Role::Looking(looking) = &self.role else { return false };
        let others = looking.votes.keys().chain([&self.me]).copied();
        let with_me = supporters.iter().copied().chain(others).collect();
        self.seen.is_some()
            && Quorums::new(&self.committed, None).are_met(supporters, self.oracle)
            && self.quorums.are_met(&with_me, self.oracle)
    }

    /// Whether a leader that others have is one for this server: it says so itself, or it is this server and
    /// the round is its own.
    ///
    /// Source: `FastLeaderElection.checkLeader`, 3.9.
    fn leads(&self, looking: &Looking, votes: &BTreeMap<ServerId, Ballot>, vote: Vote) -> bool {
        if vote.leader == self.me {
            return looking.is_counted() && vote.round == self.round;
        }
        votes.get(&vote.leader).is_some_and(|ballot| ballot.state == ServerState::Leading)
    }

    /// Of two voters one leads and the other finds no quorum. If the oracle denies this one the lead, the other
    /// has it.
    fn ask_oracle(&mut self, message: &Notification, out: &mut Vec<Output>) {
        if self.oracle == Oracle::Says(false) && self.quorums.voters().len() <= 2 && message.leader != self.me
        {
            self.round = message.round;
            self.settle(Vote::of(message), [message.leader].into(), false, out);
        }
    }

    /// Counts a voter that says that its data are gone.
    fn hear_emptied(&mut self, now: Duration, from: ServerId, message: &Notification, out: &mut Vec<Output>) {
        let Role::Looking(looking) = &self.role else { return };
        if !looking.candidate.emptied {
            return;
        }
        let (candidate, was_counted) = (looking.candidate, looking.is_counted());
        let own = Vote { leader: self.me, ..looking.proposal };
        let vote = match self.emptied.hear(from, message.peer_epoch) {
            Heard::HasHeardAll => None,
            // Votes carry no numbers, so one that votes must answer those who still wait for its own.
            Heard::Asks | Heard::Waits if was_counted => Some(self.emptied.word(own, from)),
            Heard::Asks => Some(self.emptied.marked(own, from)),
            Heard::Waits => None,
        };
        if let Some(vote) = vote {
            let answer = (ServerState::Looking, vote, self.committed.version);
            if self.may_answer(now, from, answer) {
                let notification = self.notification(ServerState::Looking, vote);
                out.push(Output::Send { to: from, notification });
            }
        }
        if !was_counted && self.emptied.is_general(self.me, &self.quorums) {
            self.stand(now, candidate, out);
        }
    }

    /// Begins to vote within the round: everybody's data are gone, so nothing is lost by it.
    fn stand(&mut self, now: Duration, candidate: super::Candidate, out: &mut Vec<Output>) {
        let own = self.own_vote(candidate);
        let round: Round = self.round;
        let Role::Looking(looking) = &mut self.role else { return };
        looking.own = own;
        looking.proposal = Vote { round, ..own };
        self.send_all(out);
        self.judge(now, true);
    }
}
