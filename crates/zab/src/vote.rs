//! Votes: whom a server wants to lead, and which of two servers should.

use oxkeeper_planted::Fault;
use oxkeeper_proto::peer::notification::{Notification, ServerState};
use oxkeeper_proto::{EnsembleConfig, Epoch, Round, ServerId, Zxid};

/// Where servers stand in the order of who should lead: by the epoch of their history, then by the newest
/// transaction in it, then by id. All signed, as in Java.
///
/// The epoch comes first because a log may hold a tail that no quorum ever took; only the epoch tells that a
/// shorter history is the newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank(pub Epoch, pub Zxid, pub ServerId);

/// A vote: a server with what recommends it, and the round in which it was cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    /// Who is to lead.
    pub leader: ServerId,
    /// The newest transaction in that server's log when the vote was cast.
    pub zxid: Zxid,
    /// The election in which it was cast, or -1 after a hand-over without one.
    pub round: Round,
    /// That server's current epoch; of a server that leads, the epoch in which it does.
    pub peer_epoch: Epoch,
}

impl Vote {
    /// What a server stands for that may not vote: an observer, or one that the configuration does not know.
    pub const NOBODY: ServerId = ServerId(i64::MIN);

    /// The vote in a notification.
    #[must_use]
    pub fn of(notification: &Notification) -> Vote {
        let Notification { leader, zxid, round, peer_epoch, .. } = *notification;
        Vote { leader, zxid, round, peer_epoch }
    }

    /// The vote of everybody whom a leader has handed over: no round was held, and the new epoch is not known.
    #[must_use]
    pub fn handed_over(leader: ServerId, reconfiguration: Zxid) -> Vote {
        Vote { leader, zxid: reconfiguration, round: Round(-1), peer_epoch: Epoch(-1) }
    }

    /// Where it stands.
    #[must_use]
    pub fn rank(&self) -> Rank {
        let epoch = if oxkeeper_planted::is(Fault::VoteIgnoresEpoch) { Epoch(0) } else { self.peer_epoch };
        Rank(epoch, self.zxid, self.leader)
    }

    /// Whether its server should lead rather than that of `other`. A server of weight 0 never should, and takes another
    /// one with the same history for a better one: a reconfiguration that is on its way may give it a weight, and while
    /// it insisted on itself nobody could be elected. Java's does.
    ///
    /// Source: `FastLeaderElection.totalOrderPredicate`, 3.9.
    #[must_use]
    pub fn is_better_than(&self, other: &Vote, weights: Weights<'_>) -> bool {
        let (Rank(epoch, zxid, leader), theirs) = (self.rank(), other.rank());
        let chance = weights.chance(leader);
        if oxkeeper_planted::is(Fault::WeightZeroInsists) {
            return chance == Chance::Always && self.rank() > theirs;
        }
        let rank = (epoch, zxid, chance, leader);
        chance != Chance::Never && rank > (theirs.0, theirs.1, weights.chance(theirs.2), theirs.2)
    }
}

impl Vote {
    /// Whether its server has a newer history than that of `other`.
    #[must_use]
    pub(crate) fn is_ahead_of(&self, other: &Vote) -> bool {
        let (Rank(epoch, zxid, _), theirs) = (self.rank(), other.rank());
        (epoch, zxid) > (theirs.0, theirs.1)
    }
}

/// Which voices weigh anything.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// In the configuration in force.
    pub committed: &'a EnsembleConfig,
    /// In a newer one that is on its way.
    pub seen: Option<&'a EnsembleConfig>,
}

/// Whether a server may be elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Chance {
    /// Its voice weighs nothing anywhere.
    Never,
    /// It will weigh something. Perhaps nobody else has what it has acknowledged.
    IfAhead,
    Always,
}

impl Weights<'_> {
    fn chance(&self, server: ServerId) -> Chance {
        let is_newer = |seen: &&EnsembleConfig| seen.version > self.committed.version;
        if self.committed.weight(server) != 0 {
            Chance::Always
        } else if self.seen.filter(is_newer).is_some_and(|seen| seen.weight(server) != 0) {
            Chance::IfAhead
        } else {
            Chance::Never
        }
    }
}

/// A vote as it was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ballot {
    /// The vote.
    pub vote: Vote,
    /// What its sender was doing.
    pub state: ServerState,
    /// The version of the message, 0 for those of 3.4.
    pub version: i32,
}

impl Ballot {
    /// What a notification says.
    #[must_use]
    pub fn of(notification: &Notification) -> Ballot {
        Ballot {
            vote: Vote::of(notification),
            state: notification.state,
            version: notification.version.max(0),
        }
    }

    /// What a server that looks for a leader says.
    #[must_use]
    pub fn looking(vote: Vote) -> Ballot {
        Ballot { vote, state: ServerState::Looking, version: 0 }
    }

