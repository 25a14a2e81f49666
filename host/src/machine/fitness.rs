//! Whether this node's component and profile are those that the cluster's genesis entry records. Compares and explains; what
//! follows from the answer is the caller's.

use crate::codec::Genesis;
use crate::guest::{Component, Limits};
use crate::types::hex;

/// Version of what fuel, limits and verdicts mean. Raised when a change would let two builds disagree on an outcome, so also with the
/// version of wasmtime: the size of its frames says where a recursion ends.
pub const SEMANTICS: u32 = 3;

/// The genesis entry of a new cluster that runs `component`. `source_hash` is the BLAKE3 of the file it was encoded from.
pub fn genesis_of(cluster_id: [u8; 16], component: &Component, source_hash: [u8; 32]) -> Genesis {
    Genesis {
        cluster_id: cluster_id.to_vec().into(),
        component_hash: component.hash().to_vec().into(),
        source_hash: source_hash.to_vec().into(),
        semantics: SEMANTICS,
        limits_json: limits_json(component.engine().limits()),
    }
}

/// A profile's limits as genesis entries and join offers carry them.
fn limits_json(limits: &Limits) -> String {
    serde_json::to_string(limits).expect("limits are numbers")
}

/// The limits of a profile that this build can run. `Err` says what differs and what mends it.
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

/// `Err` says what differs and what mends it.
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

    /// A node that leaves a limit out of account comes to other outcomes than those that keep it.
    #[test]
    fn a_profile_with_a_limit_that_this_build_does_not_know_is_refused() {
        let known = limits_json(&Limits::default());
        let refusal =
            limits_of(&profile(known.replacen('{', "{\"stars_max\":7,", 1))).expect_err("nobody keeps that limit");
        assert!(refusal.contains("unknown field `stars_max`"), "{refusal}");
        assert!(refusal.contains("run the version that the cluster runs"), "{refusal}");
    }
}
