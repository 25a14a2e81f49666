//! The contract's records and functions as wasmtime types, and their conversion to the types of
//! this module. Nothing outside `guest/` sees the wasmtime types.

use wasmtime::component::{ComponentType, Lift, Lower, TypedFunc};

use super::{Cause, Context, Predecessor, Status};

/// `types.context` of the contract.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct WireContext {
    index: u64,
    position: u32,
    #[component(name = "time-ms")]
    time_ms: u64,
}

/// `types.status` of the contract.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WireStatus {
    code: u32,
    message: String,
    details: Vec<u8>,
}

/// `watcher.cause` of the contract.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub(super) enum WireCause {
    #[component(name = "start")]
    Start,
    #[component(name = "change")]
    Change,
    #[component(name = "wake")]
    Wake,
    #[component(name = "reset")]
    Reset,
}

/// `watcher.step` of the contract.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WireStep {
    pub(super) replies: Vec<Vec<u8>>,
    pub(super) memo: Vec<u8>,
    #[component(name = "wake-at-index")]
    pub(super) wake_at_index: u64,
    #[component(name = "wake-after-ms")]
    pub(super) wake_after_ms: u32,
    pub(super) done: bool,
}

/// `migrator.predecessor` of the contract.
#[derive(Clone, ComponentType, Lower)]
#[component(record)]
pub(super) struct WirePredecessor {
    hash: Vec<u8>,
    version: String,
}

/// `migrator.migration` of the contract.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct WireMigration {
    pub(super) done: bool,
    pub(super) cursor: Vec<u8>,
}

/// `machine.apply` and `machine.query`. The arguments are owned: a function that borrows them would
/// have to be type-checked again for every call, which costs more than the copy.
pub(super) type Command = TypedFunc<(WireContext, String, Vec<u8>), (Result<Vec<u8>, WireStatus>,)>;
/// `watcher.watch`.
pub(super) type Watch = TypedFunc<(WireContext, String, Vec<u8>, WireCause, Vec<u8>), (Result<WireStep, WireStatus>,)>;
/// `machine.snapshot` and `machine.restore`.
pub(super) type Stream = TypedFunc<(WireContext,), (Result<(), WireStatus>,)>;
/// `migrator.migrate`.
pub(super) type Migrate = TypedFunc<(WireContext, WirePredecessor, Vec<u8>), (Result<WireMigration, WireStatus>,)>;

impl From<Context> for WireContext {
    fn from(context: Context) -> Self {
        Self { index: context.index, position: context.position, time_ms: context.time_ms }
    }
}

impl From<WireStatus> for Status {
    fn from(status: WireStatus) -> Self {
        Self { code: status.code, message: status.message, details: status.details }
    }
}

impl From<Predecessor<'_>> for WirePredecessor {
    fn from(predecessor: Predecessor<'_>) -> Self {
        Self { hash: predecessor.hash.to_vec(), version: predecessor.version.to_owned() }
    }
}

impl From<Cause> for WireCause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Start => Self::Start,
            Cause::Change => Self::Change,
            Cause::Wake => Self::Wake,
            Cause::Reset => Self::Reset,
        }
    }
}
