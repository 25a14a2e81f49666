//! What a node says about a rollback before it is decided, and what speaks against one. Every
//! number has its unit in its name. It runs nothing.

use serde::{Deserialize, Serialize};

use crate::machine::rehearsal::agreement::grouped;
use crate::machine::rehearsal::report::AnswerDifference;

/// What a node's shadow found. It travels as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RollbackReport {
    /// The entry of the change.
    pub change_index: u64,
    /// The last entry that the component before the change has run, or the one that was asked for.
    pub index: u64,
    /// The rolling hash behind that entry, in hex. It must be equal on all nodes. Empty if it is
    /// not known any more.
    pub hash: String,
    /// Commands that the component before the change has run.
    pub commands: u64,
    /// How many of them it answers differently than clients were told.
    pub different: u64,
    /// The first of those. `old` is what clients were told, `new` is what the component before the
    /// change answers.
    pub differences: Vec<AnswerDifference>,
    /// How long this took.
    pub elapsed_ms: u64,
}

/// Returns what speaks against a rollback, in words. Each report comes with the name of its node,
/// and all are of one entry.
pub fn objections(reports: &[(String, RollbackReport)]) -> Vec<String> {
    let found = grouped(reports.iter().map(|(node, report)| (report.hash.as_str(), node.as_str())));
    let unknown = found.iter().find(|(hash, _)| hash.is_empty()).map(|(_, nodes)| nodes.join(", "));
    if let Some(nodes) = unknown {
        return vec![format!("the entries go by faster than they can be compared on {nodes}; run this again")];
    }
    if found.len() < 2 {
        return Vec::new();
    }
    let each = found.iter().map(|(hash, nodes)| format!("{hash} on {}", nodes.join(", ")));
    let index = reports.first().map_or(0, |(_, report)| report.index);
    let each = each.collect::<Vec<_>>().join("; ");
    vec![format!("the state that the rollback makes is not equal on all nodes: at entry {index} its hash is {each}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(hashes: [&str; 3]) -> Vec<String> {
        let report = |hash: &str| RollbackReport { index: 9, hash: hash.into(), ..RollbackReport::default() };
        let names = ["a", "b", "c"].map(str::to_owned);
        objections(&names.into_iter().zip(hashes.map(report)).collect::<Vec<_>>())
    }

    #[test]
    fn a_node_with_another_state_is_named() {
        assert_eq!(of(["1f", "1f", "1f"]), Vec::<String>::new());
        assert_eq!(
            of(["1f", "2e", "1f"]),
            ["the state that the rollback makes is not equal on all nodes: at entry 9 its hash is 1f on a, c; 2e on b"]
        );
        assert!(of(["1f", "", "1f"])[0].contains("faster than they can be compared on b"));
    }
}
