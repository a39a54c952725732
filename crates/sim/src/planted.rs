//! The grading of the simulator: each fault that can be planted must be found by some invariant within so many seeds.

use oxkeeper_planted::{Fault, with};

use crate::run::{Report, run};
use crate::swarm::Profile;

/// One planted fault and what it takes to find it.
#[derive(Debug, Clone, Copy)]
pub struct Grade {
    /// The fault.
    pub fault: Fault,
    /// The kind of run that is best at finding it.
    pub profile: Profile,
    /// Seeds within which it must be found.
    pub budget: u64,
}

const fn grade(fault: Fault, profile: Profile, budget: u64) -> Grade {
    Grade { fault, profile, budget }
}

/// The faults that runs of today find.
pub const GRADES: &[Grade] = &[
    grade(Fault::Canary, Profile::Calm, 1),
    grade(Fault::ReplyBeforeSync, Profile::Standard, 20),
    grade(Fault::SyncRetried, Profile::Storage, 200),
    grade(Fault::TornTailAccepted, Profile::Storage, 500),
    grade(Fault::SnapshotUnchecked, Profile::Storage, 500),
    grade(Fault::PendingEphemeralLeft, Profile::Session, 300),
    grade(Fault::OldConnectionServed, Profile::Session, 300),
    grade(Fault::WatchAfterReply, Profile::Watch, 50),
    grade(Fault::WatchLostOnReconnect, Profile::Watch, 100),
    grade(Fault::RecursiveWithoutRights, Profile::Watch, 300),
    grade(Fault::MultiPrefixApplied, Profile::Standard, 50),
    grade(Fault::SequenceReused, Profile::Standard, 50),
    grade(Fault::WallClockExpiry, Profile::Standard, 100),
    grade(Fault::OutboxUnbounded, Profile::Watch, 300),
    grade(Fault::CallLostOnReconnect, Profile::Standard, 50),
    grade(Fault::AckBeforeSync, Profile::Ensemble, 20),
    grade(Fault::NewLeaderBeforeHistory, Profile::Election, 50),
    grade(Fault::EpochBeforeHistory, Profile::Rejoin, 2000),
    grade(Fault::EpochAfterAck, Profile::Election, 50),
    grade(Fault::AcceptedEpochUnsynced, Profile::Election, 300),
    grade(Fault::EpochDirectoryUnsynced, Profile::Election, 50),
    grade(Fault::TruncateFailureIgnored, Profile::Rejoin, 4000),
    grade(Fault::PartialSnapshotKept, Profile::Rejoin, 500),
    grade(Fault::HistoryHole, Profile::Ensemble, 100),
    grade(Fault::CommitInSyncDropped, Profile::Ensemble, 300),
    grade(Fault::UncommittedKept, Profile::Election, 300),
    grade(Fault::VoteIgnoresEpoch, Profile::Election, 300),
    grade(Fault::HalfIsQuorum, Profile::Election, 200),
    grade(Fault::JointQuorumSkipped, Profile::Reconfig, 50),
    grade(Fault::ReadOnlyUnsaid, Profile::CutOff, 50),
    grade(Fault::OldLinkSurvives, Profile::Election, 20),
    grade(Fault::HandOverLetsGo, Profile::CalmHandOver, 20),
    grade(Fault::ExpiryNotReset, Profile::Election, 100),
    grade(Fault::WipedVotes, Profile::Election, 500),
    grade(Fault::SyncWithoutQuorum, Profile::Deposed, 100),
    grade(Fault::LearnerAddedLate, Profile::Ensemble, 50),
    grade(Fault::OldRoundCounted, Profile::Election, 1000),
    grade(Fault::NotificationErrorEnds, Profile::Hostile, 50),
    grade(Fault::ObserverCounted, Profile::Hostile, 100),
    grade(Fault::OldTimerSurvives, Profile::CalmEnsemble, 20),
    grade(Fault::CounterOverflows, Profile::Rollover, 20),
    grade(Fault::WeightsIgnored, Profile::Groups, 100),
    grade(Fault::GroupsIgnored, Profile::Groups, 100),
    grade(Fault::OracleOfBoth, Profile::Oracle, 50),
    grade(Fault::OracleAskedBeside, Profile::Oracle, 200),
    grade(Fault::EpochOfBoth, Profile::Oracle, 200),
    grade(Fault::AclTableLate, Profile::BigTree, 20),
    grade(Fault::HashWithoutSessions, Profile::Calm, 1),
    grade(Fault::InformBeforeCommit, Profile::ObserverMaster, 20),
    grade(Fault::CandidatesForgotten, Profile::ObserverMaster, 500),
];

impl Grade {
    /// Looks for the fault in the seeds of its budget; gives the first run that fails.
    #[must_use]
    pub fn find(&self, from: u64) -> Option<Report> {
        let runs = (from..from + self.budget).map(|seed| with(self.fault, || run(seed, self.profile, 0)));
        runs.into_iter().find(|report| report.violation.is_some())
    }
}