    /// Whether two ballots are for the same thing.
    ///
    /// While an election goes on, everything must be equal. Servers of an established ensemble may differ in
    /// zxid and round, which are those of their own elections, so that only leader and epoch count; and servers
    /// before and after ZOOKEEPER-1805 tell different epochs, so that between those only the leader counts.
    ///
    /// Source: `Vote.equals`, 3.9.
    #[must_use]
    pub fn agrees_with(&self, other: &Ballot) -> bool {
        let looking = [self.state, other.state].contains(&ServerState::Looking);
        if looking {
            return self.vote == other.vote;
        }
        let one_is_old = (self.version > 0) != (other.version > 0);
        self.vote.leader == other.vote.leader && (one_is_old || self.vote.peer_epoch == other.vote.peer_epoch)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Votes over all values that matter, the smallest and the negative ones among them.
    fn votes() -> Vec<Vote> {
        let mut all = Vec::new();
        for epoch in [i64::MIN, -1, 0, 1, 2] {
            for zxid in [i64::MIN, -1, 0, 1, 0x1_0000_0001] {
                for leader in [i64::MIN, 1, 2, 3] {
                    let vote = Vote {
                        leader: ServerId(leader),
                        zxid: Zxid(zxid),
                        round: Round(1),
                        peer_epoch: Epoch(epoch),
                    };
                    all.push(vote);
                }
            }
        }
        all
    }

    #[test]
    fn the_order_of_votes_is_total_and_transitive() {
        let config = EnsembleConfig::majority(BTreeMap::new(), Zxid(0));
        let config = Weights { committed: &config, seen: None };
        let all = votes();
        for a in &all {
            for b in &all {
                let (ab, ba) = (a.is_better_than(b, config), b.is_better_than(a, config));
                assert_eq!(usize::from(ab) + usize::from(ba) + usize::from(a == b), 1, "{a:?} {b:?}");
                for c in all.iter().filter(|c| ab && b.is_better_than(c, config)) {
                    assert!(a.is_better_than(c, config), "{a:?} {b:?} {c:?}");
                }
            }
        }
    }

    fn vote(epoch: i64, zxid: i64, leader: i64) -> Vote {
        Vote { leader: ServerId(leader), zxid: Zxid(zxid), round: Round(1), peer_epoch: Epoch(epoch) }
    }

    #[test]
    fn the_epoch_of_a_history_outweighs_its_length_and_length_outweighs_ids() {
        let config = EnsembleConfig::majority(BTreeMap::new(), Zxid(0));
        let config = Weights { committed: &config, seen: None };
        let better = |a: Vote, b: Vote| a.is_better_than(&b, config);
        // The second server logged (1, 9) alone and slept through epoch 2, in which (2, 0) is all there is.
        assert!(better(vote(2, 0x1_0000_0005, 1), vote(1, 0x1_0000_0009, 2)));
        assert!(better(vote(1, 6, 1), vote(1, 5, 2)));
        assert!(better(vote(1, 5, 2), vote(1, 5, 1)));
        assert!(better(vote(0, 0, 1), vote(0, -1, 3)));
    }

    #[test]
    fn a_server_of_no_weight_never_leads() {
        let text = "server.1=a:1:2\nserver.2=b:1:2\ngroup.1=1:2\nweight.2=0";
        let committed = EnsembleConfig::parse(text).unwrap();
        let weights = Weights { committed: &committed, seen: None };
        assert!(!vote(9, 9, 2).is_better_than(&vote(1, 1, 1), weights));
        assert!(!vote(9, 9, 3).is_better_than(&vote(1, 1, 1), weights));
        assert!(vote(1, 1, 1).is_better_than(&vote(0, 0, 2), weights));
        assert!(vote(1, 1, 1).is_better_than(&vote(1, 1, 2), weights), "it need not insist on itself");
        assert!(
            !vote(1, 1, 1).is_better_than(&vote(1, 2, 2), weights),
            "but nobody votes for an older history"
        );
    }

    #[test]
    fn who_will_have_weight_leads_if_it_is_ahead() {
        let text = "server.1=a:1:2\nserver.2=b:1:2\ngroup.1=1:2\n";
        let parse = |more: &str| EnsembleConfig::parse(&format!("{text}{more}")).unwrap();
        let (committed, seen) = (parse("weight.2=0"), parse("version=9"));
        let weights = Weights { committed: &committed, seen: Some(&seen) };
        assert!(vote(1, 2, 2).is_better_than(&vote(1, 1, 1), weights));
        assert!(!vote(1, 1, 2).is_better_than(&vote(1, 1, 1), weights));
        assert!(vote(1, 1, 1).is_better_than(&vote(1, 1, 2), weights));
        let given_up = parse("");
        let weights = Weights { committed: &committed, seen: Some(&given_up) };
        assert!(!vote(1, 2, 2).is_better_than(&vote(1, 1, 1), weights), "it is no newer one");
    }

    #[test]
    fn ballots_agree_by_what_their_senders_can_know() {
        use ServerState::{Following, Leading, Looking};
        let ballot = |state, version, round, epoch| Ballot {
            vote: Vote { round: Round(round), ..vote(epoch, 7, 1) },
            state,
            version,
        };
        for (a, b, agree) in [
            (ballot(Looking, 2, 1, 1), ballot(Looking, 0, 1, 1), true),
            (ballot(Looking, 2, 1, 1), ballot(Looking, 2, 2, 1), false),
            (ballot(Looking, 2, 1, 1), ballot(Following, 2, 1, 2), false),
            (ballot(Following, 2, 1, 2), ballot(Leading, 2, -1, 2), true),
            (ballot(Following, 2, 1, 1), ballot(Leading, 2, 1, 2), false),
            (ballot(Following, 0, 1, 1), ballot(Leading, 2, 1, 2), true),
            (ballot(Following, 0, 1, 1), ballot(Leading, 0, 1, 2), false),
        ] {
            assert_eq!((a.agrees_with(&b), b.agrees_with(&a)), (agree, agree), "{a:?} {b:?}");
        }
    }

    #[cfg(feature = "planted")]
    #[test]
    fn comparing_without_the_epoch_is_found_by_the_order_of_histories() {
        let config = EnsembleConfig::majority(BTreeMap::new(), Zxid(0));
        let config = Weights { committed: &config, seen: None };
        let (newer, longer) = (vote(2, 5, 1), vote(1, 9, 2));
        assert!(newer.is_better_than(&longer, config));
        oxkeeper_planted::with(Fault::VoteIgnoresEpoch, || assert!(!newer.is_better_than(&longer, config)));
    }
}
