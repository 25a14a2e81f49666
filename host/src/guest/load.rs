//! Admission: turns bytes into a component that is known to run here, or says what is wrong with
//! them and what to do. This module never runs as part of a command. It only finds the bytes of
//! descriptors and never reads them.

use std::collections::BTreeSet;

use bytes::Bytes;
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::advice;
use super::apart;
use super::code::{self, Shelf};
use super::component::{Component, Exports, Inner};
use super::engine::Engine;
use super::imports::{INTERFACES, PACKAGE, VERSION};
use super::instance::Sandbox;
use super::limits::CALLER_STACK_BYTES;
use super::load_error::{LoadError, NESTING_MAX, VERSION_BYTES_MAX};
use crate::types::COMPONENT_BYTES_MAX;

/// Name of the custom section that holds the guest's protobuf descriptor set.
pub(super) const DESCRIPTOR_SECTION: &str = "lockstep.descriptor";
/// Name of the custom section that holds the version which the guest declares, as text.
pub(super) const VERSION_SECTION: &str = "lockstep.version";
/// Name of the custom section in which a guest describes its state, as text.
const STATE_SECTION: &str = "lockstep.state";
/// Prefix of the custom sections in which compilers store the component type.
const COMPONENT_TYPE_SECTION: &str = "component-type";

/// Facts about a guest that was only checked, from its names and sections.
#[derive(Debug)]
pub struct Checked {
    /// Its protobuf descriptor set, if there is one.
    pub descriptor: Option<Vec<u8>>,
    /// Whether it exports `watcher`.
    pub has_watcher: bool,
    /// Whether it exports `migrator`.
    pub has_migrator: bool,
    /// The version that it declares; empty if it declares none.
    pub version: String,
}

impl Component {
    /// Makes a component of a core module with embedded component type. Returns a component
    /// unchanged. This is done once for a cluster: nodes agree on the result, not on the input.
    pub fn encode(bytes: &[u8]) -> Result<Bytes, LoadError> {
        if Parser::is_component(bytes) {
            return Ok(Bytes::copy_from_slice(bytes));
        }
        let found = inspect(bytes)?;
        found.check_imports(bytes)?;
        if !found.has_component_type {
            return Err(LoadError::NoComponentType);
        }
        let encoded = apart::encode(bytes).unwrap_or_else(|| component_of(bytes)).map_err(LoadError::Encode)?;
        Ok(encoded.into())
    }

    /// Refuses a file that is not a guest, as far as that can be known without compiling.
    pub fn check(bytes: &[u8]) -> Result<Checked, LoadError> {
        let encoded = Self::encode(bytes)?;
        let found = inspect(&encoded)?;
        found.check(&encoded)?;
        Ok(Checked {
            has_watcher: found.export("watcher").is_some(),
            has_migrator: found.export("migrator").is_some(),
            version: found.version()?.to_owned(),
            descriptor: found.descriptor,
        })
    }

    /// Checks, compiles and instantiates an encoded component.
    pub fn load(engine: &Engine, encoded: &[u8]) -> Result<Self, LoadError> {
        Self::admit(engine, encoded, |_| code::compile(engine, encoded))
    }

    /// Does what [`Component::load`] does, but compiles only if the code is not on the shelf.
    pub fn load_from(engine: &Engine, encoded: &[u8], shelf: &dyn Shelf) -> Result<Self, LoadError> {
        Self::admit(engine, encoded, |hash| code::compiled(engine, encoded, hash, shelf))
    }

    fn admit(
        engine: &Engine,
        encoded: &[u8],
        compiled: impl FnOnce(&[u8; 32]) -> Result<wasmtime::component::Component, LoadError>,
    ) -> Result<Self, LoadError> {
        if Parser::is_core_wasm(encoded) {
            return Err(LoadError::Encode("it was not encoded yet".to_owned()));
        }
        if encoded.len() > COMPONENT_BYTES_MAX {
            return Err(LoadError::TooLarge { bytes: encoded.len() });
        }
        let found = inspect(encoded)?;
        found.check(encoded)?;
        let hash = *blake3::hash(encoded).as_bytes();
        let component = compiled(&hash)?;
        let exports = Exports::find(&component, &found)?;
        let pre =
            engine.inner.linker.instantiate_pre(&component).map_err(|error| found.misfit(format!("{error:#}")))?;
        let inner = Inner {
            engine: engine.clone(),
            pre,
            exports,
            encoded: Bytes::copy_from_slice(encoded),
            hash,
            version: found.version()?.to_owned(),
            descriptor: found.descriptor,
            state: found.state,
        };
        let component = Component::new(inner);
        admit_on_guest_stack(&component)?;
        Ok(component)
    }
}

