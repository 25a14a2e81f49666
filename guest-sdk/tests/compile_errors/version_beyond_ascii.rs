//! A version that no table could show.

lockstep_guest::version!("2é");

fn main() {}
