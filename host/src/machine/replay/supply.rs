//! The components that a replay may run. It loads the one that a profile names, under the limits of
//! that profile. It opens no file.

use bytes::Bytes;

use crate::codec::Genesis;
use crate::guest::{Component, Engine, Limits};
use crate::machine::fitness::limits_of;
use crate::types::hex;

/// Why a component cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SupplyError {
    /// It was not given.
    #[error(
        "component {hash} is not among those that were given ({known}); give it with --fsm, or the directory components/ of a node with \
         --components"
    )]
    Missing {
        /// The component.
        hash: String,
        /// Those that were given, in words.
        known: String,
    },
    /// It, or its limits, cannot run here.
    #[error("{0}")]
    Unfit(String),
}

/// Encoded components by their content. Clones share the bytes.
#[derive(Clone, Default)]
pub struct Supply {
    encoded: Vec<([u8; 32], Bytes)>,
    /// Those that were loaded. Each holds compiled code in memory; a log names few.
    loaded: Vec<Component>,
}

impl Supply {
    /// Adds an encoded component. One that is there already is not added again.
    pub fn add(&mut self, encoded: Bytes) {
        let hash = *blake3::hash(&encoded).as_bytes();
        if self.encoded.iter().all(|(known, _)| *known != hash) {
            self.encoded.push((hash, encoded));
        }
    }

    /// Loads the component that a profile names. An error says what is missing, and what to do.
    pub fn component(&mut self, profile: &Genesis) -> Result<Component, SupplyError> {
        let limits = limits_of(profile).map_err(SupplyError::Unfit)?;
        let wanted = &profile.component_hash;
        let Some((_, encoded)) = self.encoded.iter().find(|(hash, _)| hash.as_slice() == wanted.as_ref()) else {
            let known: Vec<String> = self.encoded.iter().map(|(hash, _)| hex(hash)).collect();
            let known = if known.is_empty() { "none is".to_owned() } else { format!("there are {}", known.join(", ")) };
            return Err(SupplyError::Missing { hash: hex(wanted), known });
        };
        self.load(&encoded.clone(), &limits).map_err(SupplyError::Unfit)
    }

    /// Loads a component under limits, or takes the one that was loaded so.
    pub fn load(&mut self, encoded: &Bytes, limits: &Limits) -> Result<Component, String> {
        let is_it = |known: &&Component| known.encoded() == encoded && known.engine().limits() == limits;
        if let Some(known) = self.loaded.iter().find(is_it) {
            return Ok(known.clone());
        }
        let cannot = |error: crate::guest::LoadError| format!("the component cannot run here: {error}");
        let engine = Engine::new(limits).map_err(cannot)?;
        let component = Component::load(&engine, encoded).map_err(cannot)?;
        self.loaded.push(component.clone());
        Ok(component)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fitness::{SEMANTICS, limits_json};

    #[test]
    fn a_component_that_was_not_given_is_named() {
        let limits_json = limits_json(&Limits::default());
        let profile =
            Genesis { component_hash: vec![7; 32].into(), semantics: SEMANTICS, limits_json, ..Genesis::default() };
        let mut supply = Supply::default();
        let why = supply.component(&profile).err().map_or_else(String::new, |error| error.to_string());
        assert!(why.contains(&"07".repeat(32)) && why.contains("none is") && why.contains("--components"), "{why}");
        supply.add(Bytes::from_static(b"wasm"));
        supply.add(Bytes::from_static(b"wasm"));
        assert_eq!(supply.encoded.len(), 1);
        let why = supply.component(&profile).err().map_or_else(String::new, |error| error.to_string());
        assert!(why.contains(&hex(blake3::hash(b"wasm").as_bytes())), "{why}");
    }
}
