//! Quorums: enough participants that any two such sets share a member.
//!
//! Source: `QuorumMaj`, `QuorumHierarchical`, `QuorumOracleMaj`, `SyncedLearnerTracker`, 3.9.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oxkeeper_planted::Fault;
use oxkeeper_proto::{EnsembleConfig, ServerId, Zxid};

/// What decides between two voters of whom one is lost: a file that an operator or a fencing device writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Oracle {
    /// There is none, or it is not asked: see [`oracle_needed`].
    Absent,
    /// Its word.
    Says(bool),
}

/// Whether a leader may ask the oracle: two voters, and none of the followers is there. Before somebody leads it
/// may always be asked.
#[must_use]
pub fn oracle_needed(config: &EnsembleConfig, followers: usize) -> bool {
    followers == 0 && config.voters().count() == 2
}

/// What makes a quorum of one configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Rule {
    version: Zxid,
    voters: BTreeSet<ServerId>,
    /// `None`: a majority.
    groups: Option<WeightedGroups>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct WeightedGroups {
    /// The group and the weight of each voter.
    of: BTreeMap<ServerId, (i64, i64)>,
    /// The weight of each group that has any: the others do not count.
    weights: BTreeMap<i64, i128>,
}

impl Rule {
    fn new(config: &EnsembleConfig) -> Rule {
        let groups = config.groups().map(|groups| {
            let mut weights: BTreeMap<i64, i128> = BTreeMap::new();
            let of = groups.of.iter().map(|(id, group)| {
                let is_equal = oxkeeper_planted::is(Fault::WeightsIgnored);
                let weight = if is_equal { 1 } else { config.weight(*id) };
                *weights.entry(*group).or_default() += i128::from(weight);
                (*id, (*group, weight))
            });
            let of = of.collect();
            weights.retain(|_, weight| *weight > 0);
            WeightedGroups { of, weights }
        });
        Rule { version: config.version, voters: config.voters().collect(), groups }
    }

    fn is_met(&self, acked: &BTreeSet<ServerId>, oracle: Oracle) -> bool {
        let groups = self.groups.as_ref().filter(|_| !oxkeeper_planted::is(Fault::GroupsIgnored));
        let Some(groups) = groups else {
            let count = acked.intersection(&self.voters).count();
            if oxkeeper_planted::is(Fault::HalfIsQuorum) && count > 0 && count * 2 >= self.voters.len() {
                return true;
            }
            let decides = self.voters.len() <= 2 && count > 0 && oracle == Oracle::Says(true);
            return count > self.voters.len() / 2 || decides;
        };
        let mut won: BTreeMap<i64, i128> = BTreeMap::new();
        for (group, weight) in acked.iter().filter_map(|id| groups.of.get(id)) {
            *won.entry(*group).or_default() += i128::from(*weight);
        }
        let wins = |group: &i64, weight: i128| groups.weights.get(group).is_some_and(|all| weight > all / 2);
        won.iter().filter(|(group, weight)| wins(group, **weight)).count() > groups.weights.len() / 2
    }
}

/// What makes a quorum now: the rule of the configuration in force and, while a newer one is proposed, that of the
/// newer one as well.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Quorums {
    committed: Rule,
    next: Option<Rule>,
}

impl Quorums {
    /// The rules of the committed configuration and of the one seen last, which counts only if it is newer.
    #[must_use]
    pub fn new(committed: &EnsembleConfig, seen: Option<&EnsembleConfig>) -> Quorums {
        let next = seen.filter(|seen| seen.version > committed.version).map(Rule::new);
        Quorums { committed: Rule::new(committed), next }
    }

    /// Whether a server votes in any of the configurations.
    #[must_use]
    pub fn is_voter(&self, id: ServerId) -> bool {
        self.rules().any(|rule| rule.voters.contains(&id))
    }

    /// Everybody who votes in any of the configurations, ascending.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<ServerId> {
        self.rules().flat_map(|rule| &rule.voters).copied().collect()
    }

    /// Whether these servers are a quorum of every configuration.
    #[must_use]
    pub fn are_met(&self, acked: &BTreeSet<ServerId>, oracle: Oracle) -> bool {
        self.rules().all(|rule| rule.is_met(acked, oracle))
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        std::iter::once(&self.committed).chain(&self.next)
    }
}

/// Who has acknowledged one thing, under the rules that held when it was begun.
///
/// A proposal keeps its rules: a reconfiguration that is proposed later must not make an earlier transaction
/// easier or harder to commit. One that was proposed earlier may, once it is agreed: see [`Tracker::follow`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tracker {
    quorums: Arc<Quorums>,
    acked: BTreeSet<ServerId>,
}

impl Tracker {
    /// Nobody has acknowledged yet.
    #[must_use]
    pub fn new(quorums: Arc<Quorums>) -> Tracker {
        Tracker { quorums, acked: BTreeSet::new() }
    }

    /// Counts a server; false if it has no vote, or was counted before.
    pub fn ack(&mut self, id: ServerId) -> bool {
        self.quorums.is_voter(id) && self.acked.insert(id)
    }

    /// Goes by other rules from now on. To be used when a reconfiguration before this is agreed: whoever leads next is
    /// elected by a quorum of the new configuration, so that is who must have this. Those who left need not, and may not
    /// be there any more.
    pub fn follow(&mut self, quorums: Arc<Quorums>) {
        self.acked.retain(|id| quorums.is_voter(*id));
        self.quorums = quorums;
    }

    /// Counts a server no longer: what it has acknowledged it may be about to lose.
    pub fn retract(&mut self, id: ServerId) {
        self.acked.remove(&id);
    }

    /// Whether a server was counted.
    #[must_use]
    pub fn has(&self, id: ServerId) -> bool {
        self.acked.contains(&id)
    }

    /// Whether enough have.
    #[must_use]
    pub fn is_complete(&self, oracle: Oracle) -> bool {
        self.quorums.are_met(&self.acked, oracle)
    }

    /// Everybody who was counted.
    #[must_use]
    pub fn acked(&self) -> &BTreeSet<ServerId> {
        &self.acked
    }

    /// Those counted who vote in the newest configuration: among them a leader that leaves finds its successor.
    pub fn acked_in_newest(&self) -> impl Iterator<Item = ServerId> {
        let newest = self.quorums.next.as_ref().unwrap_or(&self.quorums.committed);
        self.acked.iter().copied().filter(|id| newest.voters.contains(id))
    }

    /// The rules.
    #[must_use]
    pub fn quorums(&self) -> &Quorums {
        &self.quorums
    }
}

#[cfg(test)]
mod tests;
