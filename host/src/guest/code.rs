//! Compiled code, kept from one start to the next: what names it, and how it is known to be whole. A [`Shelf`] keeps it; which one, and
//! where, is its maker's business. Never takes code that this machine's own engine did not make: code is not checked when it runs.

use std::hash::{DefaultHasher, Hash, Hasher};

use wasmtime::component::Component;

use super::apart;
use super::engine::{Engine, TABLES_PER_COMPONENT};
use super::load::LoadError;
use crate::types::hex;

/// Where compiled code is kept: a place that nobody but this node's operator can write to. Keeping is a matter of speed alone, so a
/// shelf says by itself what went wrong and answers as if it held nothing.
pub trait Shelf {
    /// What was kept under this name, as far as it can be read.
    fn take(&self, name: &str) -> Option<Vec<u8>>;
    /// Keeps it under this name, instead of all that begins with `replaces`.
    fn put(&self, name: &str, replaces: &str, code: &[u8]);
}

/// The code of an encoded component of this BLAKE3: from the shelf, or compiled and put there.
pub(super) fn compiled(
    engine: &Engine,
    encoded: &[u8],
    hash: &[u8; 32],
    shelf: &dyn Shelf,
) -> Result<Component, LoadError> {
    let component = hex(hash);
    let name = format!("{component}.{}", made_by(engine));
    if let Some(kept) = shelf.take(&name)
        && let Some(code) = whole(&kept)
    {
        match revive(engine, code) {
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

/// Compiles; nothing is kept.
pub(super) fn compile(engine: &Engine, encoded: &[u8]) -> Result<Component, LoadError> {
    fresh(engine, &code_of(engine, encoded)?)
}

/// Compiles in a process apart where this program can be one, and here otherwise.
fn code_of(engine: &Engine, encoded: &[u8]) -> Result<Vec<u8>, LoadError> {
    let apart = apart::compile(engine.limits(), encoded);
    let compiled = apart.unwrap_or_else(|| {
        let here = engine.inner.wasmtime.precompile_component(encoded);
        here.map_err(|error| format!("{error:#}"))
    });
    compiled.map_err(LoadError::Compile)
}

/// Code that was made a moment ago. The compiler knows nothing of the pool, whose slots are of the profile's sizes: what does not fit
/// into one shows here.
fn fresh(engine: &Engine, code: &[u8]) -> Result<Component, LoadError> {
    revive(engine, code).map_err(|error| {
        let reason = format!("{error:#}");
        if !reason.contains("exceeds") {
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

/// Names whatever can change the code: the engine's version and settings, this build, the limits. Another name only means that the
/// code is compiled again, so the hash may be one that changes with the compiler.
fn made_by(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    engine.inner.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
    super::engine::FUEL.hash(&mut hasher);
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    serde_json::to_string(engine.limits()).expect("limits are JSON").hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// With its BLAKE3 in front.
fn sealed(code: &[u8]) -> Vec<u8> {
    [blake3::hash(code).as_bytes(), code].concat()
}

/// The code, if not a bit of it has changed.
fn whole(sealed: &[u8]) -> Option<&[u8]> {
    let (hash, code) = sealed.split_first_chunk::<32>()?;
    let is_whole = blake3::hash(code).as_bytes() == hash;
    if !is_whole {
        tracing::warn!("the compiled code that was kept is damaged; it is compiled again");
    }
    is_whole.then_some(code)
}

#[allow(unsafe_code, reason = "wasmtime trusts code that was serialized, and so must its caller")]
fn revive(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: bytes of `precompile_component`, of this program a moment ago, or put on its own shelf by this node and unchanged (their
    // BLAKE3 was compared). The engine compares its version and settings itself.
    unsafe { Component::deserialize(&engine.inner.wasmtime, code) }
}