/// Makes an instance on a thread with room for the guest's stack: a start function may recurse, and
/// the caller may be any thread.
fn admit_on_guest_stack(component: &Component) -> Result<(), LoadError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("guest-admission".into()).stack_size(CALLER_STACK_BYTES);
        let running = thread.spawn_scoped(scope, || Sandbox::admit(component));
        let running = running.map_err(|error| LoadError::Engine(format!("a thread cannot be started: {error}")))?;
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Encodes a module as a component. This decodes its component type, which may be nested without
/// end, so the caller's stack may overflow.
pub(super) fn component_of(module: &[u8]) -> Result<Vec<u8>, String> {
    let encode = || ComponentEncoder::default().validate(true).module(module)?.encode();
    encode().map_err(|error| {
        let text = format!("{error:#}");
        missing_export(&text).map(|advice| format!("{text}; {advice}")).unwrap_or(text)
    })
}

/// Returns the advice about a function that is in the component type but not in the module. The
/// encoder's error has interface and function in backticks.
fn missing_export(problem: &str) -> Option<String> {
    let (_, names) = problem.split_once("failed to find export of interface ")?;
    let mut names = names.split('`').skip(1).step_by(2);
    let (interface, function) = (names.next()?, names.next()?);
    Some(format!(
        "every guest has all functions of that interface, also a snapshot and a restore: export a core function named {interface}#{function}"
    ))
}

impl Exports {
    fn find(component: &wasmtime::component::Component, found: &Found) -> Result<Self, LoadError> {
        let function = |interface: &str, name: &str| {
            let missing = || LoadError::MissingExport { name: format!("{interface}#{name}") };
            let instance = component.get_export_index(None, interface).ok_or_else(missing)?;
            component.get_export_index(Some(&instance), name).ok_or_else(missing)
        };
        let machine = found.require("machine")?;
        let watcher = found.export("watcher");
        let migrator = found.export("migrator");
        Ok(Self {
            apply: function(machine, "apply")?,
            query: function(machine, "query")?,
            snapshot: function(machine, "snapshot")?,
            restore: function(machine, "restore")?,
            watch: watcher.map(|watcher| function(watcher, "watch")).transpose()?,
            migrate: migrator.map(|migrator| function(migrator, "migrate")).transpose()?,
        })
    }
}

/// Names at the top level of a module or component, and its sections.
#[derive(Default)]
pub(super) struct Found {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    pub(super) descriptor: Option<Vec<u8>>,
    /// Contents of the sections of the version, each once.
    pub(super) versions: BTreeSet<Vec<u8>>,
    /// What the guest says about its state, if it says anything.
    pub(super) state: Option<Vec<u8>>,
    has_component_type: bool,
}

impl Found {
    /// Refuses all that can be refused without compiling.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), LoadError> {
        self.check_imports(bytes)?;
        self.require("machine")?;
        self.version().map(drop)
    }

    /// Refuses every import outside the contract, and reports all of them at once.
    fn check_imports(&self, bytes: &[u8]) -> Result<(), LoadError> {
        let mut names = Vec::new();
        for name in &self.imports {
            match interface(name) {
                Some((interface, version)) if INTERFACES.contains(&interface) => check_version(name, version)?,
                _ => names.push(name.clone()),
            }
        }
        names.dedup();
        if names.is_empty() {
            return Ok(());
        }
        let advice = advice::advice(&names, bytes);
        Err(LoadError::ForbiddenImport { names, advice })
    }

    /// Returns the error for a component that cannot be linked. A guest of a newer version gets an
    /// error of its own.
    fn misfit(&self, reason: String) -> LoadError {
        let version =
            |name: &String| interface(name).and_then(|(_, version)| Some((numbers(version)?, version.to_owned())));
        match self.imports.iter().chain(&self.exports).filter_map(version).max() {
            Some((newest, found)) if Some(newest) > numbers(VERSION) => LoadError::Newer { found, reason },
            _ => LoadError::Link(reason),
        }
    }

    pub(super) fn export(&self, wanted: &str) -> Option<&str> {
        let is_wanted = |name: &&String| interface(name).is_some_and(|(interface, _)| interface == wanted);
        self.exports.iter().find(is_wanted).map(String::as_str)
    }

    /// Returns the version that the guest declares; empty if it declares none.
    pub(super) fn version(&self) -> Result<&str, LoadError> {
        let mut versions = self.versions.iter();
        let Some(version) = versions.next() else { return Ok("") };
        if versions.next().is_some() {
            return Err(LoadError::Version("differs between two of its sections".to_owned()));
        }
        checked_version(version)
    }

    fn require(&self, wanted: &str) -> Result<&str, LoadError> {
        let missing = || LoadError::MissingExport { name: format!("{PACKAGE}/{wanted}@{VERSION}") };
        let name = self.export(wanted).ok_or_else(missing)?;
        let (_, version) = interface(name).ok_or_else(missing)?;
        check_version(name, version)?;
        Ok(name)
    }
}

