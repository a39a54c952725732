//! Deliberate faults, to grade the tests: each must be found by a named test or invariant, and one that survives
//! is a defect of the tests.
//!
//! Code asks [`is`] at the place where the fault would be made. Without the feature `planted` that is a constant
//! `false` and nothing of it is compiled. With it, one build holds all faults and `with` or, for a whole
//! process, the environment variable `OXKEEPER_PLANTED` (a number of [`Fault`]) chooses one at run time.

/// The faults. Their numbers are those of the test programme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Fault {
    /// None at all: a test that always fails when this is chosen shows that failures are reported.
    Canary = 0,
    /// A standalone server replies before its log is synced.
    ReplyBeforeSync = 1,
    /// A follower acknowledges a proposal before its log is synced.
    AckBeforeSync = 2,
    /// NEWLEADER is acknowledged before the history that came with it is durable.
    NewLeaderBeforeHistory = 3,
    /// The current epoch becomes durable before the history.
    EpochBeforeHistory = 4,
    /// The current epoch becomes durable after NEWLEADER is acknowledged.
    EpochAfterAck = 5,
    /// The accepted epoch is promised without being synced.
    AcceptedEpochUnsynced = 6,
    /// An epoch file is renamed, but its directory is not synced.
    EpochDirectoryUnsynced = 7,
    /// A failed sync is tried again.
    SyncRetried = 8,
    /// A failed truncation of the log is ignored.
    TruncateFailureIgnored = 9,
    /// A torn record at the end of the log is taken for whole.
    TornTailAccepted = 10,
    /// Damage in the middle of the log is taken for its end.
    DamageTakenForTail = 11,
    /// A snapshot is used though its checksum is wrong.
    SnapshotUnchecked = 12,
    /// A snapshot that came in part is kept.
    PartialSnapshotKept = 13,
    /// Recent proposals have a hole after a synchronization.
    HistoryHole = 14,
    /// A COMMIT between the ACK of NEWLEADER and UPTODATE is dropped.
    CommitInSyncDropped = 15,
    /// A learner gets proposals from one too late on.
    LearnerAddedLate = 16,
    /// Uncommitted proposals stay in memory over an election.
    UncommittedKept = 17,
    /// Votes are compared without their epoch.
    VoteIgnoresEpoch = 18,
    /// Votes of an old round count.
    OldRoundCounted = 19,
    /// A malformed notification ends the election's receiver.
    NotificationErrorEnds = 20,
    /// Half of the participants count as a quorum.
    HalfIsQuorum = 21,
    /// An observer's ACK counts.
    ObserverCounted = 22,
    /// A reconfiguration is agreed by the old participants alone.
    JointQuorumSkipped = 23,
    /// A leader answers `sync` without asking whether it still leads.
    SyncWithoutQuorum = 24,
    /// Closing a session leaves an ephemeral whose creation was on its way.
    PendingEphemeralLeft = 25,
    /// A new leader does not give sessions their full timeout.
    ExpiryNotReset = 26,
    /// A session that moved is still served on its old connection.
    OldConnectionServed = 27,
    /// A watch fires after the reply that shows the change.
    WatchAfterReply = 28,
    /// A one-shot watch is lost when its client reconnects.
    WatchLostOnReconnect = 29,
    /// A recursive watch tells of znodes that its owner may not read.
    RecursiveWithoutRights = 30,
    /// A multi that fails leaves its first operations.
    MultiPrefixApplied = 31,
    /// The number of a sequential name is used again after a delete.
    SequenceReused = 32,
    /// Replaying over a fuzzy snapshot counts a child's creation twice.
    ReplayCountsTwice = 33,
    /// A snapshot's access control lists are those of another moment.
    AclTableLate = 34,
    /// Purging counts snapshots that cannot be read.
    PurgeCountsInvalid = 35,
    /// Sessions expire by the time of day.
    WallClockExpiry = 36,
    /// A server with an emptied directory votes as if it had never acknowledged anything.
    WipedVotes = 37,
    /// What waits for a client has no bound.
    OutboxUnbounded = 38,
    /// A timer of an old role still acts.
    OldTimerSurvives = 39,
    /// The counter of zxids runs over into the epoch.
    CounterOverflows = 40,
    /// The state's hash in tests leaves sessions out.
    HashWithoutSessions = 41,
    /// The client forgets a waiting call when it reconnects.
    CallLostOnReconnect = 42,
    /// A server that only lets read does not say so.
    ReadOnlyUnsaid = 43,
    /// Clients are let go when leadership is handed over.
    HandOverLetsGo = 44,
    /// A link of an old role stays open.
    OldLinkSurvives = 45,
    /// Within a group every server weighs the same.
    WeightsIgnored = 50,
    /// Where there are groups, a majority of all servers decides.
    GroupsIgnored = 51,
    /// A server of weight 0 votes for nobody but itself.
    WeightZeroInsists = 52,
    /// Whatever the oracle says, both of two voters go on alone.
    OracleOfBoth = 53,
    /// The oracle decides although the other voter gets what is new.
    OracleAskedBeside = 54,
    /// With an oracle a leader takes the next epoch, which the other one may take as well.
    EpochOfBoth = 55,
    /// A follower tells observers of what is only offered.
    InformBeforeCommit = 46,
    /// A follower does not tell observers of what was on its way when it began to serve them.
    CandidatesForgotten = 47,
}

#[cfg(feature = "planted")]
mod chosen {
    use std::cell::Cell;
    use std::sync::OnceLock;

    thread_local! {
        pub(crate) static HERE: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// The fault of the whole process, if its environment names one.
    pub(crate) fn everywhere() -> Option<u32> {
        static CHOSEN: OnceLock<Option<u32>> = OnceLock::new();
        *CHOSEN.get_or_init(|| std::env::var("OXKEEPER_PLANTED").ok()?.parse().ok())
    }
}

/// Whether the fault is to be made here.
#[cfg(feature = "planted")]
#[must_use]
pub fn is(fault: Fault) -> bool {
    chosen::HERE.get().or_else(chosen::everywhere) == Some(fault as u32)
}

/// Whether the fault is to be made here: never, in this build.
#[cfg(not(feature = "planted"))]
#[must_use]
#[inline(always)]
pub const fn is(_fault: Fault) -> bool {
    false
}

/// Runs something with a fault, on this thread alone.
#[cfg(feature = "planted")]
pub fn with<T>(fault: Fault, run: impl FnOnce() -> T) -> T {
    let before = chosen::HERE.replace(Some(fault as u32));
    let out = run();
    chosen::HERE.set(before);
    out
}

#[cfg(all(test, feature = "planted"))]
mod tests {
    use super::*;

    #[test]
    fn canary() {
        assert!(!is(Fault::Canary), "the canary sings");
    }

    #[test]
    fn a_fault_is_made_where_it_is_chosen_and_nowhere_else() {
        assert!(!is(Fault::ReplyBeforeSync));
        with(Fault::ReplyBeforeSync, || {
            assert!(is(Fault::ReplyBeforeSync) && !is(Fault::AckBeforeSync));
            assert!(!std::thread::spawn(|| is(Fault::ReplyBeforeSync)).join().unwrap());
        });
        assert!(!is(Fault::ReplyBeforeSync));
    }
}
