//! Compiled code that is kept from one start to the next: its name, and the check that it is
//! undamaged. A [`Shelf`] stores it; the caller decides which shelf, and where. This module takes
//! only code that an engine on this machine made, because code is not checked when it runs.

use std::hash::{DefaultHasher, Hash, Hasher};

use wasmtime::component::Component;

use super::apart;
use super::depth;
use super::engine::{Engine, FUEL, TABLES_PER_COMPONENT, without_pool};
use super::load_error::LoadError;
use crate::types::hex;

/// A store for compiled code. Only this node's operator may be able to write to it. Keeping code
/// only saves time, so a shelf logs its own errors and then acts as if it held nothing.
pub trait Shelf {
    /// Returns the code under this name, if it can be read.
    fn take(&self, name: &str) -> Option<Vec<u8>>;
    /// Keeps the code under this name. It replaces all code whose name begins with `replaces`.
    fn put(&self, name: &str, replaces: &str, code: &[u8]);
}

/// Returns the code of an encoded component with this BLAKE3 hash: from the shelf, or compiled and
/// put there.
pub(super) fn compiled(
    engine: &Engine,
    encoded: &[u8],
    hash: &[u8; 32],
    shelf: &dyn Shelf,
) -> Result<Component, LoadError> {
    let component = hex(hash);
    let name = format!("{component}.{}", made_by(engine, depth::METERING));
    if let Some(kept) = shelf.take(&name)
        && let Some(code) = whole(&kept)
    {
        match revive(&engine.inner.wasmtime, code) {
            Ok(component) => return Ok(component),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::info!(
                    error,
                    "the compiled code that was kept is not taken by this engine; it is compiled again"
                );
            }
        }
    }
    let code = code_of(engine, encoded)?;
    shelf.put(&name, &component, &sealed(&code));
    fresh(engine, &code)
}

/// Compiles without keeping the code.
pub(super) fn compile(engine: &Engine, encoded: &[u8]) -> Result<Component, LoadError> {
    fresh(engine, &code_of(engine, encoded)?)
}

/// Compiles in a separate process if this program can start one, and in this process otherwise.
fn code_of(engine: &Engine, encoded: &[u8]) -> Result<Vec<u8>, LoadError> {
    let apart = apart::compile(engine.limits(), encoded);
    let compiled = apart.unwrap_or_else(|| {
        let form = depth::compiled_form(engine.limits(), encoded)?;
        let here = engine.inner.wasmtime.precompile_component(&form);
        here.map_err(|error| format!("{error:#}"))
    });
    compiled.map_err(|reason| match depth::refuses_metered_form(engine.limits(), encoded) {
        Some(reason) => LoadError::Metered(reason),
        None => LoadError::Compile(reason),
    })
}

/// Loads code that was just compiled. The compiler does not know the pool, whose slots have the
/// profile's sizes, so code that does not fit into a slot is found here: an engine without a pool
/// takes it.
fn fresh(engine: &Engine, code: &[u8]) -> Result<Component, LoadError> {
    revive(&engine.inner.wasmtime, code).map_err(|error| {
        let reason = format!("{error:#}");
        let fits_elsewhere = without_pool(engine.limits()).and_then(|engine| revive(&engine, code)).is_ok();
        if !fits_elsewhere {
            return LoadError::Compile(format!("the code that was just made is refused by the engine: {reason}"));
        }
        LoadError::Slot {
            reason,
            memory_mib_max: engine.limits().memory_bytes_max >> 20,
            tables_max: TABLES_PER_COMPONENT,
            elements_max: engine.limits().table_elements_max,
        }
    })
}

/// Returns a name for everything that can change the code: the engine's version and settings, this
/// build, the limits, the semantics, the version of the metering. A different name only makes the
/// code be compiled again, so the hash may depend on the compiler.
fn made_by(engine: &Engine, metering: u32) -> String {
    let mut hasher = DefaultHasher::new();
    engine.inner.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
    FUEL.hash(&mut hasher);
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    serde_json::to_string(engine.limits()).expect("limits are JSON").hash(&mut hasher);
    engine.limits().semantics.hash(&mut hasher);
    metering.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Puts the code's BLAKE3 hash in front of it.
fn sealed(code: &[u8]) -> Vec<u8> {
    [blake3::hash(code).as_bytes(), code].concat()
}

/// Returns the code, if it is unchanged.
fn whole(sealed: &[u8]) -> Option<&[u8]> {
    let (hash, code) = sealed.split_first_chunk::<32>()?;
    let is_whole = blake3::hash(code).as_bytes() == hash;
    if !is_whole {
        tracing::warn!("the compiled code that was kept is damaged; it is compiled again");
    }
    is_whole.then_some(code)
}

#[allow(unsafe_code, reason = "wasmtime trusts code that was serialized, and so must its caller")]
fn revive(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes come from `precompile_component`. This program made them just now, or this
    // node put them on its own shelf and they are unchanged (their BLAKE3 was compared). The engine
    // compares its version and settings itself.
    unsafe { Component::deserialize(engine, code) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::guest::Limits;

    #[test]
    fn code_of_another_metering_has_another_name() {
        let engine = Engine::new(&Limits::default()).unwrap();
        let names = [0, 0, 1].map(|more| made_by(&engine, depth::METERING + more));
        assert!(names[0] == names[1] && names[0] != names[2], "{names:?}");
    }
}
