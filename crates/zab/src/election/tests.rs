use proptest::prelude::*;

use super::*;

fn ensemble(voters: i64) -> Arc<EnsembleConfig> {
    let text: String = (1..=voters).map(|id| format!("server.{id}=h{id}:1:2\n")).collect();
    Arc::new(EnsembleConfig::parse(&text).unwrap())
}

fn election(me: i64, config: &Arc<EnsembleConfig>) -> Election {
    let settings =
        Settings { me: ServerId(me), timing: Timing::DEFAULT, reconfig: true, seed: me.unsigned_abs() };
    Election::new(settings, config.clone(), None)
}

fn looking(leader: i64, zxid: i64, epoch: i64, round: i64) -> Notification {
    Notification {
        state: ServerState::Looking,
        leader: ServerId(leader),
        zxid: Zxid(zxid),
        round: Round(round),
        peer_epoch: Epoch(epoch),
        version: NOTIFICATION_VERSION,
        config: None,
    }
}

fn hear(election: &mut Election, from: i64, message: Notification) -> Vec<Output> {
    let mut out = Vec::new();
    let input = Input::Received { from: ServerId(from), message: Ok(message) };
    election.step(Duration::ZERO, input, &mut out);
    out
}

fn permutations(items: &[i64]) -> Vec<Vec<i64>> {
    let Some((last, rest)) = items.split_last() else { return vec![vec![]] };
    let mut all = Vec::new();
    for smaller in permutations(rest) {
        for at in 0..=smaller.len() {
            let mut one = smaller.clone();
            one.insert(at, *last);
            all.push(one);
        }
    }
    all
}

/// Every server of two to four hears the first vote of every other, in every order, for every way to give them
/// histories and rounds: in the end it wants the best of those in the highest round, and itself.
#[test]
fn the_order_of_arrival_does_not_matter() {
    let histories = [(1, 5), (1, 9), (2, 1)];
    let mut runs = 0;
    for voters in 2i64..=4 {
        let config = ensemble(voters);
        let choices: i64 = 6;
        for pick in 0..choices.pow(u32::try_from(voters).unwrap()) {
            let of = |id: i64| {
                let choice = pick / choices.pow(u32::try_from(id - 1).unwrap()) % choices;
                let (epoch, zxid) = histories[usize::try_from(choice % 3).unwrap()];
                (epoch, zxid, 1 + choice / 3)
            };
            for me in 1..=voters {
                let others: Vec<i64> = (1..=voters).filter(|id| *id != me).collect();
                let (epoch, zxid, my_round) = of(me);
                let round = (1..=voters).map(|id| of(id).2).max().unwrap();
                let candidates = (1..=voters).filter(|id| *id == me || of(*id).2 == round);
                let best = candidates.max_by_key(|id| (of(*id).0, of(*id).1, *id)).unwrap();
                for order in permutations(&others) {
                    let mut election = election(me, &config);
                    let candidate = Candidate { zxid: Zxid(zxid), epoch: Epoch(epoch), emptied: false };
                    for _ in 0..my_round {
                        election.step(Duration::ZERO, Input::Look(candidate), &mut Vec::new());
                    }
                    for from in order {
                        let (epoch, zxid, round) = of(from);
                        hear(&mut election, from, looking(from, zxid, epoch, round));
                    }
                    let vote = election.vote().unwrap();
                    assert_eq!((vote.leader, vote.round), (ServerId(best), Round(round)));
                    runs += 1;
                }
            }
        }
    }
    assert!(runs > 30_000, "{runs}");
}

#[test]
fn time_alone_decides_nothing_without_a_quorum() {
    let mut election = election(3, &ensemble(3));
    let candidate = Candidate { zxid: Zxid(0), epoch: Epoch(0), emptied: false };
    let mut out = Vec::new();
    election.step(Duration::ZERO, Input::Look(candidate), &mut out);
    let mut longest = Duration::ZERO;
    let mut now = Duration::ZERO;
    for _ in 0..50 {
        let at = election.deadline().unwrap();
        assert!(at > now, "a deadline that has passed");
        longest = longest.max(at - now);
        now = at;
        election.step(now, Input::Tick, &mut out);
    }
    assert_eq!(longest, Timing::INTERVAL_CAP);
    assert!(out.iter().all(|output| matches!(output, Output::Send { .. })));
}

#[test]
fn configured_intervals_stay_within_the_cap() {
    let second = Duration::from_secs(1);
    let timing = Timing::with_intervals(second, 60 * second);
    assert_eq!((timing.interval_min, timing.interval_max), (second, Timing::INTERVAL_CAP));
    assert_eq!(Timing::with_intervals(9 * second, 9 * second).interval_min, Timing::INTERVAL_CAP);
}

