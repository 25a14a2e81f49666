//! What a component says about its state: the collections that its section describes, and the types
//! that its descriptor has. Nothing of the component is compiled or run.

use lockstep_contract::Contract;
use prost_reflect::DescriptorPool;

use super::shape::{Collection, collections};
use crate::cli::guest::state_lock;
use crate::guest::Component;
use crate::types::hex;

/// What a component says about its state.
#[derive(Debug)]
pub(super) struct Described {
    /// BLAKE3 hash of the component.
    pub(super) hash: [u8; 32],
    /// The version that it declares; empty if it declares none.
    pub(super) version: String,
    /// In the order of their tags. Empty if the guest describes no state.
    pub(super) collections: Vec<Collection>,
}

impl Described {
    /// Reads what an encoded component says.
    pub(super) fn new(encoded: &[u8]) -> anyhow::Result<Described> {
        let checked = Component::check(encoded)?;
        let contract = Contract::new(checked.descriptor.as_deref(), checked.has_watcher)?;
        let pool = DescriptorPool::decode(contract.encoded())?;
        let state = state_lock::find(encoded)?;
        let collections = state.map(|state| collections(&state, &pool)).unwrap_or_default();
        Ok(Described { hash: *blake3::hash(encoded).as_bytes(), version: checked.version, collections })
    }

    pub(super) fn hash_text(&self) -> String {
        hex(&self.hash)
    }
}
