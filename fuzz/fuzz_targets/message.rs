//! Feeds `lockstep::fuzzing::message`, which says what it expects.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockstep::fuzzing::message(bytes));
