//! Compares the names of the fuel table with those that this version of wasmtime can charge. Runs
//! no guest: whether the prices are charged alike is what the corpus shows.

use std::collections::BTreeSet;

use serde_json::Value;
use wasmtime::OperatorCost;

use crate::guest::{SIZES_METERED_SINCE, charges_sizes_first};

const OURS: &str = include_str!("../../host/src/guest/fuel.json");

/// Prices per byte, page or element of what every guest may use. Since semantics 6 they are 0. A
/// version that does not know them charges less in earlier semantics, and must not run these.
const CHARGED_BY_SIZE: [&str; 2] = ["variable.memory_", "variable.table_"];

#[test]
fn every_price_of_the_table_can_be_charged() {
    let ours = names(&serde_json::from_str(OURS).expect("fuel.json is JSON"));
    let known = names(&serde_json::to_value(OperatorCost::default()).expect("a table is JSON"));
    let version = env!("LOCKSTEP_WASMTIME");
    for name in known.difference(&ours) {
        println!("wasmtime {version} has {name}, which fuel.json lacks; no case of the corpus has it");
    }
    let lost: Vec<&String> = ours.difference(&known).collect();
    for name in &lost {
        println!("wasmtime {version} lacks {name}, which fuel.json has");
    }
    let is_charged = |name: &&&String| CHARGED_BY_SIZE.iter().any(|start| name.starts_with(*start));
    let uncharged: Vec<_> = lost.iter().filter(is_charged).collect();
    assert!(uncharged.is_empty() || !charges_sizes_first(), "wasmtime {version} cannot charge {uncharged:?}");
    if !charges_sizes_first() {
        println!(
            "wasmtime {version} charges no price by size before the operator runs: a build with it runs no semantics before \
             {SIZES_METERED_SINCE}"
        );
    }
}

/// Returns the names of all prices; those within another name with a dot between them.
fn names(table: &Value) -> BTreeSet<String> {
    let fields = table.as_object().into_iter().flatten();
    let below = |(name, price): (&String, &Value)| -> Vec<String> {
        match price.is_object() {
            true => names(price).iter().map(|inner| format!("{name}.{inner}")).collect(),
            false => vec![name.clone()],
        }
    };
    fields.flat_map(below).collect()
}
