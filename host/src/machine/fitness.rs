//! Compares this node's component and limits with those that the cluster's genesis entry records,
//! and explains a difference. The caller decides what to do about it.

use super::semantics::SemanticsRange;
use crate::codec::Genesis;
pub use crate::guest::SEMANTICS;
use crate::guest::{Component, Limits};
use crate::types::hex;

/// Makes the genesis entry of a new cluster that runs `component`. `source_hash` is the BLAKE3 hash
/// of the file from which the component was encoded.
pub fn genesis_of(cluster_id: [u8; 16], component: &Component, source_hash: [u8; 32]) -> Genesis {
    Genesis {
        cluster_id: cluster_id.to_vec().into(),
        component_hash: component.hash().to_vec().into(),
        source_hash: source_hash.to_vec().into(),
        semantics: component.engine().limits().semantics,
        limits_json: limits_json(component.engine().limits()),
    }
}

/// Encodes limits as genesis entries and join offers carry them.
pub fn limits_json(limits: &Limits) -> String {
    serde_json::to_string(limits).expect("limits are numbers")
}

/// Returns the limits of a profile if this build can run it. An error says what differs and how to
/// repair that.
pub fn limits_of(genesis: &Genesis) -> Result<Limits, String> {
    let range = SemanticsRange::of_this_build();
    if !range.holds(genesis.semantics) {
        let advice = match genesis.semantics > range.newest {
            true => "run a newer build, such as the leader's",
            false => "run an earlier build, and raise the number there: lockstep admin <addr> raise",
        };
        return Err(format!(
            "the cluster's profile has semantics {}, this build of Lockstep has {range}; {advice}",
            genesis.semantics
        ));
    }
    let limits: Limits = serde_json::from_str(&genesis.limits_json).map_err(|error| {
        format!("the cluster's limits cannot be read ({error}); run the version that the cluster runs")
    })?;
    Ok(Limits { semantics: genesis.semantics, ..limits })
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
    let compiled_for = component.engine().limits().semantics;
    if limits.semantics != compiled_for {
        let semantics = limits.semantics;
        return Err(format!(
            "the cluster's profile has semantics {semantics}, and this node's component was compiled for {compiled_for}; \
             start the node again"
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

    /// The profile that a node of 0.1.0 recorded.
    const OF_SEMANTICS_3: &str = "{\"fuel_per_command\":100000000,\"fuel_per_entry\":400000000,\"fuel_per_query\":1000000000,\
        \"fuel_per_instantiation\":20000000,\"fuel_per_snapshot\":100000000000000,\"query_deadline_ms\":5000,\
        \"memory_bytes_max\":67108864,\"wasm_stack_bytes\":2097152,\"table_elements_max\":65536,\"key_bytes_max\":4096,\
        \"value_bytes_max\":1048576,\"write_bytes_per_command_max\":8388608,\"store_calls_max\":100000,\
        \"store_bytes_max\":67108864,\"keys_removed_max\":100000,\"reply_bytes_max\":4128768,\
        \"watch_replies_bytes_max\":16777216,\"watch_memo_bytes_max\":4096,\"status_message_bytes_max\":1024,\
        \"status_details_bytes_max\":4096,\"snapshot_chunk_bytes_max\":1048576,\"log_bytes_max\":65536}";

    #[test]
    fn a_cluster_of_an_earlier_build_keeps_its_own_limits() {
        let genesis = Genesis { semantics: 3, ..profile(OF_SEMANTICS_3.into()) };
        let free =
            Limits { semantics: 3, fuel_per_reply_byte: 0, reply_bytes_per_entry_max: u64::MAX, ..Limits::default() };
        assert_eq!(limits_of(&genesis), Ok(free));
    }

    /// The same limits mean something else: in 5 the guest's own code meters its depth.
    #[test]
    fn limits_keep_the_semantics_of_their_profile() {
        let json = limits_json(&Limits { semantics: 4, ..Limits::default() });
        assert_eq!(json, limits_json(&Limits::default()), "the profile has it beside the limits");
        let genesis = Genesis { semantics: 4, ..profile(json) };
        assert_eq!(limits_of(&genesis).map(|limits| limits.semantics), Ok(4));
        assert_ne!(limits_of(&genesis), Ok(Limits::default()));
    }

    #[test]
    fn other_semantics_are_refused_with_what_this_build_has() {
        for semantics in [SemanticsRange::of_this_build().oldest - 1, SEMANTICS + 1] {
            let genesis = Genesis { semantics, ..profile(limits_json(&Limits::default())) };
            let refusal = limits_of(&genesis).expect_err("nobody knows what it means");
            assert!(refusal.contains(&format!("has semantics {semantics}, this build")), "{refusal}");
        }
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
