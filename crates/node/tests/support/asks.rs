//! What clients of ensembles ask, and a story that holds wherever they ask it.

use oxkeeper_proto::{AclList, Create, ErrorCode, OpCode, Request};

use super::Ensemble;

pub const OK: ErrorCode = ErrorCode::OK;

/// The creation of a znode without data that is open to everybody.
pub fn create(path: &str, flags: i32) -> Request<'_> {
    let acl = Some(AclList::OPEN);
    Request::Create(Create { op: OpCode::Create, path: path.into(), data: None, acl, flags, ttl: -1 })
}

pub fn exists(path: &str) -> Request<'_> {
    Request::Exists { path: path.into(), watch: false }
}

pub fn sync() -> Request<'static> {
    Request::Sync { path: Some("/".into()) }
}

impl Ensemble {
    /// Of two clients one goes on asking and the other falls silent: that one's session ends, with its ephemeral, and is not
    /// taken up again at a third place.
    #[track_caller]
    pub fn assert_silence_ends_a_session(&mut self, [loud, silent, elsewhere]: [usize; 3], timeout_ms: i32) {
        let (loud, _) = self.client(loud, timeout_ms);
        let (silent, gone) = self.client(silent, timeout_ms);
        assert_eq!(self.ask(loud, 1, &create("/loud", 1)), OK);
        assert_eq!(self.ask(silent, 1, &create("/silent", 1)), OK);
        for xid in 2..12 {
            self.run(200);
            assert_eq!(self.ask(loud, xid, &exists("/loud")), OK);
        }
        assert!(self.is_closed(silent), "its server lets an expired client go");
        assert_eq!(self.ask(loud, 20, &exists("/silent")), ErrorCode::NONODE);
        assert!(!self.reattach(elsewhere, gone, timeout_ms).1, "an expired session is refused");
        self.assert_level();
    }
}
