//! Meters the depth of recursion by the guest's own code, since semantics 5, and the price of
//! operators by their size, since semantics 6. Every core module of a component is rewritten before
//! it is compiled: a global holds the bytes that are left of the profile's stack, a function takes
//! the cost of its frame from it at its entry and gives it back at its end. Where too little is
//! left, a function is called that was added for this and traps. In front of an operator with a
//! size, its price is burnt. The depth at which a recursion ends, and what an operator costs, are
//! therefore equal on every build and architecture. This module runs no guest, and never changes
//! the bytes by which a component is identified.
//!
//! - A cost follows from the module's bytes alone (`depth/cost.rs`), and a price by size from
//!   operators of the table of fuel (`depth/sizes.rs`). `depth/module.rs` writes the new code, with
//!   the codes of `depth/code.rs`. `depth/sections.rs` reads and writes sections; all that is not
//!   code stays as it is, byte for byte, so indexes and names stay, too. `depth/instances.rs`
//!   counts instances.
//! - The function that traps is the last of its module. The guest's code was validated without it,
//!   so the guest cannot call it. A trap in it, and in no other, means that the stack is used up.
//!   It is known by its place and by its name, because the engine makes modules of its own, too.
//! - Each instance of a module counts its own frames. Modules of one component that call each other
//!   are bounded by the sum of their counters: at most four stacks, and equal everywhere. Up to
//!   four instances have a whole stack each; more of them share four. The native stack is large
//!   enough for four ([`Limits::native_stack_bytes`]). A call from a host function (`cabi_realloc`)
//!   continues the count of the module that it enters.
//! - A call that traps leaves the counter where it was; its instance is spent. A guest's `Err` is
//!   an ordinary return, and the counter is balanced.

use std::borrow::Cow;

use wasmparser::{BinaryReader, Validator};
use wasmtime::WasmBacktrace;

use super::features::PARSED_FEATURES;
use super::limits::Limits;

mod code;
mod cost;
mod instances;
mod module;
mod sections;
mod sizes;

pub(super) use cost::METERING;
pub(super) use instances::INSTANCES_MAX;
pub(super) use sizes::OPERATORS as OPERATORS_WITH_A_SIZE;

/// The stacks that all instances of one component have together. The number is replicated
/// semantics.
const STACKS: u64 = 4;

/// Returns what is compiled for a component: its bytes, with the depth and the sizes metered if its
/// semantics say so. Whoever calls this has bounded how deep the components are nested.
pub(super) fn compiled_form<'a>(limits: &Limits, encoded: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
    match limits.meters_depth() {
        true => metered(limits, encoded).map(Cow::Owned),
        false => Ok(Cow::Borrowed(encoded)),
    }
}

/// Rewrites a component, so that the frames of each instance of its modules have the stack of these
/// limits together, or their share of four times as much. Bytes that the engine would refuse are an
/// error.
pub(super) fn metered(limits: &Limits, encoded: &[u8]) -> Result<Vec<u8>, String> {
    let functions = cost::functions(encoded).map_err(|error| error.to_string())?;
    let instances = instances::metered(encoded, &functions).map_err(|error| error.to_string())?;
    let share = share_of(limits.wasm_stack_bytes, instances);
    let stack_bytes = u32::try_from(share).map_err(|_| format!("a guest stack of {share} bytes cannot be metered"))?;
    let metering = module::Metering { functions: &functions, stack_bytes, charges_sizes: limits.meters_sizes() };
    metering.component(BinaryReader::new(encoded, 0))
}

/// Says why the engine refuses a component only because it is metered; `None` if it takes the
/// metered form, or refuses the component itself. The engine's limits are those of the validator.
pub(super) fn refuses_metered_form(limits: &Limits, encoded: &[u8]) -> Option<String> {
    if !limits.meters_depth() || cost::functions(encoded).is_err() {
        return None;
    }
    match metered(limits, encoded) {
        Ok(form) => {
            Validator::new_with_features(PARSED_FEATURES).validate_all(&form).err().map(|error| error.to_string())
        }
        Err(why) => Some(why),
    }
}

