//! What a file holds, for people who look before a node does. Compiles nothing and runs nothing; which of it is refused is
//! decided by the rules of `load` alone.

use bytes::Bytes;

use super::load::{Component, LoadError, inspect, interface};

/// A guest's file, taken apart.
#[derive(Debug)]
pub struct Anatomy {
    /// Names at its top level; of a module that could not be encoded, those of the module.
    pub imports: Vec<String>,
    /// As `imports`. A module's are known only once it is encoded.
    pub exports: Vec<String>,
    /// What the cluster would record and identify by its BLAKE3. `None` for a module that cannot be made a component.
    pub encoded: Option<Bytes>,
    /// The protobuf descriptor set, if it carries one.
    pub descriptor: Option<Vec<u8>>,
    /// Whether it exports `watcher`.
    pub has_watcher: bool,
    /// The version of the contract that it was built for.
    pub contract: Option<String>,
    /// Why a node would refuse it, as far as that shows without compiling it.
    pub refused: Option<LoadError>,
}

impl Anatomy {
    /// Takes bytes apart that are WebAssembly; says why when they are not.
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
            exports: found.exports,
            encoded,
            descriptor: found.descriptor,
            refused,
        })
    }
}
