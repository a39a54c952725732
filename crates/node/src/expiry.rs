//! The leader's own knowledge of sessions: when each was last heard of, whose connection it is, whether it
//! is closing. Not replicated; after a start every session gets its full timeout again.
//!
//! Sessions expire in buckets of one tick: never before their timeout, at most one tick after. Touching one
//! only notes a time; the bucket is looked at when it is due. Source: `SessionTrackerImpl`, `ExpiryQueue`.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use oxkeeper_proto::SessionId;
use oxkeeper_tree::{Map, Seeded};
use oxkeeper_zab::LinkId;
use slab::Slab;

use crate::effects::ConnId;

/// A session's place in the table; stays the same while the session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(usize);

/// What is known of one session.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) session: SessionId,
    pub(crate) timeout_ms: i64,
    heard_ms: i64,
    /// The bucket in which it will be looked at next.
    queued: i64,
    /// Its connection at this server.
    pub(crate) conn: Option<ConnId>,
    /// Its last connection came from here.
    pub(crate) address: Option<IpAddr>,
    /// Closing is proposed: nothing may touch it any more.
    pub(crate) closing: bool,
    /// Of a leader: which server's connection it is.
    pub(crate) owner: Owner,
    /// Whether no other server knows it.
    pub(crate) is_local: bool,
}

/// Whose connection a session is, as a leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Whoever writes first.
    Nobody,
    /// This server's.
    Here,
    /// A learner's.
    Learner(LinkId),
}

/// All sessions, by expiry.
#[derive(Debug)]
pub(crate) struct Expiry {
    tick_ms: i64,
    sessions: Slab<Tracked>,
    keys: Map<SessionId, usize>,
    buckets: BTreeMap<i64, Vec<SessionId>>,
}

impl Expiry {
    pub(crate) fn new(tick_ms: i64, seed: u64) -> Expiry {
        Expiry {
            tick_ms: tick_ms.max(1),
            sessions: Slab::new(),
            keys: Map::with_hasher(Seeded::new(seed)),
            buckets: BTreeMap::new(),
        }
    }

    /// The boundary after `at_ms`, as all servers round it.
    fn bucket(&self, at_ms: i64) -> i64 {
        (at_ms / self.tick_ms + 1) * self.tick_ms
    }

    pub(crate) fn track(&mut self, session: SessionId, timeout_ms: i64, now_ms: i64) -> Key {
        if let Some(key) = self.keys.get(&session) {
            return Key(*key);
        }
        let queued = self.bucket(now_ms + timeout_ms);
        let tracked = Tracked {
            session,
            timeout_ms,
            heard_ms: now_ms,
            queued,
            conn: None,
            address: None,
            closing: false,
            owner: Owner::Nobody,
            is_local: false,
        };
        let key = self.sessions.insert(tracked);
        self.keys.insert(session, key);
        self.buckets.entry(queued).or_default().push(session);
        Key(key)
    }

    pub(crate) fn key(&self, session: SessionId) -> Option<Key> {
        self.keys.get(&session).map(|key| Key(*key))
    }

