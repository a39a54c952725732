use super::*;

fn config(voters: usize, groups: &[(i64, &[i64])], weights: &[i64]) -> EnsembleConfig {
    let mut text: String = (1..=voters).map(|id| format!("server.{id}=h{id}:1:2\n")).collect();
    for (group, ids) in groups {
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        text += &format!("group.{group}={}\n", ids.join(":"));
    }
    for (i, weight) in weights.iter().enumerate() {
        text += &format!("weight.{}={weight}\n", i + 1);
    }
    EnsembleConfig::parse(&text).unwrap()
}

fn set(bits: u32) -> BTreeSet<ServerId> {
    (0..32).filter(|bit| bits >> bit & 1 != 0).map(|bit| ServerId(bit + 1)).collect()
}

fn met(config: &EnsembleConfig, bits: u32) -> bool {
    Quorums::new(config, None).are_met(&set(bits), Oracle::Absent)
}

/// Every pair of quorums must share a member, and all servers together must be one.
fn check_intersection(quorums: &Quorums, voters: usize, what: &str) {
    let all = (1u32 << voters) - 1;
    let found: Vec<u32> = (0..=all).filter(|bits| quorums.are_met(&set(*bits), Oracle::Absent)).collect();
    for (i, a) in found.iter().enumerate() {
        for b in &found[i..] {
            assert!(a & b != 0, "{what}: {a:b} and {b:b} share nobody");
        }
    }
}

#[test]
fn any_two_majorities_intersect_and_nothing_smaller_decides() {
    for voters in 1..=7 {
        let config = config(voters, &[], &[]);
        check_intersection(&Quorums::new(&config, None), voters, &format!("{voters} voters"));
        for bits in 0..1u32 << voters {
            assert_eq!(met(&config, bits), bits.count_ones() as usize > voters / 2, "{voters}: {bits:b}");
        }
    }
}

/// Every way to divide up to seven servers into groups.
fn partitions(n: i64) -> Vec<Vec<Vec<i64>>> {
    let Some(rest) = n.checked_sub(1).filter(|rest| *rest >= 0) else { return vec![vec![]] };
    let mut all = Vec::new();
    for smaller in partitions(rest) {
        for at in 0..=smaller.len() {
            let mut one = smaller.clone();
            match one.get_mut(at) {
                Some(group) => group.push(n),
                None => one.push(vec![n]),
            }
            all.push(one);
        }
    }
    all
}

#[test]
fn any_two_quorums_of_any_groups_and_weights_intersect() {
    let mut checked = 0;
    for n in 1..=7usize {
        // The larger the ensemble, the fewer weights: the number of groupings alone is 877 for seven.
        let weights_max: i64 = [0, 3, 3, 3, 2, 2, 1, 1][n];
        let choices = usize::try_from(weights_max).unwrap() + 1;
        for groups in partitions(i64::try_from(n).unwrap()) {
            let groups: Vec<(i64, &[i64])> = (1i64..).zip(groups.iter().map(Vec::as_slice)).collect();
            let all_weights = choices.pow(u32::try_from(n).unwrap());
            for pick in (0..all_weights).step_by(if n == 7 { 5 } else { 1 }) {
                let weights: Vec<i64> = (0..n)
                    .map(|i| i64::try_from(pick / choices.pow(u32::try_from(i).unwrap()) % choices).unwrap())
                    .collect();
                let config = config(n, &groups, &weights);
                check_quorums_by_counting(&config, n);
                checked += 1;
            }
        }
    }
    assert!(checked > 50_000, "{checked}");
}

/// Compares with counting, and looks for a quorum whose complement is one too: since quorums only grow by more
/// members, two that share nobody exist exactly if there is such a pair.
fn check_quorums_by_counting(config: &EnsembleConfig, n: usize) {
    let quorums = Quorums::new(config, None);
    let groups = config.groups().unwrap();
    let all = (1u32 << n) - 1;
    let mut met = vec![false; 1 << n];
    for bits in 0..=all {
        let acked = set(bits);
        met[bits as usize] = quorums.are_met(&acked, Oracle::Absent);
        let mut total: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for (id, group) in &groups.of {
            let entry = total.entry(*group).or_default();
            entry.0 += groups.weights[id];
            entry.1 += if acked.contains(id) { groups.weights[id] } else { 0 };
        }
        let counted = total.values().filter(|(all, _)| *all > 0).count();
        let won = total.values().filter(|(all, won)| *won * 2 > *all).count();
        assert_eq!(met[bits as usize], won * 2 > counted, "{config} {bits:b}");
    }
    for bits in 0..=all {
        assert!(!(met[bits as usize] && met[(all & !bits) as usize]), "{config}: {bits:b} and the rest");
    }
}

