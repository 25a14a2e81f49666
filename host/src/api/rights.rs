//! Which right a method needs. The table has each RPC of the host's own services; a test compares
//! it with their descriptors, and with `rights.txt`, which says what each role may do. The guest's
//! methods need a right by their kind. Decides about no caller.

use lockstep_contract::{Contract, Kind};

use crate::trust::Right::{self, Administer, Look, Operate};

/// RaftManager, and RaftAdmin, its older name. What only reads is for operators, and what changes
/// the cluster for administrators. A snapshot changes nothing for others.
const MANAGER: &[(&str, Right)] = &[
    ("AddNonvoter", Administer),
    ("AddVoter", Administer),
    ("AppliedIndex", Operate),
    ("ApplyLog", Administer),
    ("Await", Operate),
    ("Barrier", Administer),
    ("DemoteVoter", Administer),
    ("Forget", Operate),
    ("GetConfiguration", Operate),
    ("LastContact", Operate),
    ("LastIndex", Operate),
    ("Leader", Operate),
    ("LeadershipTransfer", Administer),
    ("LeadershipTransferToServer", Administer),
    ("RemoveServer", Administer),
    ("Shutdown", Administer),
    ("Snapshot", Operate),
    ("State", Operate),
    ("Stats", Operate),
    ("VerifyLeader", Operate),
];

/// All host services, with their methods.
const SERVICES: &[(&str, &[(&str, Right)])] = &[
    ("RaftManager", MANAGER),
    ("RaftAdmin", MANAGER),
    (
        "lockstep.v1.Admin",
        &[
            ("Backup", Operate),
            ("ImportRows", Administer),
            ("LogEntries", Operate),
            ("Profile", Operate),
            ("PutComponent", Administer),
            ("Raise", Administer),
            ("ReadOnly", Administer),
            ("Resync", Administer),
            ("Rollback", Administer),
            ("SetLogTime", Administer),
            ("SetProfile", Administer),
            ("Status", Operate),
            ("Upgrade", Administer),
        ],
    ),
    ("grpc.health.v1.Health", &[("Check", Look), ("Watch", Look)]),
    ("grpc.reflection.v1.ServerReflection", &[("ServerReflectionInfo", Look)]),
    ("grpc.reflection.v1alpha.ServerReflection", &[("ServerReflectionInfo", Look)]),
];

/// What is known of a method before its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) right: Right,
    /// Whether a call may last longer than its caller's right.
    pub(super) is_long: bool,
}

/// Returns what a method needs, by its name `package.Service/Method`. A method that nobody serves
/// needs the least right, so that its caller learns that.
pub(super) fn of(method: &str, guest: Option<&Contract>) -> Known {
    if let Some(right) = of_host(method) {
        return Known { right, is_long: true };
    }
    let kind = guest.and_then(|guest| guest.method(method)).map(|method| method.kind);
    match kind {
        Some(Kind::Command) => Known { right: Right::Command, is_long: false },
        Some(Kind::Query) => Known { right: Right::Query, is_long: false },
        Some(Kind::Watch) => Known { right: Right::Query, is_long: true },
        None => Known { right: Look, is_long: false },
    }
}

fn of_host(method: &str) -> Option<Right> {
    let (service, method) = method.split_once('/')?;
    let (_, methods) = SERVICES.iter().find(|(name, _)| *name == service)?;
    methods.iter().find(|(name, _)| *name == method).map(|(_, right)| *right)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "rights_tests.rs"]
mod tests;
