//! Tests how a machine takes over the state of an earlier version: rules, rewriting, cursors, and
//! what the harness undoes.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_guest::dispatch::{Method, serve, serve_step};
use lockstep_guest::{Code, Harness, Index, Machine, Map, Migrated, Set, State, Status, Step, Table, Value, snapshot};

/// Version 1: prices are texts, a map has no index, and one setting is a number.
mod v1 {
    use super::*;

    lockstep_guest::state! {
        pub struct Shop {
            pub prices: Map<String, String> = 1,
            pub books: Map<u64, String> = 2,
            pub limit: Value<u32> = 4,
        }
    }

    impl Machine for Shop {
        type Snapshots = snapshot::AsItIs;
        const METHODS: &'static [&'static [Method<Self>]] = &[&[Method::command("Shop/Price", |shop, _, request| {
            serve("Shop/Price", request, |name: String| {
                shop.prices.insert(&name, "7");
                Ok(())
            })
        })]];
    }
}

struct ByLength;

impl Index for ByLength {
    type Key = u64;
    type Value = String;
    type By = u32;
    const TAG: u16 = 3;

    fn by(_: &u64, title: &String) -> Vec<u32> {
        vec![title.len() as u32]
    }
}

lockstep_guest::state! {
    struct Shop {
        prices: Map<String, u64> = 1,
        books: Table<u64, String, ByLength> = 2,
        limit: Value<u64> = 4,
        migrated: Set<String> = 5,
    }
}

static DRAWN: AtomicU64 = AtomicU64::new(0);

lockstep_guest::version!("2");
lockstep_guest::migrate!(Shop {
    "1" | "1.1" => |state, cx| {
        let note = format!("{} {} {:?}", cx.predecessor().version, cx.index(), cx.time());
        state.migrated.insert(&note);
        cx.in_turn(state, &[
            |state, cx| Ok(state.prices.rewrite(cx.cursor(), 100, |_, old: String| old.parse().expect("a number"))),
            |state, cx| Ok(state.books.rebuild(cx.cursor(), 100)),
            |state, _| {
                state.limit.rewrite(|old: u32| old.into());
                Ok(Migrated::done())
            },
        ])
    },
    "0" => |state, cx| {
        let migrated = state.books.rewrite(cx.cursor(), 10, |key, title: String| format!("{key} {title}"));
        match state.books.get(&25) {
            Some(title) if title.starts_with("25 ") => Err(Status::aborted("so far and no further")),
            _ => Ok(migrated),
        }
    },
    "forever" => |state, _| {
        state.limit.set(&1);
        Ok(Migrated::more([]))
    },
    "large" => |state, _| {
        for n in 0..4 {
            state.books.insert(&n, &"x".repeat(1024 * 1024));
        }
        Ok(Migrated::more([]))
    },
    "wide" => |_, _| Ok(Migrated::more([0; 4097])),
    "drawn" => |state, _| {
        state.limit.set(&DRAWN.fetch_add(1, Ordering::Relaxed));
        Ok(Migrated::done())
    },
    "" => |_, _| Ok(Migrated::done()),
});

impl Machine for Shop {
    type Snapshots = snapshot::AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] = &[&[
        Method::command("Shop/Price", |shop, _, request| {
            serve("Shop/Price", request, |name: String| {
                shop.prices.insert(&name, &8);
                Ok(())
            })
        }),
        Method::watch("Shop/Follow", |_, cx, request| {
            let cause = format!("{:?}", cx.cause());
            serve_step("Shop/Follow", request, |()| Ok(Step::send(cause)))
        }),
    ]];
}

fn old(rows: u64) -> Harness<v1::Shop> {
    let mut machine = Harness::<v1::Shop>::new();
    machine.change(|shop| {
        for n in 0..rows {
            shop.prices.insert(&format!("{n:04}"), &n.to_string());
            shop.books.insert(&n, &"x".repeat((n % 3) as usize));
        }
        shop.limit.set(&7);
    });
    machine
}

fn shop(rows: u64) -> Harness<Shop> {
    Harness::taking_over(old(rows))
}

#[test]
fn rows_of_an_earlier_version_become_those_of_this_one() {
    for rows in [0, 1, 99, 100, 101, 250, 1300] {
        let mut machine = shop(rows);
        let before = machine.index();
        machine.migrate_from("1").unwrap();
        assert_eq!(machine.index(), before + 1, "all calls are one entry");
        machine.inspect(|shop| {
            assert!(
                shop.prices
                    .iter()
                    .map(|(name, price)| (name.parse::<u64>().unwrap(), price))
                    .eq((0..rows).map(|n| (n, n)))
            );
            for length in 0..3 {
                let found: Vec<u64> = shop.books.by(ByLength).find(&length).keys().collect();
                assert_eq!(found, (0..rows).filter(|n| n % 3 == u64::from(length)).collect::<Vec<_>>());
            }
            assert_eq!(shop.limit.get(), Some(7));
            assert_eq!(shop.migrated.iter().collect::<Vec<_>>(), ["1 1 1704067200s"]);
        });
        machine.command::<_, ()>("Shop/Price", &"new".to_owned()).unwrap();
        machine.assert_replicas_agree();
    }
}

