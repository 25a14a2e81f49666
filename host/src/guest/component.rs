//! A guest that was checked, compiled and instantiated once. It is made by `load` alone.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::component::{ComponentExportIndex, InstancePre};

use super::engine::Engine;
use super::imports::State;

/// A guest that was checked, compiled and successfully instantiated. Cheap to clone.
#[derive(Clone)]
pub struct Component {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) pre: InstancePre<State>,
    pub(super) exports: Exports,
    pub(super) encoded: Bytes,
    pub(super) hash: [u8; 32],
    pub(super) descriptor: Option<Vec<u8>>,
    pub(super) version: String,
    pub(super) state: Option<Vec<u8>>,
}

/// The positions of the contract's functions in a component.
pub(super) struct Exports {
    pub(super) apply: ComponentExportIndex,
    pub(super) query: ComponentExportIndex,
    pub(super) snapshot: ComponentExportIndex,
    pub(super) restore: ComponentExportIndex,
    pub(super) watch: Option<ComponentExportIndex>,
    pub(super) migrate: Option<ComponentExportIndex>,
}

impl Component {
    /// Takes what `load` found and made.
    pub(super) fn new(inner: Inner) -> Component {
        Component { inner: Arc::new(inner) }
    }

    /// Returns the BLAKE3 hash of the encoded bytes: the guest's identity.
    pub fn hash(&self) -> [u8; 32] {
        self.inner.hash
    }

    /// Returns the encoded bytes.
    pub fn encoded(&self) -> &Bytes {
        &self.inner.encoded
    }

    /// Returns the guest's protobuf descriptor set, if there is one.
    pub fn descriptor(&self) -> Option<&[u8]> {
        self.inner.descriptor.as_deref()
    }

    /// Returns whether the guest exports `watcher`.
    pub fn has_watcher(&self) -> bool {
        self.inner.exports.watch.is_some()
    }

    /// Returns whether the guest exports `migrator`.
    pub fn has_migrator(&self) -> bool {
        self.inner.exports.migrate.is_some()
    }

    /// Returns the version that the guest declares; empty if it declares none.
    pub fn version(&self) -> &str {
        &self.inner.version
    }

    /// Returns what the guest says of its state: the contents of the section `lockstep.state`.
    /// `None` if it has no such section.
    pub fn state(&self) -> Option<&[u8]> {
        self.inner.state.as_deref()
    }

    /// Returns whether both are the same component, compiled and admitted once.
    pub(super) fn is_same(&self, other: &Component) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns the engine that compiled it.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(super) fn pre(&self) -> &InstancePre<State> {
        &self.inner.pre
    }

    pub(super) fn exports(&self) -> &Exports {
        &self.inner.exports
    }
}