/// Returns the bytes of stack of each of so many instances.
fn share_of(stack_bytes: u64, instances: u32) -> u64 {
    stack_bytes.saturating_mul(STACKS) / u64::from(instances).max(STACKS)
}

/// Returns whether a call of a metered guest ended because its stack is used up. The trap is an
/// `unreachable`, and the innermost frame is that of the added function. A module that was not
/// rewritten has none.
pub(super) fn is_used_up(trace: &WasmBacktrace) -> bool {
    let innermost = trace.frames().first();
    innermost.filter(|innermost| innermost.func_name() == Some(module::USED_UP)).is_some_and(|innermost| {
        let mut functions = innermost.module().functions();
        let defined = functions.len() as u32;
        functions.next().is_some_and(|first| innermost.func_index() + 1 == first.index.as_u32() + defined)
    })
}

/// Returns whether a call ended in a function that was added for the price of a size. Its name is
/// of no use to people.
pub(super) fn is_in_a_price(trace: &WasmBacktrace) -> bool {
    let name = trace.frames().first().and_then(|innermost| innermost.func_name());
    name.is_some_and(|name| sizes::Size::ALL.iter().any(|size| size.name() == name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::sections::{put_section, put_u32};
    use super::*;

    /// Most globals of a module that the engine takes.
    const GLOBALS_MAX: u32 = 1_000_000;

    /// Makes a component of a module with a function that calls itself, and with so many globals.
    fn component_with(globals: u32) -> Vec<u8> {
        let mut section = Vec::new();
        put_u32(&mut section, globals);
        for _ in 0..globals {
            // A constant number.
            section.extend_from_slice(&[0x7f, 0, 0x41, 0, 0x0b]);
        }
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        put_section(&mut module, 1, &[1, 0x60, 0, 0]).unwrap();
        put_section(&mut module, 3, &[1, 0]).unwrap();
        put_section(&mut module, 6, &section).unwrap();
        put_section(&mut module, 10, &[1, 4, 0, 0x10, 0, 0x0b]).unwrap();
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        put_section(&mut component, 1, &module).unwrap();
        component
    }

    #[test]
    fn a_component_that_only_the_metering_makes_too_large_is_told_as_such() {
        let limits = Limits::default();
        let refused = |globals: u32| refuses_metered_form(&limits, &component_with(globals));
        assert_eq!(refused(GLOBALS_MAX - 1), None);
        let why = refused(GLOBALS_MAX).unwrap();
        assert!(why.contains("globals"), "{why}");
        assert_eq!(refused(GLOBALS_MAX + 1), None, "it has too many without it");
        let earlier = Limits { semantics: 4, ..Limits::default() };
        assert_eq!(refuses_metered_form(&earlier, &component_with(GLOBALS_MAX)), None);
    }

    /// Each copy is paid for with operators that make it three times as long.
    #[test]
    fn a_function_that_payments_make_too_large_is_told_as_such() {
        let component = |copies: usize| {
            let copies = "(memory.copy (i32.const 0) (i32.const 0) (i32.const 8))".repeat(copies);
            wat::parse_str(format!("(component (core module (memory 1) (func {copies})))")).unwrap()
        };
        let refused = |copies: usize, semantics: u32| {
            refuses_metered_form(&Limits { semantics, ..Limits::default() }, &component(copies))
        };
        assert_eq!((refused(200_000, 6), refused(300_000, 5)), (None, None));
        let why = refused(300_000, 6).unwrap();
        assert!(why.contains("function body size"), "{why}");
    }

    #[test]
    fn more_than_four_instances_share_four_stacks() {
        let shares = [0, 1, 4, 5, 8, 40].map(|instances| share_of(2 << 20, instances));
        assert_eq!(shares, [2_097_152, 2_097_152, 2_097_152, 1_677_721, 1_048_576, 209_715]);
    }
}
