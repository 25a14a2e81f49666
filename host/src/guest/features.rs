//! The features of WebAssembly that a guest may use. The engine is configured with them, and the
//! metering of the depth validates guests by them. It configures nothing itself.

/// The allowed features, for one of the two types that have them by the same names: those that
/// compilers use today, except all whose result or cost depends on the host. Not allowed are, among
/// others: threads, relaxed SIMD, GC, exceptions, 64-bit memories, several memories, custom page
/// sizes, stack switching, component-model async.
macro_rules! allowed {
    ($features:ty) => {
        <$features>::MUTABLE_GLOBAL
            .union(<$features>::SATURATING_FLOAT_TO_INT)
            .union(<$features>::SIGN_EXTENSION)
            .union(<$features>::REFERENCE_TYPES)
            .union(<$features>::MULTI_VALUE)
            .union(<$features>::BULK_MEMORY)
            .union(<$features>::SIMD)
            .union(<$features>::FLOATS)
            .union(<$features>::EXTENDED_CONST)
            .union(<$features>::COMPONENT_MODEL)
    };
}

/// The allowed features for the engine.
pub(super) const FEATURES: wasmtime::WasmFeatures = allowed!(wasmtime::WasmFeatures);

/// The same for the parser. The type is the engine's only where both use the same parser.
pub(super) const PARSED_FEATURES: wasmparser::WasmFeatures = allowed!(wasmparser::WasmFeatures);
