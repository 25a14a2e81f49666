//! Properties of this build that could change an outcome: the engine's version and target. Before
//! semantics 5 the compiler's frames decided where a guest's recursion ends. There the host's own
//! optimization level and the measured depth of a recursion belong to them, too. Nodes compare them
//! and people read them; no decision depends on them.

use std::thread;

use wasmtime::{Engine, Instance, Module, Store, Trap};

use super::limits::{CALLER_STACK_BYTES, Limits};

/// A function that counts its calls and calls itself. The test below has it as text.
const RECURSION: [u8; 59] = [
    0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 6, 6, 1, 127, 1, 65, 0, 11, 7, 16, 2, 4, 99, 97, 108,
    108, 0, 0, 5, 99, 97, 108, 108, 115, 3, 0, 10, 13, 1, 11, 0, 35, 0, 65, 1, 106, 36, 0, 16, 0, 11,
];

/// Returns the text that nodes compare. Returns an error when the engine does not work as it must.
pub(super) fn describe(engine: &Engine, metered: bool, limits: &Limits) -> Result<String, String> {
    let wasmtime = env!("LOCKSTEP_WASMTIME");
    if limits.meters_depth() {
        return Ok(format!("wasmtime {wasmtime}, {TARGET}"));
    }
    let (engine, name) = (engine.clone(), "guest-depth".to_owned());
    let thread = thread::Builder::new().name(name).stack_size(CALLER_STACK_BYTES);
    let measured = thread.spawn(move || depth(&engine, metered)).map_err(|error| error.to_string())?;
    let depth = measured.join().map_err(|_| "measuring the depth of a recursion panicked".to_owned())?;
    let depth = depth.map_err(|error| format!("{error:#}"))?;
    let level = env!("LOCKSTEP_OPT_LEVEL");
    Ok(format!("wasmtime {wasmtime}, {TARGET}, opt-level {level}, {depth} calls deep"))
}

/// Returns the number of nested calls until the profile's stack is full.
fn depth(engine: &Engine, metered: bool) -> wasmtime::Result<i32> {
    let module = Module::new(engine, RECURSION)?;
    let mut store = Store::new(engine, ());
    if metered {
        store.set_fuel(u64::MAX / 2)?;
    }
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = Instance::new(&mut store, &module, &[])?;
    let call = instance.get_typed_func::<(), ()>(&mut store, "call")?;
    match call.call(&mut store, ()) {
        Err(error) if matches!(error.downcast_ref(), Some(Trap::StackOverflow)) => {}
        ended => wasmtime::bail!("a recursion without end ended so: {ended:?}"),
    }
    let counted = instance.get_global(&mut store, "calls").map(|counted| counted.get(&mut store));
    counted.and_then(|counted| counted.i32()).ok_or_else(|| wasmtime::format_err!("the calls were not counted"))
}

/// The target that all code is compiled for, named and not detected.
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "musl"))]
pub(super) const TARGET: &str = "x86_64-unknown-linux-musl";
#[cfg(all(target_os = "linux", target_arch = "aarch64", target_env = "gnu"))]
pub(super) const TARGET: &str = "aarch64-unknown-linux-gnu";
#[cfg(all(target_os = "linux", target_arch = "aarch64", target_env = "musl"))]
pub(super) const TARGET: &str = "aarch64-unknown-linux-musl";
#[cfg(all(target_os = "macos", target_arch = "x86_64"))]
pub(super) const TARGET: &str = "x86_64-apple-darwin";
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
pub(super) const TARGET: &str = "aarch64-apple-darwin";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Engine, Limits};
    use super::{RECURSION, TARGET};

    const IN_WORDS: &str = r#"(module (global (mut i32) (i32.const 0))
        (func (export "call") global.get 0 i32.const 1 i32.add global.set 0 call 0) (export "calls" (global 0)))"#;

    #[test]
    fn the_bytes_are_those_of_the_words() {
        assert_eq!(wat::parse_str(IN_WORDS).unwrap(), RECURSION);
    }

    #[test]
    fn a_build_is_told_alike_however_the_host_was_compiled() {
        let told = Engine::new(&Limits::default()).unwrap().build().unwrap().to_owned();
        assert!(told.starts_with("wasmtime ") && told.ends_with(&format!(", {TARGET}")), "{told}");
    }

    #[test]
    fn before_semantics_5_a_build_tells_its_depth_and_a_smaller_stack_is_less_deep() {
        let limits = Limits { semantics: 4, ..Limits::default() };
        let depth_of = |bytes: u64| {
            let limits = Limits { wasm_stack_bytes: bytes, ..limits.clone() };
            let told = Engine::new(&limits).unwrap().build().unwrap().to_owned();
            let (rest, depth) = told.strip_suffix(" calls deep").unwrap().rsplit_once(", ").unwrap();
            assert!(rest.starts_with("wasmtime ") && rest.contains(TARGET), "{told}");
            depth.parse::<u64>().unwrap()
        };
        let (whole, half) = (depth_of(limits.wasm_stack_bytes), depth_of(limits.wasm_stack_bytes / 2));
        assert!(half > 1_000 && whole > half * 3 / 2, "{whole} and {half} calls");
    }
}
