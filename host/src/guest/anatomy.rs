//! The contents of a guest's file, for people who inspect it before a node does. This module
//! compiles and runs nothing. The rules in `load` alone decide what is refused.

use bytes::Bytes;

use super::component::Component;
use super::load::{inspect, interface};
use super::load_error::LoadError;

/// The contents of a guest's file.
#[derive(Debug)]
pub struct Anatomy {
    /// Names of imports at the top level; if a module could not be encoded, those of the module.
    pub imports: Vec<String>,
    /// Names of exports, as for `imports`. A module's exports are known only once it is encoded.
    pub exports: Vec<String>,
    /// The component that the cluster would record and identify by its BLAKE3 hash. `None` for a
    /// module that cannot be made a component.
    pub encoded: Option<Bytes>,
    /// The protobuf descriptor set, if there is one.
    pub descriptor: Option<Vec<u8>>,
    /// Whether the guest exports `watcher`.
    pub has_watcher: bool,
    /// Whether the guest exports `migrator`.
    pub has_migrator: bool,
    /// The version that it declares; empty if it declares none, or one that no node takes.
    pub version: String,
    /// The version of the contract that the guest was built for.
    pub contract: Option<String>,
    /// Why a node would refuse it, as far as that can be known without compiling.
    pub refused: Option<LoadError>,
}

/// Returns what a guest says about its state: the contents of the section `lockstep.state`. `None`
/// if it has no such section.
pub fn described_state(bytes: &[u8]) -> Result<Option<Vec<u8>>, LoadError> {
    Ok(inspect(bytes)?.state)
}

impl Anatomy {
    /// Inspects the bytes of a WebAssembly file. Returns an error if they are not WebAssembly.
    pub fn of(bytes: &[u8]) -> Result<Anatomy, LoadError> {
        let (found, encoded, refused) = match Component::encode(bytes) {
            Ok(encoded) => {
                let found = inspect(&encoded)?;
                let refused = found.check(&encoded).err();
                (found, Some(encoded), refused)
            }
            Err(error) => (inspect(bytes)?, None, Some(error)),
        };
        let mut imports = found.imports.clone();
        imports.dedup();
        let version_of = |name: &String| interface(name).map(|(_, version)| version.to_owned());
        Ok(Anatomy {
            imports,
            contract: found.exports.iter().chain(&found.imports).find_map(version_of),
            has_watcher: found.export("watcher").is_some(),
            has_migrator: found.export("migrator").is_some(),
            version: found.version().unwrap_or_default().to_owned(),
            exports: found.exports,
            encoded,
            descriptor: found.descriptor,
            refused,
        })
    }
}
