//! The checks of servers that only let read, and of sessions that one server alone knows, are checked: what real runs
//! did passes, and lies about it are found.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use oxkeeper_proto::{ErrorCode, OpCode, Zxid};
use oxkeeper_sim::history::{Call, Outcome, Told};
use oxkeeper_sim::observer::Violation;
use oxkeeper_sim::{Profile, Record, checker, record};

fn verdict(record: &Record) -> Result<(), Violation> {
    checker::verify(&record.history, &record.order, &record.rules).map(|_| ())
}

fn truths() -> Vec<Record> {
    SEEDS.into_iter().map(|seed| record(seed, Profile::CutOff)).collect()
}

const SEEDS: [u64; 4] = [7, 10, 14, 23];

/// Changes the reply to every call that is picked, one at a time; gives how many there were and how many lies passed.
fn lies(pick: impl Fn(&Record, &Call) -> bool, lie: impl Fn(&mut Told)) -> (usize, usize) {
    let (mut told, mut missed) = (0, 0);
    for truth in truths() {
        assert_eq!(verdict(&truth), Ok(()));
        let picked = |(_, call): &(usize, &Call)| call.told().is_some() && pick(&truth, call);
        let places: Vec<usize> =
            truth.history.calls.iter().enumerate().filter(picked).map(|(place, _)| place).collect();
        for place in places.iter().step_by(places.len() / 12 + 1) {
            let mut record = truth.clone();
            if let Outcome::Told(told) = &mut record.history.calls[*place].result {
                lie(told);
            }
            told += 1;
            missed += usize::from(verdict(&record).is_ok());
        }
    }
    (told, missed)
}

#[test]
fn a_write_that_a_reader_was_told_to_have_done_is_found() {
    let refused = |_: &Record, call: &Call| {
        checker::is_write(call.op) && call.told().is_some_and(|told| told.err == ErrorCode::NOTREADONLY)
    };
    let (told, missed) = lies(refused, |told| told.err = ErrorCode::OK);
    assert!(told > 10 && missed == 0, "{told} told, {missed} missed");
}

#[test]
fn a_refusal_by_a_server_that_serves_everything_is_found() {
    let done = |_: &Record, call: &Call| {
        !call.read_only && checker::is_write(call.op) && call.told().is_some_and(|told| told.zxid.0 > 0)
    };
    let (told, missed) = lies(done, |told| told.err = ErrorCode::NOTREADONLY);
    assert!(told > 10 && missed == 0, "{told} told, {missed} missed");
}

#[test]
fn what_a_reader_is_shown_is_compared() {
    let shown = |record: &Record, call: &Call| {
        let told = call.told().unwrap();
        let is_data = call.op == OpCode::GetData && told.err.is_ok() && !told.body.is_empty();
        let is_agreed = record.order.contains_key(&told.zxid) || told.zxid == Zxid::ZERO;
        call.read_only && is_data && is_agreed
    };
    let (told, missed) = lies(shown, |told| {
        let last = told.body.len() - 1;
        told.body[last] ^= 1;
    });
    assert!(told > 5 && missed == 0, "{told} told, {missed} missed");
}

/// Only one server knew the session that is closed: a closing without a place is right for such a one alone.
#[test]
fn a_session_of_all_servers_that_is_closed_without_a_place_is_found() {
    let mut count = 0;
    for truth in truths() {
        for (place, call) in truth.history.calls.iter().enumerate() {
            let Some(told) = call.told().filter(|_| call.op == OpCode::CloseSession) else { continue };
            if !told.err.is_ok() || !truth.order.contains_key(&told.zxid) || place % 5 != 0 {
                continue;
            }
            let mut lie = truth.clone();
            lie.order.remove(&told.zxid);
            assert!(verdict(&lie).is_err());
            count += 1;
        }
    }
    assert!(count > 3, "{count}");
}
