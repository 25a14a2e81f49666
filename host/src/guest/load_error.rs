//! Why bytes are not admitted as a guest, in words that say what to do. `load` decides.

use super::advice;
use super::imports::{PACKAGE, VERSION};
use crate::types::COMPONENT_BYTES_MAX;

/// Most levels of components and modules inside each other. Guests written in Python have three.
/// The time to inspect nested components grows with the square of the depth.
pub(super) const NESTING_MAX: u32 = 64;

/// Most bytes of the version that a guest declares.
pub(super) const VERSION_BYTES_MAX: usize = 64;

/// Why bytes were not admitted as a guest.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LoadError {
    #[error(
        "not WebAssembly: the first bytes are neither those of a module nor of a component; give the .wasm file that the compiler left"
    )]
    NotWasm,
    #[error("the WebAssembly is damaged: {0}")]
    Damaged(String),
    #[error(
        "a plain module without a component type: build it against {PACKAGE}@{VERSION} with the guest SDK, or add the type with `wasm-tools component embed`"
    )]
    NoComponentType,
    #[error("imports that no guest may have: {}; {advice}", advice::shown(.names))]
    ForbiddenImport { names: Vec<String>, advice: String },
    #[error(
        "{name} has version {found}, which is none that was released (a guest names three numbers, as in {VERSION}): rebuild the guest with a \
         released SDK"
    )]
    NoRelease { name: String, found: String },
    #[error(
        "{name} has version {found}, this host speaks {wanted}: rebuild the guest with an SDK of that version, or run a host that speaks {found}"
    )]
    WrongVersion { name: String, found: String, wanted: String },
    #[error(
        "nothing named {name} is exported: is this a guest? It must export the world machine-guest of {PACKAGE}@{VERSION}; with the SDK, \
         is there `lockstep_guest::export!(…)` at the end of src/lib.rs?"
    )]
    MissingExport { name: String },
    #[error(
        "components are nested in components more than {NESTING_MAX} deep: no compiler makes that; give the file that it left"
    )]
    Nested,
    #[error(
        "the version that it declares {0}: declare one, of at most {VERSION_BYTES_MAX} printable ASCII characters, with lockstep_guest::version!(\"2\"), \
         or with `lockstep guest pack --version 2`"
    )]
    Version(String),
    #[error("the module cannot be made a component: {0}")]
    Encode(String),
    #[error(
        "the component has {bytes} bytes, and {COMPONENT_BYTES_MAX} is what one node takes from another: strip debug information, or leave out what the guest does not use"
    )]
    TooLarge { bytes: usize },
    #[error("the component does not compile: {0}")]
    Compile(String),
    #[error(
        "the component is valid, but the engine does not take it once its depth is metered, which adds functions, a global and types to \
         each module, and code to functions: {0}; make its modules smaller, or split them"
    )]
    Metered(String),
    #[error(
        "the component needs more than the profile gives, which is one memory of {memory_mib_max} MiB and {tables_max} tables of {elements_max} \
         elements: {reason}"
    )]
    Slot { reason: String, memory_mib_max: u64, tables_max: u32, elements_max: u32 },
    #[error("the component does not fit the contract {PACKAGE}@{VERSION}: {0}")]
    Link(String),
    #[error(
        "the component was built for {PACKAGE}@{found} and uses what came with it; it needs a host that speaks {found}, and this one speaks \
         {VERSION}: {reason}"
    )]
    Newer { found: String, reason: String },
    #[error("the component compiles, but no instance of it can be made: {0}")]
    Instantiate(String),
    #[error(
        "the WebAssembly engine cannot be started under these limits (does `ulimit -v` allow the address space?): {0}"
    )]
    Engine(String),
}
