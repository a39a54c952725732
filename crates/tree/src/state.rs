//! A hash over the whole replicated state, for tests: what the digest leaves out, access control lists and sessions, is in
//! it. Costs as much as a snapshot.

use oxkeeper_planted::{Fault, is};
use oxkeeper_proto::Put;
use oxkeeper_proto::path::CONFIG;

use crate::nodes::Slot;
use crate::tree::Tree;

impl Tree {
    /// A number that tells states apart: equal on all servers that have applied the same transactions. What shows the
    /// ensemble's configuration is left out: no transaction brings the first one.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let mut hash = 0;
        let mut waiting = vec![(Slot::ROOT, "/".to_owned())];
        while let Some((slot, path)) = waiting.pop() {
            waiting.extend(self.nodes.children(slot).map(|(child, _)| (child, self.nodes.path(child))));
            if path == CONFIG {
                continue;
            }
            let mut bytes = Vec::new();
            bytes.put_string(&path);
            bytes.put_buffer(self.nodes.get(slot).data());
            self.stored_stat(slot).encode(&mut bytes);
            if let Some(list) = self.acls.get(self.nodes.get(slot).acl) {
                list.encode(&mut bytes);
            }
            hash = mix(hash, &bytes);
        }
        if !is(Fault::HashWithoutSessions) {
            for (session, timeout_ms) in self.sessions() {
                let mut bytes = Vec::new();
                bytes.put_long(session.0);
                bytes.put_int(timeout_ms);
                hash = mix(hash, &bytes);
            }
        }
        hash
    }
}

/// Adds a part; the order of parts does not matter.
fn mix(sum: u64, bytes: &[u8]) -> u64 {
    let low = u64::from(crc32fast::hash(bytes));
    let high = u64::from(crc32fast::hash(&[bytes, b"again"].concat()));
    sum.wrapping_add((high << 32 | low).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
