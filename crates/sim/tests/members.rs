//! The check of the ensemble's members is checked: what real runs did passes, and lies about it are found.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use oxkeeper_proto::{ErrorCode, OpCode, Txn, TxnRecord, Zxid};
use oxkeeper_sim::chance::Chance;
use oxkeeper_sim::history::Outcome;
use oxkeeper_sim::observer::Violation;
use oxkeeper_sim::swarm::Swarm;
use oxkeeper_sim::{Profile, Record, checker, record};

fn verdict(record: &Record) -> Result<(), Violation> {
    checker::verify(&record.history, &record.order, &record.rules).map(|_| ())
}

fn truths() -> Vec<Record> {
    (1..=4).map(|seed| record(seed, Profile::CalmReconfig)).collect()
}

/// The reconfigurations in the order, and whether each was done.
fn reconfigurations(record: &Record) -> Vec<(Zxid, bool)> {
    let calls = record.history.calls.iter().filter(|call| call.op == OpCode::Reconfig);
    calls.filter_map(|call| call.told().map(|told| (told.zxid, told.err.is_ok()))).collect()
}

#[test]
fn true_histories_have_changes_and_refusals_and_pass() {
    let (mut done, mut refused) = (0, 0);
    for truth in truths() {
        assert_eq!(verdict(&truth), Ok(()));
        let all = reconfigurations(&truth);
        done += all.iter().filter(|(_, is_done)| *is_done).count();
        refused += all.iter().filter(|(_, is_done)| !*is_done).count();
    }
    assert!(done > 10 && refused > 5, "{done} done, {refused} refused");
}

/// Another member than was asked for, in the transaction that all servers applied.
#[test]
fn another_member_is_found() {
    let mut count = 0;
    for truth in truths() {
        for (zxid, _) in reconfigurations(&truth).into_iter().filter(|(_, is_done)| *is_done) {
            let mut lie = truth.clone();
            let payload = lie.order.get_mut(&zxid).unwrap();
            let text = String::from_utf8_lossy(payload).into_owned();
            let Some(place) = text.find(":participant") else { continue };
            // A server that votes becomes one that does not, in as many letters.
            let mut bytes = payload.to_vec();
            let at = payload.windows(12).position(|window| window == b":participant").unwrap();
            assert!(place > 0);
            bytes[at - 1] = if bytes[at - 1] == b'8' { b'9' } else { b'8' };
            *payload = bytes.into();
            let record = TxnRecord::decode(payload).unwrap();
            assert!(matches!(record.txn, Txn::SetData { op: OpCode::Reconfig, .. }));
            assert_eq!(verdict(&lie).unwrap_err().invariant, 26);
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn an_outcome_that_the_members_before_do_not_allow_is_found() {
    let others = [ErrorCode::OK, ErrorCode::BADVERSION, ErrorCode::NOAUTH, ErrorCode::RECONFIGDISABLED];
    let mut count = 0;
    for truth in truths() {
        for (index, call) in truth.history.calls.iter().enumerate() {
            let Some(told) = call.told().filter(|_| call.op == OpCode::Reconfig) else { continue };
            for other in others.into_iter().filter(|other| *other != told.err) {
                let mut lie = truth.clone();
                if let Outcome::Told(told) = &mut lie.history.calls[index].result {
                    told.err = other;
                }
                assert!(verdict(&lie).is_err(), "{:?} told as {other:?}", told.err);
                count += 1;
            }
        }
    }
    assert!(count > 50, "{count}");
}

/// An epoch that begins with older members than are in force.
#[test]
fn an_epoch_that_goes_back_is_found() {
    let mut count = 0;
    for truth in truths() {
        let (first, roster) = truth.rules.begun_with.first_key_value().unwrap();
        let last = *truth.order.keys().next_back().unwrap();
        let mut lie = truth.clone();
        lie.rules.begun_with.insert(Zxid(last.0 + 1), roster.clone());
        if reconfigurations(&truth).iter().any(|(zxid, is_done)| *is_done && zxid > first) {
            assert_eq!(verdict(&lie).unwrap_err().invariant, 26);
            count += 1;
        }
    }
    assert!(count > 0, "{count}");
}

/// Another weight than was asked for, in a run whose members are put into groups.
#[test]
fn another_weight_is_found() {
    let mut count = 0;
    let changes = |seed: &u64| Swarm::draw(Profile::Groups, &mut Chance::new(*seed)).server.reconfig;
    for truth in (1..).filter(changes).take(4).map(|seed| record(seed, Profile::Groups)) {
        assert_eq!(verdict(&truth), Ok(()));
        for (zxid, _) in reconfigurations(&truth).into_iter().filter(|(_, is_done)| *is_done) {
            let mut lie = truth.clone();
            let payload = lie.order.get_mut(&zxid).unwrap();
            let mut bytes = payload.to_vec();
            let Some(place) = bytes.windows(7).position(|window| window == b"weight.") else { continue };
            // Behind `weight.1=` stands one digit.
            bytes[place + 9] = if bytes[place + 9] == b'1' { b'2' } else { b'1' };
            *payload = bytes.into();
            assert_eq!(verdict(&lie).unwrap_err().invariant, 26);
            count += 1;
        }
    }
    assert!(count > 2, "{count}");
}
