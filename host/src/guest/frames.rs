//! The guest's functions in which a call ended, for people to read. The innermost function comes
//! first. Names have no addresses and hashes, and the functions that a panic itself calls are left
//! out. The text goes to logs and clients and is not part of an outcome.

use wasmtime::WasmBacktrace;

/// The function that every Rust panic passes on its way to the trap.
const PANIC: [&str; 2] = ["__rustc::rust_begin_unwind", "rust_begin_unwind"];
/// Prefix of the functions that call it. Functions that catch panics call others with this prefix,
/// far below.
const PANICKING: &str = "core::panicking::";
/// Digits of the hashes that Rust puts into names.
const HASH_DIGITS: usize = 16;

/// Returns one line per function, without the innermost `hidden` ones; empty when the engine knows
/// no functions.
pub(super) fn of(trace: &WasmBacktrace, hidden: usize) -> String {
    shown(&trace.to_string(), hidden)
}

/// Formats the engine's text, in which names are demangled.
fn shown(printed: &str, hidden: usize) -> String {
    let mut frames: Vec<String> = Vec::new();
    for line in printed.lines() {
        if let Some((_, name)) = line.split_once(" - ") {
            frames.push(format!("  {}", plain(name)));
        } else if let (Some(place), Some(frame)) = (line.trim_start().strip_prefix("at "), frames.last_mut()) {
            frame.push_str(&format!(" at {place}"));
        }
    }
    frames.drain(..hidden.min(frames.len()));
    let is_panic = |frame: &String| PANIC.iter().any(|name| frame.trim_start().starts_with(name));
    let behind = frames.iter().position(is_panic).map_or(0, |at| at + 1);
    let panicking = |frame: &&String| behind > 0 && frame.trim_start().starts_with(PANICKING);
    let own = behind + frames[behind..].iter().take_while(panicking).count();
    // If nothing called the panic, all frames are shown.
    let shown = if own < frames.len() { &frames[own..] } else { &frames[..] };
    shown.join("\n")
}

/// Shortens a name: `guest.wasm!app[a543996e6e7dbf1e]::add::h8660aa6d4aa32051` becomes `app::add`.
fn plain(name: &str) -> String {
    let name = name.split_once('!').map_or(name, |(_, name)| name);
    let is_hash = |text: &str| text.len() == HASH_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = name.rsplit_once("::h").filter(|(_, hash)| is_hash(hash)).map_or(name, |(name, _)| name);
    let (mut plain, mut rest) = (String::with_capacity(name.len()), name);
    while let Some((before, bracketed)) = rest.split_once('[') {
        plain.push_str(before);
        match bracketed.split_once(']') {
            Some((hash, after)) if is_hash(hash) => rest = after,
            _ => {
                plain.push('[');
                rest = bracketed;
            }
        }
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_without_module_and_hashes() {
        let rows = [
            ("kv.wasm!app[a543996e6e7dbf1e]::add::h8660aa6d4aa32051", "app::add"),
            ("<unknown>!<wasm function 5>", "<wasm function 5>"),
            ("kv.wasm!<app::Kv as app::Example>::add::h8634de0000000000", "<app::Kv as app::Example>::add"),
            (
                "m!std[a543996e6e7dbf1e]::sys::end::<std[a543996e6e7dbf1e]::handler::{closure#0}, !>",
                "std::sys::end::<std::handler::{closure#0}, !>",
            ),
            ("m!take::<[u8; 4]>::high", "take::<[u8; 4]>::high"),
            ("main", "main"),
        ];
        for (name, wanted) in rows {
            assert_eq!(plain(name), wanted);
        }
    }

    #[test]
    fn what_a_panic_calls_is_left_out() {
        let printed = "error while executing at wasm backtrace:\n    \
             0:  0x1d6ad - <unknown>!<wasm function 5>\n    \
             1:   0xa11a - m.wasm!lockstep_guest::exports::report_panics::{{closure}}::h8660aa6d4aa32051\n    \
             2:   0xc79c - m.wasm!std[a543996e6e7dbf1e]::panicking::panic_with_hook\n    \
             3:   0xe950 - m.wasm!__rustc[b7974e8690430dd9]::rust_begin_unwind\n    \
             4:   0xf9ac - m.wasm!core[c5930c85a12de822]::panicking::panic_fmt\n    \
             5:   0x7346 - m.wasm!medley::Mixture::panics::haaa5fda4405033df\n                    at src/lib.rs:7:9\n    \
             6:   0x3bc8 - m.wasm!act";
        assert_eq!(shown(printed, 0), "  medley::Mixture::panics at src/lib.rs:7:9\n  act");
        assert_eq!(
            shown("error while executing at wasm backtrace:\n    0: 0x1 - m!core::panicking::panic", 0),
            "  core::panicking::panic"
        );
        assert_eq!((shown("", 0), shown("", 1)), (String::new(), String::new()));
        let caught = "0: 0x1 - m!app::traps\n1: 0x2 - m!std::panicking::catch_unwind\n2: 0x3 - m!main";
        assert_eq!(shown(caught, 0), "  app::traps\n  std::panicking::catch_unwind\n  main");
        assert_eq!(shown(caught, 1), "  std::panicking::catch_unwind\n  main");
    }
}
