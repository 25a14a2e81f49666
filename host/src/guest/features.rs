//! The features of WebAssembly that a guest may use. The engine is configured with them, and the
//! metering of the depth validates guests by them. It configures nothing itself.

use wasmtime::WasmFeatures;

/// The allowed features: those that compilers use today, except all whose result or cost depends on
/// the host. Not allowed are, among others: threads, relaxed SIMD, GC, exceptions, 64-bit memories,
/// several memories, custom page sizes, stack switching, component-model async.
pub(super) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL);
