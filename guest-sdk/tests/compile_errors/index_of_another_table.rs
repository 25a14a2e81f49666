//! A lookup through an index that the table does not have.

use lockstep_guest::{Index, Table};

macro_rules! index {
    ($name:ident $tag:literal) => {
        struct $name;

        impl Index for $name {
            type Key = u64;
            type Value = String;
            type By = u64;
            const TAG: u16 = $tag;

            fn by(_: &u64, name: &String) -> Vec<u64> {
                vec![name.len() as u64]
            }
        }
    };
}

index!(Kept 2);
index!(NotKept 3);

lockstep_guest::state! {
    struct Names {
        names: Table<u64, String, Kept> = 1,
    }
}

fn main() {
    let names = <Names as lockstep_guest::State>::open();
    let _ = names.names.by(Kept).find(&4).count();
    let _ = names.names.by(NotKept).find(&4).count();
}