#[test]
fn while_a_configuration_is_proposed_both_must_agree() {
    let old = EnsembleConfig::parse("server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2\nversion=1").unwrap();
    let new = "server.3=c:1:2\nserver.4=d:1:2\nserver.5=e:1:2\nserver.2=b:1:2:observer\nversion=2";
    let new = EnsembleConfig::parse(new).unwrap();
    let joint = Quorums::new(&old, Some(&new));
    let is_met = |ids: &[i64]| joint.are_met(&ids.iter().copied().map(ServerId).collect(), Oracle::Absent);
    assert!(is_met(&[1, 3, 4]) && is_met(&[1, 2, 4, 5]));
    assert!(!is_met(&[1, 2, 3]) && !is_met(&[3, 4, 5]) && !is_met(&[2, 3]));
    check_intersection(&joint, 5, "joint");
    assert!((1..=5).all(|id| joint.is_voter(ServerId(id))));
    assert_eq!(joint.voters().len(), 5);
    // An older one that was seen is over and does not count.
    let over = Quorums::new(&new, Some(&old));
    assert!(over.are_met(&[ServerId(4), ServerId(5)].into(), Oracle::Absent));
}

#[test]
fn every_pair_of_joint_majorities_intersects() {
    // All pairs of configurations over four servers.
    let configs: Vec<EnsembleConfig> = (1u32..16)
        .map(|bits| {
            let text: String = set(bits).iter().map(|id| format!("server.{id}=h{id}:1:2\n")).collect();
            EnsembleConfig::parse(&text).unwrap()
        })
        .collect();
    for old in &configs {
        for new in &configs {
            let new = new.clone().with_version(Zxid(1));
            let joint = Quorums::new(old, Some(&new));
            check_intersection(&joint, 4, "joint");
            // A quorum of both is one of each, so that what was agreed before or comes after shares a member too.
            for bits in 0..16 {
                let both = met(old, bits) && met(&new, bits);
                assert_eq!(joint.are_met(&set(bits), Oracle::Absent), both);
            }
        }
    }
}

#[test]
fn the_oracle_decides_between_two_and_nowhere_else() {
    for voters in 1..=3 {
        let config = config(voters, &[], &[]);
        let quorums = Quorums::new(&config, None);
        let one = [ServerId(1)].into();
        assert_eq!(quorums.are_met(&one, Oracle::Says(true)), voters <= 2);
        assert_eq!(quorums.are_met(&one, Oracle::Says(false)), voters == 1);
        assert_eq!(oracle_needed(&config, 0), voters == 2);
        assert!(!oracle_needed(&config, 1));
    }
}

#[test]
fn only_voters_count_and_each_once() {
    let config = EnsembleConfig::parse("server.1=a:1:2\nserver.2=b:1:2\nserver.3=c:1:2:observer").unwrap();
    let mut tracker = Tracker::new(Arc::new(Quorums::new(&config, None)));
    assert!(tracker.ack(ServerId(1)) && !tracker.ack(ServerId(1)));
    assert!(!tracker.ack(ServerId(3)) && !tracker.ack(ServerId(9)));
    assert!(!tracker.is_complete(Oracle::Absent));
    assert!(tracker.ack(ServerId(2)) && tracker.is_complete(Oracle::Absent));
    assert_eq!((tracker.acked().len(), tracker.has(ServerId(3))), (2, false));
}

#[test]
fn a_successor_is_found_among_the_newest_voters() {
    let old = EnsembleConfig::parse("server.1=a:1:2\nserver.2=b:1:2\nversion=1").unwrap();
    let new = EnsembleConfig::parse("server.2=b:1:2\nserver.3=c:1:2\nversion=2").unwrap();
    let mut tracker = Tracker::new(Arc::new(Quorums::new(&old, Some(&new))));
    for id in 1..=3 {
        tracker.ack(ServerId(id));
    }
    assert_eq!(tracker.acked_in_newest().collect::<Vec<_>>(), [ServerId(2), ServerId(3)]);
}

#[cfg(feature = "planted")]
#[test]
fn half_as_a_quorum_is_found_by_intersection() {
    let config = config(4, &[], &[]);
    let quorums = Quorums::new(&config, None);
    check_intersection(&quorums, 4, "four voters");
    let found = std::panic::catch_unwind(|| {
        oxkeeper_planted::with(Fault::HalfIsQuorum, || check_intersection(&quorums, 4, "four voters"));
    });
    assert!(found.is_err());
}
