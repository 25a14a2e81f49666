//! Which semantics this build can run at all: those before [`SIZES_METERED_SINCE`] rely on an
//! engine that charges a price by size before the operator runs, and some versions of wasmtime
//! charge it behind. It measures what the engine of this build does. It runs no guest.

use std::sync::LazyLock;

use wasmtime::{Instance, Module, Store, Trap};

use super::engine::without_pool;
use super::limits::{Limits, SIZES_METERED_SINCE};

/// A function that fills so much of a memory without pages as its parameter says. The test below
/// has it as text.
const FILL: [u8; 49] = [
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 1, 127, 0, 3, 2, 1, 0, 5, 3, 1, 0, 0, 7, 8, 1, 4, 102, 105, 108, 108, 0,
    0, 10, 13, 1, 11, 0, 65, 0, 65, 0, 32, 0, 252, 11, 0, 11,
];

/// Returns whether the engine charges the price by size of an operator before the operator runs.
/// Semantics before [`SIZES_METERED_SINCE`] rely on that, and later ones have no such price. The
/// first call measures it, which takes milliseconds. An engine that does not work counts as one
/// that does not.
pub fn charges_sizes_first() -> bool {
    static MEASURED: LazyLock<bool> =
        LazyLock::new(|| fills_too_much().is_ok_and(|ended| ended == Some(Trap::OutOfFuel)));
    *MEASURED
}

/// Fills more than a memory has, with less fuel than that costs, and returns how it ends.
fn fills_too_much() -> wasmtime::Result<Option<Trap>> {
    const FUEL: u64 = 1_000;
    let engine = without_pool(&Limits { semantics: SIZES_METERED_SINCE - 1, ..Limits::DEFAULT })?;
    let module = Module::new(&engine, FILL)?;
    let mut store = Store::new(&engine, ());
    store.set_fuel(FUEL)?;
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = Instance::new(&mut store, &module, &[])?;
    let ended = instance.get_typed_func::<i32, ()>(&mut store, "fill")?.call(&mut store, -1);
    Ok(ended.err().and_then(|error| error.downcast_ref().copied()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::FILL;

    const IN_WORDS: &str = r#"(module (memory 0)
        (func (export "fill") (param i32) i32.const 0 i32.const 0 local.get 0 memory.fill))"#;

    #[test]
    fn the_bytes_are_those_of_the_words() {
        assert_eq!(wat::parse_str(IN_WORDS).unwrap(), FILL);
    }
}