    pub(crate) fn get(&self, key: Key) -> Option<&Tracked> {
        self.sessions.get(key.0)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Tracked> {
        self.sessions.get_mut(key.0)
    }

    /// Notes that a session was heard of then; false if it is unknown, another, or closing.
    #[inline]
    pub(crate) fn touch(&mut self, key: Key, session: SessionId, heard_ms: i64) -> bool {
        match self.sessions.get_mut(key.0) {
            Some(tracked) if tracked.session == session && !tracked.closing => {
                tracked.heard_ms = tracked.heard_ms.max(heard_ms);
                true
            }
            _ => false,
        }
    }

    /// A global session and its timeout, if it was heard of since a time and is not closing.
    pub(crate) fn heard_since(&self, key: Key, since_ms: i64) -> Option<(SessionId, i64)> {
        let tracked = self.sessions.get(key.0)?;
        let is_told = tracked.heard_ms >= since_ms && !tracked.closing && !tracked.is_local;
        is_told.then_some((tracked.session, tracked.timeout_ms))
    }

    /// Gives a session another timeout, from now on.
    pub(crate) fn retime(&mut self, key: Key, timeout_ms: i64, now_ms: i64) {
        let bucket = self.bucket(now_ms + timeout_ms);
        let Some(tracked) = self.sessions.get_mut(key.0) else { return };
        tracked.timeout_ms = timeout_ms;
        tracked.heard_ms = now_ms;
        if bucket < tracked.queued {
            tracked.queued = bucket;
            self.buckets.entry(bucket).or_default().push(tracked.session);
        }
    }

    pub(crate) fn remove(&mut self, session: SessionId) -> Option<Tracked> {
        let key = self.keys.remove(&session)?;
        Some(self.sessions.remove(key))
    }

    /// When the next bucket is due.
    pub(crate) fn deadline_ms(&self) -> Option<i64> {
        self.buckets.keys().next().copied()
    }

    /// Sessions that have not been heard of for longer than their timeout. From now on they are closing.
    pub(crate) fn due(&mut self, now_ms: i64, out: &mut VecDeque<SessionId>) {
        self.take_due(now_ms, false, out);
    }

    /// The same for a server that is not the one to end global sessions.
    pub(crate) fn due_locals(&mut self, now_ms: i64, out: &mut VecDeque<SessionId>) {
        self.take_due(now_ms, true, out);
    }

    fn take_due(&mut self, now_ms: i64, only_local: bool, out: &mut VecDeque<SessionId>) {
        while let Some(entry) = self.buckets.first_entry() {
            let boundary = *entry.key();
            if boundary > now_ms {
                return;
            }
            for session in entry.remove() {
                let Some(tracked) = self.keys.get(&session).and_then(|key| self.sessions.get(*key)) else {
                    continue;
                };
                if tracked.queued != boundary || tracked.closing {
                    continue;
                }
                let bucket = self.bucket(tracked.heard_ms + tracked.timeout_ms);
                if only_local && !tracked.is_local {
                    let later = self.bucket(now_ms + tracked.timeout_ms);
                    self.queue(session, later);
                    continue;
                }
                if bucket <= now_ms {
                    if let Some(tracked) = self.keys.get(&session).and_then(|key| self.sessions.get_mut(*key))
                    {
                        tracked.closing = true;
                    }
                    out.push_back(session);
                    continue;
                }
                self.queue(session, bucket);
            }
        }
    }

    fn queue(&mut self, session: SessionId, bucket: i64) {
        if let Some(key) = self.keys.get(&session)
            && let Some(tracked) = self.sessions.get_mut(*key)
        {
            tracked.queued = bucket;
            self.buckets.entry(bucket).or_default().push(session);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions by the boundary at which they would expire if they stayed silent.
    pub(crate) fn by_expiry(&self) -> Vec<(i64, SessionId)> {
        let boundary = |tracked: &Tracked| self.bucket(tracked.heard_ms + tracked.timeout_ms);
        let mut all: Vec<(i64, SessionId)> =
            self.sessions.iter().map(|(_, tracked)| (boundary(tracked), tracked.session)).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(expiry: &mut Expiry, now_ms: i64) -> Vec<i64> {
        let mut out = VecDeque::new();
        expiry.due(now_ms, &mut out);
        out.into_iter().map(|session| session.0).collect()
    }

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        for start in 0..50 {
            for timeout in 1..50 {
                let mut expiry = Expiry::new(10, 1);
                expiry.track(SessionId(1), timeout, start);
                let expired = (start..).find(|now| !due(&mut expiry, *now).is_empty()).unwrap();
                let late = expired - (start + timeout);
                assert!((1..=10).contains(&late), "start {start} timeout {timeout} late {late}");
            }
        }
    }

    #[test]
    fn what_has_waited_counts_from_when_it_came() {
        let mut expiry = Expiry::new(10, 1);
        let key = expiry.track(SessionId(1), 20, 0);
        assert!(expiry.touch(key, SessionId(1), 15));
        assert!(expiry.touch(key, SessionId(1), 8), "looked at later");
        assert!(due(&mut expiry, 39).is_empty());
        assert_eq!(due(&mut expiry, 40), [1]);
    }

    #[test]
    fn touching_moves_it_on_whatever_the_pattern() {
        let mut expiry = Expiry::new(10, 1);
        let key = expiry.track(SessionId(1), 20, 0);
        for now in (0..500).step_by(15) {
            assert!(due(&mut expiry, now).is_empty());
            assert!(expiry.touch(key, SessionId(1), now));
        }
        assert!(due(&mut expiry, 515).is_empty());
        assert_eq!(due(&mut expiry, 520), [1]);
        assert!(due(&mut expiry, 10_000).is_empty(), "expired once");
    }

    #[test]
    fn a_shorter_timeout_counts_at_once() {
        let mut expiry = Expiry::new(10, 1);
        let key = expiry.track(SessionId(1), 1000, 0);
        expiry.retime(key, 20, 5);
        assert!(due(&mut expiry, 25).is_empty());
        assert_eq!(due(&mut expiry, 30), [1]);
        expiry.remove(SessionId(1));
        assert!(due(&mut expiry, 5000).is_empty());
        assert!(!expiry.touch(key, SessionId(1), 0));
    }

    #[test]
    fn closing_sessions_are_left_alone() {
        let mut expiry = Expiry::new(10, 1);
        let key = expiry.track(SessionId(1), 20, 0);
        expiry.get_mut(key).unwrap().closing = true;
        assert!(!expiry.touch(key, SessionId(1), 5));
        assert!(due(&mut expiry, 1000).is_empty());
        assert_eq!(expiry.len(), 1);
    }
}
