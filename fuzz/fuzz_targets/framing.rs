//! Feeds `lockstep::fuzzing::framing`, which says what it expects.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockstep::fuzzing::framing(bytes));
