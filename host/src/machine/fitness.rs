//! Compares this node's component and limits with those that the cluster's genesis entry records,
//! and explains a difference. The caller decides what to do about it.

use crate::codec::Genesis;
use crate::guest::{Component, Limits};
use crate::types::hex;

/// Version of the meaning of fuel, limits and verdicts. It is raised with every change that could
/// make two builds disagree on an outcome. A new version of wasmtime is such a change: the size of
/// its stack frames decides where a recursion ends.
pub const SEMANTICS: u32 = 3;

/// Makes the genesis entry of a new cluster that runs `component`. `source_hash` is the BLAKE3 hash
/// of the file from which the component was encoded.
pub fn genesis_of(cluster_id: [u8; 16], component: &Component, source_hash: [u8; 32]) -> Genesis {
    Genesis {
        cluster_id: cluster_id.to_vec().into(),
        component_hash: component.hash().to_vec().into(),
        source_hash: source_hash.to_vec().into(),
        semantics: SEMANTICS,
        limits_json: limits_json(component.engine().limits()),
    }
}

/// Encodes limits as genesis entries and join offers carry them.
fn limits_json(limits: &Limits) -> String {
    serde_json::to_string(limits).expect("limits are numbers")
}

/// Returns the limits of a profile if this build can run it. An error says what differs and how to
/// repair that.
pub fn limits_of(genesis: &Genesis) -> Result<Limits, String> {
    if genesis.semantics != SEMANTICS {
        return Err(format!(
            "the cluster's profile has semantics {}, this build of Lockstep has {SEMANTICS}; run the version that the cluster runs",
            genesis.semantics
        ));
    }
    serde_json::from_str(&genesis.limits_json).map_err(|error| {
        format!("the cluster's limits cannot be read ({error}); run the version that the cluster runs")
    })
}

/// Checks that `component` and its limits are those of `genesis`. An error says what differs and
/// how to repair that.
pub(crate) fn check(genesis: &Genesis, component: Option<&Component>) -> Result<(), String> {
    let limits = limits_of(genesis)?;
    let wanted = hex(&genesis.component_hash);
    let Some(component) = component else {
        return Err(format!(
            "the cluster runs component {wanted} and this node has none; start it with --fsm and that component"
        ));
    };
    let found = component.hash();
    if found.as_slice() != genesis.component_hash.as_ref() {
        let found = hex(&found);
        return Err(format!(
            "the cluster runs component {wanted}, this node has {found}; start it without --fsm, or with --fsm and the cluster's component"
        ));
    }
    if limits != *component.engine().limits() {
        return Err(format!(
            "the cluster's limits are {}, this node runs with {}; start it with the cluster's limits",
            genesis.limits_json,
            limits_json(component.engine().limits())
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(limits_json: String) -> Genesis {
        Genesis { semantics: SEMANTICS, limits_json, ..Genesis::default() }
    }

    #[test]
    fn a_profile_is_read_as_it_was_written() {
        assert_eq!(limits_of(&profile(limits_json(&Limits::default()))), Ok(Limits::default()));
    }

    /// A node that ignores a limit would compute other outcomes than the nodes that enforce it.
    #[test]
    fn a_profile_with_a_limit_that_this_build_does_not_know_is_refused() {
        let known = limits_json(&Limits::default());
        let refusal =
            limits_of(&profile(known.replacen('{', "{\"stars_max\":7,", 1))).expect_err("nobody keeps that limit");
        assert!(refusal.contains("unknown field `stars_max`"), "{refusal}");
        assert!(refusal.contains("run the version that the cluster runs"), "{refusal}");
    }
}
