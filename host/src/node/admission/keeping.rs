//! Keeps a component for a change: encodes it, compiles it under the profile in force, and stores
//! it. It puts nothing into use.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;

use super::Admission;
use crate::api::{self, Kept};
use crate::guest::Component;
use crate::machine;

impl Admission {
    /// Keeps the component of a file. Blocks, because it compiles.
    pub(crate) fn keep(&self, file: &Bytes) -> anyhow::Result<Kept> {
        let (_, profile) = self.machine.profile().context("the cluster was founded just now, and runs nothing yet")?;
        let limits = machine::limits_of(&profile).map_err(anyhow::Error::msg)?;
        if let Some(why) = self.machine.space().refuses_commands() {
            bail!(why);
        }
        let encoded = Component::encode(file).context("the file is no guest that nodes take")?;
        let component = self.compile(&encoded, &limits).context("nodes would refuse the guest")?;
        let contract = api::admit(&component)?;
        let hash = component.hash();
        self.directory.save_component(&hash, &encoded)?;
        Ok(Kept {
            hash,
            source: *blake3::hash(file).as_bytes(),
            version: component.version().to_owned(),
            has_migrator: component.has_migrator(),
            state: component.state().map(<[u8]>::to_vec),
            contract: Arc::new(contract),
        })
    }
}