#[test]
fn answers_to_strangers_are_remembered_up_to_a_bound() {
    let mut election = election(1, &ensemble(3));
    let candidate = Candidate { zxid: Zxid(0), epoch: Epoch(0), emptied: false };
    election.step(Duration::ZERO, Input::Look(candidate), &mut Vec::new());
    for stranger in 0..5000 {
        hear(&mut election, 1000 + stranger, looking(1, 0, 0, 1));
    }
    assert_eq!(election.answered.len(), ANSWERED_MAX);
    let input = Input::Received { from: ServerId(9999), message: Ok(looking(1, 0, 0, 1)) };
    let mut out = Vec::new();
    election.step(Timing::DEFAULT.answer_gap, input, &mut out);
    assert!(matches!(out.as_slice(), [Output::Send { to: ServerId(9999), .. }]), "{out:?}");
}

#[test]
fn a_single_voter_elects_itself() {
    let mut election = election(1, &ensemble(1));
    let candidate = Candidate { zxid: Zxid(0), epoch: Epoch(0), emptied: true };
    let mut out = Vec::new();
    election.step(Duration::ZERO, Input::Look(candidate), &mut out);
    assert!(out.is_empty());
    election.step(Timing::DEFAULT.finalize_wait, Input::Tick, &mut out);
    assert!(matches!(out.as_slice(), [Output::Decided(Decision { state: ServerState::Leading, .. })]));
}

fn message() -> impl Strategy<Value = Result<Notification, DecodeError>> {
    let state = prop_oneof![
        4 => Just(ServerState::Looking),
        2 => Just(ServerState::Following),
        2 => Just(ServerState::Leading),
        1 => Just(ServerState::Observing),
    ];
    let small = || prop_oneof![8 => -2i64..5, 1 => Just(i64::MIN), 1 => Just(i64::MAX)];
    let config = prop_oneof![
        4 => Just(None),
        1 => Just(Some("server.1=h1:1:2\nserver.2=h2:1:2\nserver.5=h5:1:2\nversion=9")),
        1 => Just(Some("nonsense")),
    ];
    (state, small(), small(), small(), small(), 0i32..3, config).prop_map(
        |(state, leader, zxid, round, epoch, version, config)| {
            Ok(Notification {
                state,
                leader: ServerId(leader),
                zxid: Zxid(zxid),
                round: Round(round),
                peer_epoch: Epoch(epoch),
                version,
                config: config.map(Bytes::from),
            })
        },
    )
}

fn input() -> impl Strategy<Value = Input> {
    let candidate = (0i64..4, 0i64..3, any::<bool>()).prop_map(|(zxid, epoch, emptied)| Candidate {
        zxid: Zxid(zxid),
        epoch: Epoch(epoch),
        emptied,
    });
    prop_oneof![
        20 => (0i64..6, message()).prop_map(|(from, message)| Input::Received { from: ServerId(from), message }),
        2 => candidate.prop_map(Input::Look),
        1 => (0i64..4).prop_map(|epoch| Input::Serving(Epoch(epoch))),
        6 => Just(Input::Tick),
    ]
}

proptest! {
    /// Whatever is said, only a quorum elects, only voters are elected, and who is elected has a history at
    /// least as new as this server's.
    #[test]
    fn no_message_makes_a_leader_without_a_quorum(
        steps in proptest::collection::vec((input(), 0u64..300), 1..60),
    ) {
        let config = ensemble(3);
        let mut election = election(2, &config);
        let mut now = Duration::ZERO;
        let mut own = None;
        for (input, ms) in steps {
            now += Duration::from_millis(ms);
            if let Input::Look(candidate) = &input {
                own = Some(*candidate);
            }
            let mut out = Vec::new();
            election.step(now, input, &mut out);
            for output in out {
                let Output::Decided(decision) = output else { continue };
                let quorums = Quorums::new(election.config(), None);
                prop_assert!(quorums.are_met(&decision.supporters, Oracle::Absent), "{decision:?}");
                prop_assert!(election.config().is_voter(decision.vote.leader));
                let own = own.unwrap();
                let own = Vote {
                    leader: ServerId(2), zxid: own.zxid, round: Round(0), peer_epoch: own.epoch,
                };
                let is_behind = decision.is_new && decision.vote.rank() < own.rank();
                prop_assert!(!is_behind, "{decision:?} {own:?}");
            }
        }
    }
}
