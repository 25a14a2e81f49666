//! Tests that the harness ends a call where a node would, by limits that count over a whole call or
//! step.

#![allow(clippy::unwrap_used, missing_docs)]

use lockstep_guest::dispatch::{Method, serve, serve_step};
use lockstep_guest::{Code, Harness, Machine, Map, Reply, Set, Status, Step, log, snapshot};

lockstep_guest::state! {
    struct Store {
        numbers: Set<u32> = 1,
        names: Map<String, u64> = 2,
    }
}

impl Machine for Store {
    type Snapshots = snapshot::AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] = &[&[
        Method::command("Store/Fill", |store, _, r| {
            serve("Store/Fill", r, |from: u32| {
                for n in from..from + 40_000 {
                    store.numbers.insert(&n);
                }
                Ok(())
            })
        }),
        Method::command("Store/Empty", |store, _, r| {
            serve("Store/Empty", r, |each: u32| {
                let mut removed = 0;
                while let 1.. = store.numbers.remove_first(.., each) {
                    removed += 1;
                }
                Ok(removed)
            })
        }),
        Method::query("Store/From", |store, _, r| {
            serve("Store/From", r, |len: u32| Ok(store.names.range("k".repeat(len as usize)..).count() as u64))
        }),
        Method::command("Store/Talk", |_, _, r| {
            serve("Store/Talk", r, |len: u32| {
                log::info!("{}", "x".repeat(len as usize));
                log::info!("and more");
                Ok(())
            })
        }),
        Method::watch("Store/Send", |_, _, r| serve_step("Store/Send", r, send)),
    ]];
}

/// Sends `count` replies of 3 MiB. A count of 0 gives a refusal with a long message.
fn send(count: u32) -> Reply<Step<String>> {
    if count == 0 {
        return Err(Status::not_found("x".repeat(2000)));
    }
    Ok(Step::send_all((0..count).map(|_| "x".repeat(3 << 20))))
}

#[test]
fn keys_removed_by_range_count_over_the_whole_command() {
    let mut store = Harness::<Store>::new();
    for from in [0_u32, 40_000, 80_000] {
        let (): () = store.command("Store/Fill", &from).unwrap();
    }
    let refused = store.command::<_, u32>("Store/Empty", &30_000_u32).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("100000 keys by range"), "{refused}");
    assert_eq!(store.inspect(|store| store.numbers.first()), Some(0), "nothing is gone");
    store.change(|store| store.numbers.remove_first(.., 20_001));
    assert_eq!(store.command::<_, u32>("Store/Empty", &30_000_u32), Ok(4));
}

#[test]
fn bound_of_a_range_is_one_byte_longer_than_a_key_at_most() {
    let mut store = Harness::<Store>::new();
    // The tag and the end of the string take three bytes.
    assert_eq!(store.query::<_, u64>("Store/From", &(4097_u32 - 3)), Ok(0));
    let refused = store.query::<_, u64>("Store/From", &(4098_u32 - 3)).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("start of the range has 4098 bytes"), "{refused}");
}

#[test]
fn replies_of_a_step_are_limited_together() {
    let mut store = Harness::<Store>::new();
    let stream = store.watch::<_, String>("Store/Send", &5_u32);
    assert_eq!((store.sent(&stream).len(), store.ended(&stream)), (5, None));
    let stream = store.watch::<_, String>("Store/Send", &6_u32);
    let ended = store.ended(&stream).unwrap().unwrap_err();
    assert_eq!((ended.code(), store.sent(&stream).len()), (Code::ResourceExhausted, 0));
}

#[test]
fn refusal_of_a_watch_is_cut_as_any_other() {
    let mut store = Harness::<Store>::new();
    let stream = store.watch::<_, String>("Store/Send", &0_u32);
    assert_eq!(store.ended(&stream).unwrap().unwrap_err().message().len(), 1024);
}

#[test]
fn log_lines_past_the_limit_are_dropped() {
    let mut store = Harness::<Store>::new();
    let (): () = store.command("Store/Talk", &(64_u32 * 1024 - 8)).unwrap();
    assert_eq!(store.take_log().len(), 2);
    let (): () = store.command("Store/Talk", &(64_u32 * 1024 - 7)).unwrap();
    assert_eq!(store.take_log().len(), 1);
    let (): () = store.command("Store/Talk", &(64_u32 * 1024 + 1)).unwrap();
    assert_eq!(store.take_log().len(), 0, "a line that does not fit leaves no room for the next");
}