/// Checks the version that a guest declares. It is shown to people and handed to `migrate`, so it
/// is one short line.
pub(super) fn checked_version(declared: &[u8]) -> Result<&str, LoadError> {
    if declared.len() > VERSION_BYTES_MAX {
        return Err(LoadError::Version(format!("has {} bytes", declared.len())));
    }
    let is_printable = declared.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let text = str::from_utf8(declared).ok().filter(|_| is_printable);
    text.ok_or_else(|| LoadError::Version(format!("is no printable ASCII: \"{}\"", declared.escape_ascii())))
}

/// Returns interface and version of a name such as `lockstep:machine/store@1.0.0`.
pub(super) fn interface(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix(PACKAGE)?.strip_prefix('/')?;
    Some(rest.split_once('@').unwrap_or((rest, "none")))
}

/// Returns the three numbers of a version; `None` for anything else, such as a prerelease.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let parts: Vec<u64> = version.split('.').map(number).collect::<Option<_>>()?;
    parts.try_into().ok()
}

/// Checks that the major version is ours. Within a major version, the types decide at link time.
fn check_version(name: &str, version: &str) -> Result<(), LoadError> {
    let (name, found) = (name.to_owned(), version.to_owned());
    let Some([major, ..]) = numbers(version) else { return Err(LoadError::NoRelease { name, found }) };
    if numbers(VERSION).is_some_and(|[ours, ..]| ours == major) {
        return Ok(());
    }
    Err(LoadError::WrongVersion { name, found, wanted: VERSION.to_owned() })
}

/// Reads names and sections without compiling anything. An import of a module is named by its
/// module name; imports outside the contract's package also have the function's name.
pub(super) fn inspect(bytes: &[u8]) -> Result<Found, LoadError> {
    if !Parser::is_component(bytes) && !Parser::is_core_wasm(bytes) {
        return Err(LoadError::NotWasm);
    }
    let mut found = Found::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(damaged)?;
        match &payload {
            Payload::Version { .. } if depth == NESTING_MAX => return Err(LoadError::Nested),
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::CustomSection(section) => found.custom(section.name(), section.data()),
            _ if depth == 1 => found.top_level(payload).map_err(damaged)?,
            _ => {}
        }
    }
    Ok(found)
}

pub(super) fn damaged(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Damaged(error.to_string())
}

impl Found {
    fn custom(&mut self, name: &str, data: &[u8]) {
        if name == DESCRIPTOR_SECTION {
            // Descriptor sets may be concatenated, because protobuf merges messages in this way.
            self.descriptor.get_or_insert_default().extend_from_slice(data);
        }
        if name == VERSION_SECTION {
            self.versions.insert(data.to_vec());
        }
        if name == STATE_SECTION {
            self.state.get_or_insert_default().extend_from_slice(data);
        }
        self.has_component_type |= name.starts_with(COMPONENT_TYPE_SECTION);
    }

    fn top_level(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    self.exports.push(export?.name.name.to_owned());
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import?;
                    let is_ours = import.module.starts_with(PACKAGE);
                    self.imports.push(if is_ours {
                        import.module.to_owned()
                    } else {
                        format!("{}#{}", import.module, import.name)
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }
}
