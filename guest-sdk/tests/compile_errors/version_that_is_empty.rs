//! A version without characters.

lockstep_guest::version!("");

fn main() {}
