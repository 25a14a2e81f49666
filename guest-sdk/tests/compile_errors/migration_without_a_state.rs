//! Rules without the state that they are for.

lockstep_guest::migrate! {
    from "1" => |state, cx| Ok(lockstep_guest::Migrated::done()),
}

fn main() {}
