//! The numbers of the protocol that name things: operations, errors, events, permissions.
//!
//! Source: `ZooDefs.OpCode`, `KeeperException.Code`, `Watcher.Event`, `ZooDefs.Perms`, 3.9.

use std::fmt;

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in the order of its declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The kind that `number` names, if it names one.
            #[must_use]
            #[inline]
            pub const fn from_number(number: i32) -> Option<$name> {
                match number { $($number => Some($name::$variant),)+ _ => None }
            }

            /// The number on the wire.
            #[must_use]
            #[inline]
            pub const fn number(self) -> i32 {
                match self { $($name::$variant => $number),+ }
            }
        }
    };
}

numbered! {
    /// What a request asks, and what kind a transaction is of.
    OpCode {
        /// In a reply: a watch event.
        Notification = 0,
        /// Make a znode.
        Create = 1,
        /// Remove a znode.
        Delete = 2,
        /// Read a stat.
        Exists = 3,
        /// Read data and stat.
        GetData = 4,
        /// Replace data.
        SetData = 5,
        /// Read the access control list.
        GetAcl = 6,
        /// Replace the access control list.
        SetAcl = 7,
        /// Read the names of the children.
        GetChildren = 8,
        /// Catch up with the leader.
        Sync = 9,
        /// Keep the session alive.
        Ping = 11,
        /// Read the names of the children and the stat.
        GetChildren2 = 12,
        /// Test a version, inside a multi.
        Check = 13,
        /// Writes that happen all or none.
        Multi = 14,
        /// Make a znode and read its stat.
        Create2 = 15,
        /// Change the ensemble's membership.
        Reconfig = 16,
        /// Ask whether a watch is set.
        CheckWatches = 17,
        /// Remove watches.
        RemoveWatches = 18,
        /// Make a container.
        CreateContainer = 19,
        /// Remove an empty container or an expired TTL znode; servers only.
        DeleteContainer = 20,
        /// Make a znode with a time to live.
        CreateTtl = 21,
        /// Several reads in one request.
        MultiRead = 22,
        /// Add an identity to the connection.
        Auth = 100,
        /// Set watches again after a reconnect.
        SetWatches = 101,
        /// A step of a SASL exchange.
        Sasl = 102,
        /// List the session's ephemerals.
        GetEphemerals = 103,
        /// Count all descendants.
        GetAllChildrenNumber = 104,
        /// As `SetWatches`, with persistent watches.
        SetWatches2 = 105,
        /// Set a persistent watch.
        AddWatch = 106,
        /// List the connection's identities.
        WhoAmI = 107,
        /// Open a session; servers only.
        CreateSession = -10,
        /// Close the session.
        CloseSession = -11,
        /// A transaction that failed and still took a zxid.
        Error = -1,
    }
}

/// The result of an operation, as it travels in replies and error transactions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub i32);

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal),+ $(,)?) => {
        impl ErrorCode {
            $($(#[$doc])* pub const $name: ErrorCode = ErrorCode($number);)+

            /// Every code that ZooKeeper names.
            pub const ALL: &'static [(ErrorCode, &'static str)] =
                &[$((ErrorCode::$name, stringify!($name))),+];

            /// ZooKeeper's name of the code.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)+ _ => None }
            }
        }
    };
}

error_codes! {
    /// It worked.
    OK = 0,
    /// In a multi: an operation after the one that failed.
    RUNTIMEINCONSISTENCY = -2,
    /// Reserved; servers never send it.
    DATAINCONSISTENCY = -3,
    /// Client side: the connection broke, the outcome is unknown.
    CONNECTIONLOSS = -4,
    /// The request could not be read.
    MARSHALLINGERROR = -5,
    /// The server does not do that.
    UNIMPLEMENTED = -6,
    /// Client side: no answer in time.
    OPERATIONTIMEOUT = -7,
    /// A malformed path, flag or time to live.
    BADARGUMENTS = -8,
    /// The session is not known.
    UNKNOWNSESSION = -12,
    /// Reconfiguration: no quorum of the new configuration is in sync.
    NEWCONFIGNOQUORUM = -13,
    /// Another reconfiguration is under way.
    RECONFIGINPROGRESS = -14,
    /// The znode is not there.
    NONODE = -101,
    /// The identities of the connection do not allow it.
    NOAUTH = -102,
    /// The version is another.
    BADVERSION = -103,
    /// Ephemerals have no children.
    NOCHILDRENFOREPHEMERALS = -108,
    /// The znode is there already.
    NODEEXISTS = -110,
    /// The znode has children.
    NOTEMPTY = -111,
    /// The session is over.
    SESSIONEXPIRED = -112,
    /// Client side.
    INVALIDCALLBACK = -113,
    /// The access control list is malformed.
    INVALIDACL = -114,
    /// Authentication failed.
    AUTHFAILED = -115,
    /// The session has moved to another server.
    SESSIONMOVED = -118,
    /// A write on a server that only reads.
    NOTREADONLY = -119,
    /// An ephemeral on a local session.
    EPHEMERALONLOCALSESSION = -120,
    /// No such watch.
    NOWATCHER = -121,
    /// Client side: no answer in time.
    REQUESTTIMEOUT = -122,
    /// Reconfiguration is switched off.
    RECONFIGDISABLED = -123,
    /// The session has to authenticate first.
    SESSIONCLOSEDREQUIRESASLAUTH = -124,
    /// A hard quota would be exceeded.
    QUOTAEXCEEDED = -125,
    /// The request waited too long in the throttle.
    THROTTLEDOP = -127,
}

impl ErrorCode {
    /// Whether it is [`ErrorCode::OK`].
    #[must_use]
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name}({})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

numbered! {
    /// What a watch event tells.
    EventType {
        /// A change of the session's own state.
        None = -1,
        /// The znode was made.
        NodeCreated = 1,
        /// The znode was removed.
        NodeDeleted = 2,
        /// Its data changed.
        NodeDataChanged = 3,
        /// A child was made or removed.
        NodeChildrenChanged = 4,
    }
}

/// The state that the server puts into every event: connected.
pub const STATE_SYNC_CONNECTED: i32 = 3;

/// Permission bits of an access control list.
pub mod perms {
    /// Read data, stat and children.
    pub const READ: i32 = 1;
    /// Replace the data.
    pub const WRITE: i32 = 2;
    /// Make children.
    pub const CREATE: i32 = 4;
    /// Remove children.
    pub const DELETE: i32 = 8;
    /// Replace the list itself.
    pub const ADMIN: i32 = 16;
    /// All five.
    pub const ALL: i32 = 31;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_one_kind_each() {
        for op in OpCode::ALL {
            assert_eq!(OpCode::from_number(op.number()), Some(*op));
        }
        assert_eq!(OpCode::from_number(10), None);
        for (code, name) in ErrorCode::ALL {
            assert_eq!(code.name(), Some(*name));
        }
    }
}
