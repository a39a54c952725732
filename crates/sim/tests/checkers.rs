//! The checkers are checked: histories that real runs made pass, and every single lie in one is found.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use oxkeeper_proto::{ErrorCode, OpCode, Zxid};
use oxkeeper_sim::history::{Outcome, Seen};
use oxkeeper_sim::observer::Violation;
use oxkeeper_sim::{Profile, Record, checker, record, watches};

fn verdict(record: &Record) -> Result<(), Violation> {
    let replayed = checker::verify(&record.history, &record.order, &record.rules)?;
    watches::verify(&record.history, &replayed).map(|_| ())
}

/// Histories of one server and of several, with watches in them.
fn truths() -> Vec<Record> {
    let made = [(1, Profile::Calm), (2, Profile::Calm), (3, Profile::Watch), (4, Profile::CalmEnsemble)];
    made.into_iter().map(|(seed, profile)| record(seed, profile)).collect()
}

/// Tries a lie at every place that has one; gives how many were told and which were not found.
fn lies(truth: &Record, lie: impl Fn(&mut Record, usize) -> bool) -> (usize, Vec<usize>) {
    let places = truth.history.calls.len().max(truth.history.sights.len()).max(truth.order.len());
    let (mut told, mut missed) = (0, Vec::new());
    // A part of all places, spread over the whole: each costs a check of everything.
    for place in (0..places).step_by(places / 60 + 1) {
        let mut record = truth.clone();
        if lie(&mut record, place) {
            told += 1;
            if verdict(&record).is_ok() {
                missed.push(place);
            }
        }
    }
    (told, missed)
}

fn assert_found(what: &str, lie: impl Fn(&mut Record, usize) -> bool) {
    let mut all = 0;
    for (number, truth) in truths().iter().enumerate() {
        assert_eq!(verdict(truth), Ok(()), "history {number} is true");
        let (told, missed) = lies(truth, &lie);
        assert_eq!(missed, Vec::<usize>::new(), "{what}, in history {number}");
        all += told;
    }
    assert!(all > 20, "{what}: only {all} places");
}

/// The reply to a call, where that has one with a place in the order.
fn told(record: &mut Record, place: usize) -> Option<(OpCode, &mut oxkeeper_sim::history::Told)> {
    let call = record.history.calls.get_mut(place)?;
    let op = call.op;
    match &mut call.result {
        Outcome::Told(told) if told.zxid.0 > 0 => Some((op, told)),
        _ => None,
    }
}

#[test]
fn a_changed_byte_in_a_reply_is_found() {
    assert_found("a changed byte", |record, place| {
        let Some((op, told)) = told(record, place) else { return false };
        // Names have no order, so a change of one may be another truth only if it makes the same set: never here.
        let last = told.body.len();
        if last == 0 || matches!(op, OpCode::AddWatch) {
            return false;
        }
        told.body[last / 2] ^= 1;
        true
    });
}

#[test]
fn another_error_is_found() {
    assert_found("another error", |record, place| {
        let Some((op, told)) = told(record, place) else { return false };
        // These answer to the check of watches, which a lie about success concerns in another way.
        if matches!(op, OpCode::AddWatch | OpCode::SetWatches2) {
            return false;
        }
        told.err = if told.err.is_ok() { ErrorCode::NOTEMPTY } else { ErrorCode::OK };
        true
    });
}

#[test]
fn a_write_that_is_not_in_the_order_is_found() {
    assert_found("a lost write", |record, place| {
        let Some((op, told)) = told(record, place) else { return false };
        let zxid = told.zxid;
        checker::is_write(op) && record.order.remove(&zxid).is_some()
    });
}

#[test]
fn a_write_told_at_another_place_is_found() {
    assert_found("another place", |record, place| {
        let Some((op, told)) = told(record, place) else { return false };
        told.zxid = Zxid(told.zxid.0 + 1);
        checker::is_write(op)
    });
}

#[test]
fn a_stale_read_is_found_where_reads_must_be_fresh() {
    for truth in truths().iter().filter(|truth| truth.rules.reads_are_fresh) {
        let (told, missed) = lies(truth, |record, place| {
            let newest = record.history.calls[..place.min(record.history.calls.len())]
                .iter()
                .filter(|call| checker::is_write(call.op))
                .filter_map(|call| Some((call.told()?.at, call.told()?.zxid)))
                .collect::<Vec<_>>();
            let Some(call) = record.history.calls.get_mut(place) else { return false };
            let invoked = call.invoked;
            let before = newest.iter().filter(|(at, _)| *at < invoked).map(|(_, zxid)| *zxid).max();
            match (&mut call.result, before) {
                (Outcome::Told(told), Some(before)) if call.op == OpCode::GetData && told.zxid >= before => {
                    told.zxid = Zxid(before.0 - 1);
                    true
                }
                _ => false,
            }
        });
        assert!(told > 0 && missed.is_empty(), "{told} told, missed {missed:?}");
    }
}

#[test]
fn an_event_that_is_missing_doubled_or_another_is_found() {
    let is_followed = |record: &Record, place: usize| {
        let sights = &record.history.sights;
        let Some(own) = sights.get(place) else { return false };
        // Only a later reply on the same connection says that it had to be there.
        let is_event = matches!(&own.seen, Seen::Event { zxid, .. } if zxid.0 > 0);
        is_event
            && sights[place + 1..].iter().any(|later| {
                (later.client, later.conn) == (own.client, own.conn)
                    && matches!(&later.seen, Seen::Reply(index)
                        if record.history.calls[*index].told().is_some_and(|told| told.zxid.0 > 0))
            })
    };
    let mut all = [0; 3];
    for truth in &truths() {
        let events: Vec<usize> =
            (0..truth.history.sights.len()).filter(|place| is_followed(truth, *place)).collect();
        for place in events.iter().step_by(events.len() / 30 + 1) {
            for (kind, count) in all.iter_mut().enumerate() {
                let mut record = truth.clone();
                let sights = &mut record.history.sights;
                match kind {
                    0 => drop(sights.remove(*place)),
                    1 => sights.insert(*place, sights[*place].clone()),
                    _ => {
                        if let Seen::Event { path, .. } = &mut sights[*place].seen {
                            path.push('x');
                        }
                    }
                }
                *count += 1;
                assert!(
                    verdict(&record).is_err(),
                    "event {place}, lie {kind}: {:?}",
                    truth.history.sights[*place]
                );
            }
        }
    }
    assert!(all.iter().all(|count| *count > 10), "{all:?}");
}