#[test]
fn a_table_forgets_entries_of_an_earlier_index() {
    let mut machine = shop(0);
    machine.change(|shop| {
        for n in 0..35 {
            shop.books.insert(&n, &n.to_string());
        }
    });
    let mut calls = 0;
    let mut cursor = Vec::new();
    machine.change(|shop| {
        while let Some(next) = cursor_of(shop.books.rewrite(&cursor, 10, |_, _: String| "abc".to_owned())) {
            cursor = next;
            calls += 1;
        }
    });
    assert_eq!(calls, 6, "three calls full of entries, and three full of rows");
    machine.inspect(|shop| {
        assert_eq!(shop.books.by(ByLength).iter().keys().count(), 35);
        assert_eq!(shop.books.by(ByLength).find(&3).count(), 35);
    });
}

/// Returns the cursor, as the host would get it.
fn cursor_of(migrated: Migrated) -> Option<Vec<u8>> {
    let text = format!("{migrated:?}");
    let bytes = text.strip_prefix("Migrated { cursor: Some([")?.strip_suffix("]) }")?;
    Some(bytes.split(", ").filter(|byte| !byte.is_empty()).map(|byte| byte.parse().unwrap()).collect())
}

#[test]
fn a_call_ends_before_it_writes_too_much() {
    let mut machine = shop(0);
    machine.change(|shop| (0..7).for_each(|n| drop(shop.books.insert(&n, &"x".repeat(1000 * 1000)))));
    machine.change(|shop| (7..14).for_each(|n| drop(shop.books.insert(&n, &"x".repeat(1000 * 1000)))));
    machine.migrate_from("0").unwrap();
    machine.inspect(|shop| assert!(shop.books.values().all(|title| title.contains(" x"))));
}

#[test]
fn a_refusal_in_a_late_call_undoes_the_earlier_ones() {
    let mut machine = shop(30);
    let stream = machine.watch::<_, String>("Shop/Follow", &());
    let before = machine.snapshot().unwrap();
    let refused = machine.migrate_from("0").unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Aborted, "so far and no further"));
    assert_eq!(machine.snapshot().unwrap(), before);
    assert_eq!(machine.sent(&stream), ["Start"]);
    machine.migrate_from("1.1").unwrap();
    assert_eq!(machine.sent(&stream), ["Reset"]);
}

#[test]
fn a_version_without_a_rule_is_refused_and_named() {
    let refused = shop(1).migrate_from("3").unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().starts_with(
        "this machine does not take over the state of version \"3\"; it knows version \"1\", version \"1.1\", "
    ));
    assert!(refused.message().ends_with(", a machine without a version"), "{refused}");
    assert_eq!(shop(1).migrate_from(""), Ok(()));
}

#[test]
fn a_migration_too_large_for_an_entry_is_undone() {
    for (version, why) in [("forever", "10000 calls"), ("large", "268435456 bytes"), ("wide", "4097 bytes")] {
        let mut machine = shop(1);
        let before = machine.snapshot().unwrap();
        let refused = machine.migrate_from(version).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
        assert_eq!(machine.snapshot().unwrap(), before);
    }
}

#[test]
#[should_panic = "does not write the same twice"]
fn a_migration_that_differs_from_run_to_run_is_found() {
    drop(shop(1).migrate_from("drawn"));
}

#[test]
fn a_panic_is_an_outcome() {
    let mut machine = shop(1);
    machine.change(|shop| shop.prices.insert("bad", &0));
    // Eight zero bytes are a text of version 1, and no number.
    let failed = machine.migrate_from("1").unwrap_err();
    assert_eq!((failed.code(), failed.message().contains("a number")), (Code::Internal, true), "{failed}");
}

#[test]
fn index_and_time_go_on_from_the_older_machine() {
    let mut before = old(1);
    before.command::<_, ()>("Shop/Price", &"a".to_owned()).unwrap();
    before.advance(Duration::from_secs(5));
    before.command::<_, ()>("Shop/Price", &"b".to_owned()).unwrap();
    let (index, time) = (before.index(), before.time_ms());
    let mut machine = Harness::<Shop>::taking_over(before);
    assert_eq!((machine.index(), machine.time_ms()), (index, time));
    machine.migrate_from("1").unwrap();
    machine.inspect(|shop| assert_eq!(shop.prices.get("b"), Some(7)));
}

#[test]
fn the_version_is_known_to_the_crate() {
    assert_eq!(LOCKSTEP_VERSION, "2");
    let _ = Shop::open();
}
