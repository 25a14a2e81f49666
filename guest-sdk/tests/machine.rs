//! Tests collections, contexts and the rules of the harness, with a machine written without a
//! `.proto`. Its requests are prost's wrapper types.

#![allow(clippy::unwrap_used, missing_docs)]

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstep_guest::dispatch::{Method, serve, serve_step};
use lockstep_guest::snapshot::{Format, Sink, Source};
use lockstep_guest::{Code, Counter, ErrorInfo, Harness, Machine, Map, Reply, Set, Status, Step, Value, Watch, log};

lockstep_guest::state! {
    struct Shop {
        stock: Map<String, u64> = 1,
        orders: Map<(String, u64), Vec<u8>> = 2,
        closed: Set<i64> = 3,
        owner: Value<String> = 200,
        visits: Counter = 16383,
    }
}

static CALLS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LOCAL_CALLS: Cell<u64> = const { Cell::new(0) };
}

trait Service: lockstep_guest::State {
    const LOCKSTEP_METHODS: &'static [Method<Self>];
}

impl Service for Shop {
    const LOCKSTEP_METHODS: &'static [Method<Self>] = &[
        Method::command("Shop/Fill", |shop, _, r| serve("Shop/Fill", r, |n| shop.fill(n))),
        Method::command("Shop/Fail", |shop, cx, r| {
            serve("Shop/Fail", r, |how: String| {
                shop.owner.set(cx.caller().as_str());
                match how.as_str() {
                    "detail" => {
                        Err(Status::not_found("gone").with_detail(&"ann".to_owned()).with_reason("GONE", "shop"))
                    }
                    "long" => Err(Status::not_found("é".repeat(1000)).with_reason("LONG", "shop")),
                    "details" => Err(Status::not_found("").with_details(vec![0; 4097])),
                    "refuse" => Err::<u64, _>(Status::failed_precondition("closed").with_details(*b"why")),
                    how => panic!("told to: {how}"),
                }
            })
        }),
        Method::command("Shop/Own", |shop, cx, r| {
            serve("Shop/Own", r, |name: String| {
                log::info!("{name} at {:?}", cx.id());
                shop.owner.set(&name);
                Ok(cx.time_ms())
            })
        }),
        Method::command("Shop/Draw", |shop, cx, r| {
            serve("Shop/Draw", r, |bound: u64| {
                let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
                cx.shuffle(&mut order);
                shop.orders.insert(&(cx.random().to_string(), cx.random()), order.as_slice());
                Ok(cx.random_below(bound))
            })
        }),
        Method::command("Shop/Static", |shop, _, r| {
            serve("Shop/Static", r, |_: u64| {
                let calls = CALLS.fetch_add(1, Ordering::Relaxed);
                shop.stock.insert("calls", &calls);
                Ok(0_u64)
            })
        }),
        Method::command("Shop/Local", |_, _, r| {
            serve("Shop/Local", r, |_: u64| Ok(LOCAL_CALLS.replace(LOCAL_CALLS.get() + 1)))
        }),
        Method::query("Shop/Owner", |shop, _, r| {
            serve("Shop/Owner", r, |(): ()| Ok(shop.owner.get().unwrap_or_default()))
        }),
        Method::query("Shop/Cheat", |_, _, r| {
            serve("Shop/Cheat", r, |(): ()| {
                <Shop as lockstep_guest::State>::open().owner.set("me");
                Ok(())
            })
        }),
        Method::watch("Shop/Stock", |shop, cx, r| {
            serve_step("Shop/Stock", r, |prefix: String| shop.follow(cx, &prefix))
        }),
    ];
}

lockstep_guest::export!(Shop: Service);

impl Shop {
    fn fill(&mut self, count: u64) -> Reply<u64> {
        for n in 0..count {
            self.stock.insert(&format!("item-{n:05}"), &n);
        }
        self.visits.add(1);
        Ok(self.visits.get())
    }

    /// Sends the number of entries with this prefix when it changed. Ends the stream at three.
    fn follow(&self, cx: &Watch, prefix: &str) -> Reply<Step<u64>> {
        if prefix.is_empty() {
            self.owner.get().ok_or_else(|| Status::failed_precondition("nobody owns the shop"))?;
        }
        let count = self.stock.prefix(prefix).count() as u64;
        let step = if cx.recall::<u64>() == Some(count) { Step::wait() } else { Step::send(count) };
        let step = step.remember(&count).or_after(Duration::from_secs(5));
        Ok(if count == 3 { step.done() } else { step })
    }
}

fn run(code: impl FnOnce(&mut Shop)) {
    Harness::<Shop>::new().change(code);
}

#[test]
fn map_reads_ranges_and_prefixes_in_order_across_pages() {
    run(|shop| {
        shop.fill(1500).unwrap();
        shop.stock.insert("other", &7);
        assert_eq!(shop.stock.len(), 1501);
        let all: Vec<u64> = shop.stock.prefix("item-").map(|(_, n)| n).collect();
        assert_eq!(all, (0..1500).collect::<Vec<_>>());
        let back: Vec<u64> = shop.stock.prefix("item-").rev().map(|(_, n)| n).collect();
        assert_eq!(back, (0..1500).rev().collect::<Vec<_>>());
        let some = shop.stock.range("item-00010".to_owned()..="item-00012".to_owned());
        assert_eq!(some.map(|(_, n)| n).collect::<Vec<_>>(), [10, 11, 12]);
        assert_eq!(shop.stock.first(), Some(("item-00000".to_owned(), 0)));
        assert_eq!(shop.stock.last(), Some(("other".to_owned(), 7)));
        assert_eq!(shop.stock.remove_prefix("item-"), 1500);
        assert_eq!(shop.stock.remove("other"), Some(7));
        assert!(shop.stock.is_empty());
        assert_eq!(shop.stock.update("new", |n| *n += 2), 2);
        assert_eq!(shop.visits.get(), 1);
    });
}

#[test]
fn tuple_keys_are_found_by_their_first_part() {
    run(|shop| {
        for (who, n) in [("ann", 2), ("ann", 10), ("anna", 1), ("a\0nn", 5)] {
            shop.orders.insert(&(who.to_owned(), n), b"x".as_slice());
        }
        let anns = shop.orders.prefix(&("ann",)).map(|((_, n), _)| n);
        assert_eq!(anns.collect::<Vec<_>>(), [2, 10]);
        assert_eq!(shop.orders.iter().count(), 4);
        assert_eq!(shop.orders.clear(), 4);
    });
}

#[test]
fn set_says_what_was_new_and_keeps_negative_numbers_first() {
    run(|shop| {
        assert!(shop.closed.insert(&5));
        assert!(shop.closed.insert(&-5));
        assert!(!shop.closed.insert(&5));
        assert_eq!(shop.closed.iter().collect::<Vec<_>>(), [-5, 5]);
        assert_eq!(shop.closed.range(0..).collect::<Vec<_>>(), [5]);
        assert_eq!((shop.closed.first(), shop.closed.last()), (Some(-5), Some(5)));
        assert!(shop.closed.remove(&-5));
        assert!(!shop.closed.remove(&-5));
        assert_eq!(shop.closed.len(), 1);
    });
}

#[test]
fn drained_rows_are_gone_whether_looked_at_or_not() {
    run(|shop| {
        shop.fill(100).unwrap();
        shop.stock.insert("other", &7);
        let range = "item-00098".to_owned()..;
        let some: Vec<_> = shop.stock.drain_range(range).take(2).map(|(key, _)| key).collect();
        assert_eq!(some, ["item-00098", "item-00099"]);
        assert!(!shop.stock.contains("other"), "in the range, though not looked at");
        drop(shop.stock.drain_prefix("item-0009"));
        assert_eq!(shop.stock.len(), 90);
        assert_eq!(shop.stock.drain().map(|(_, n)| n).sum::<u64>(), (0..90).sum());
        assert!(shop.stock.is_empty());
        for n in [3, -1, 8] {
            shop.closed.insert(&n);
        }
        assert_eq!(shop.closed.drain_range(..0).collect::<Vec<_>>(), [-1]);
        assert_eq!(shop.closed.drain().collect::<Vec<_>>(), [3, 8]);
        assert!(shop.closed.is_empty());
    });
}

#[test]
fn retain_keeps_what_is_wanted_as_it_was_left() {
    run(|shop| {
        shop.fill(1000).unwrap();
        shop.stock.retain(|key, n| {
            *n *= 2;
            !key.ends_with('7')
        });
        assert_eq!(shop.stock.len(), 900);
        assert_eq!((shop.stock.get("item-00008"), shop.stock.get("item-00007")), (Some(16), None));
        assert_eq!(shop.stock.values().take(3).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(shop.stock.keys().next_back().as_deref(), Some("item-00999"));
        assert_eq!(shop.stock.pop_first(), Some(("item-00000".to_owned(), 0)));
        assert_eq!(shop.stock.pop_last(), Some(("item-00999".to_owned(), 1998)));
        assert_eq!(shop.stock.len(), 898);
        for n in 0..10 {
            shop.closed.insert(&n);
        }
        shop.closed.retain(|n| n % 3 == 0);
        assert_eq!(shop.closed.iter().collect::<Vec<_>>(), [0, 3, 6, 9]);
        assert_eq!((shop.closed.pop_first(), shop.closed.pop_last()), (Some(0), Some(9)));
        assert_eq!(shop.closed.remove_range(4..), 1);
    });
}

/// A value that did not change is not written, so no watch wakes for it.
#[test]
fn retain_writes_only_what_changed() {
    let mut shop = Harness::<Shop>::new();
    let _: u64 = shop.command("Shop/Fill", &3_u64).unwrap();
    let stream = shop.watch::<_, u64>("Shop/Stock", &"item-00001".to_owned());
    shop.change(|shop| shop.stock.retain(|_, _| true));
    assert_eq!(shop.steps(&stream), 1);
    shop.change(|shop| shop.stock.retain(|_, n| *n != 1));
    assert_eq!((shop.steps(&stream), shop.sent(&stream)), (2, vec![1, 0]));
}

#[test]
fn counters_and_values_change_in_place() {
    run(|shop| {
        assert_eq!(shop.visits.try_add(5), Ok(5));
        assert_eq!(shop.visits.try_subtract(6).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(shop.visits.try_add(u64::MAX).unwrap_err().code(), Code::OutOfRange);
        assert_eq!(shop.visits.try_subtract(2), Ok(3));
        assert_eq!((shop.visits.subtract(1), shop.visits.saturating_subtract(7)), (2, 0));
        shop.visits.reset();
        assert_eq!(shop.visits.get(), 0);
        assert_eq!(shop.owner.update(|owner| owner.push_str("ann")), "ann");
        assert_eq!(shop.owner.remove().as_deref(), Some("ann"));
        assert_eq!(shop.owner.remove(), None);
    });
}

#[test]
#[should_panic(expected = "a counter stays at 0 or above")]
fn counter_below_zero_is_a_panic() {
    run(|shop| {
        shop.visits.add(1);
        shop.visits.subtract(2);
    });
}

#[test]
fn removal_says_what_was_there_and_deletion_does_not() {
    run(|shop| {
        shop.fill(2).unwrap();
        assert_eq!((shop.stock.remove("item-00001"), shop.stock.remove("item-00001")), (Some(1), None));
        shop.stock.delete("item-00000");
        shop.stock.delete("item-00000");
        assert!(shop.stock.is_empty());
        shop.closed.insert(&1);
        shop.closed.delete(&1);
        shop.owner.set("ann");
        shop.owner.delete();
        assert_eq!((shop.closed.contains(&1), shop.owner.get()), (false, None));
    });
}

#[test]
fn collections_do_not_touch_one_another() {
    run(|shop| {
        shop.fill(3).unwrap();
        shop.closed.insert(&1);
        shop.owner.set("ann");
        shop.orders.insert(&(String::new(), 0), b"".as_slice());
        shop.stock.clear();
        assert_eq!((shop.closed.len(), shop.orders.len()), (1, 1));
        assert_eq!(shop.owner.get().as_deref(), Some("ann"));
        assert_eq!(shop.visits.get(), 1);
    });
}

#[test]
fn failed_command_leaves_nothing_and_says_why() {
    let mut shop = Harness::<Shop>::new();
    let _: u64 = shop.command("Shop/Own", &"ann".to_owned()).unwrap();
    shop.as_caller("bob");
    let refused = shop.command::<_, u64>("Shop/Fail", &"refuse".to_owned()).unwrap_err();
    assert_eq!((refused.code(), refused.details()), (Code::FailedPrecondition, b"why".as_slice()));
    let broken = shop.command::<_, u64>("Shop/Fail", &"break".to_owned()).unwrap_err();
    assert_eq!(broken.code(), Code::Internal);
    assert!(broken.message().contains("told to: break"), "{broken}");
    assert_eq!(shop.inspect(|shop| shop.owner.get()).as_deref(), Some("ann"));
    shop.assert_replicas_agree();
}

#[test]
fn refusal_carries_details_for_programs() {
    let mut shop = Harness::<Shop>::new();
    let mut refusal = |how: &str| shop.command::<_, u64>("Shop/Fail", &how.to_owned()).unwrap_err();
    let detailed = refusal("detail");
    assert_eq!(detailed.detail::<String>().as_deref(), Some("ann"));
    let info: ErrorInfo = detailed.detail().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("GONE", "shop"));
    assert_eq!(detailed.detail::<u64>(), None);
    let long = refusal("long");
    assert_eq!(long.message().len(), 1024, "as the host cuts it");
    assert!(long.details().len() < 1200, "the message in the details is cut, too");
    let too_much = refusal("details");
    assert_eq!(too_much.code(), Code::ResourceExhausted);
    assert!(too_much.message().contains("4097 bytes"), "{too_much}");
}

#[test]
fn commands_of_one_entry_share_index_and_wake_once() {
    let mut shop = Harness::<Shop>::new();
    let stream = shop.watch::<_, u64>("Shop/Stock", &"item-".to_owned());
    shop.together(|shop| {
        let _: u64 = shop.command("Shop/Fill", &1_u64).unwrap();
        let _: u64 = shop.command("Shop/Own", &"ann".to_owned()).unwrap();
        shop.command::<_, u64>("Shop/Fail", &"refuse".to_owned()).unwrap_err();
        let _: u64 = shop.command("Shop/Fill", &2_u64).unwrap();
    });
    assert_eq!((shop.index(), shop.steps(&stream), shop.sent(&stream)), (1, 2, vec![0, 2]));
    let _: u64 = shop.command("Shop/Own", &"bob".to_owned()).unwrap();
    let lines: Vec<String> = shop.take_log().into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["ann at (1, 1)", "bob at (2, 0)"]);
    shop.assert_replicas_agree();
}

#[test]
fn random_numbers_follow_from_the_place_in_the_log() {
    let mut shop = Harness::<Shop>::new();
    let drawn: Vec<u64> = (0..4).map(|_| shop.command("Shop/Draw", &1000_u64).unwrap()).collect();
    assert!(drawn.windows(2).all(|pair| pair[0] != pair[1]), "{drawn:?}");
    let again: Vec<u64> = {
        let mut shop = Harness::<Shop>::new();
        (0..4).map(|_| shop.command("Shop/Draw", &1000_u64).unwrap()).collect()
    };
    assert_eq!(drawn, again);
    shop.assert_replicas_agree();
}

#[test]
fn store_budget_is_kept() {
    let mut shop = Harness::<Shop>::new();
    let refused = shop.command::<_, u64>("Shop/Fill", &100_000_u64).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("at most 100000 calls"), "{refused}");
    assert!(shop.inspect(|shop| shop.stock.is_empty()));
}

#[test]
fn query_that_writes_is_an_error() {
    let mut shop = Harness::<Shop>::new();
    let refused = shop.query::<_, ()>("Shop/Cheat", &()).unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("must not write"), "{refused}");
    let owner: String = shop.query("Shop/Owner", &()).unwrap();
    assert_eq!(owner, "");
}

#[test]
fn static_in_the_state_is_found() {
    let mut shop = Harness::<Shop>::new();
    let _: u64 = shop.command("Shop/Static", &0_u64).unwrap();
    let verdict = std::panic::catch_unwind(|| shop.assert_replicas_agree());
    let message = *verdict.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("Shop/Static at index 1 wrote"), "{message}");
}

/// A thread-local starts anew in each thread, so a replica that runs every command once draws the
/// same numbers.
#[test]
fn thread_local_in_the_state_is_found() {
    let mut shop = Harness::<Shop>::new();
    let _: u64 = shop.command("Shop/Local", &0_u64).unwrap();
    let verdict = std::panic::catch_unwind(|| shop.assert_replicas_agree());
    let message = *verdict.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("Shop/Local at index 1 answered"), "{message}");
}

#[test]
fn log_time_and_lines_come_from_the_harness() {
    let mut shop = Harness::<Shop>::new();
    let before: u64 = shop.command("Shop/Own", &"ann".to_owned()).unwrap();
    shop.advance(Duration::from_secs(2));
    let after: u64 = shop.command("Shop/Own", &"bob".to_owned()).unwrap();
    assert_eq!(after - before, 2000);
    let lines: Vec<String> = shop.take_log().into_iter().map(|(_, line)| line).collect();
    assert_eq!(lines, ["ann at (1, 0)", "bob at (2, 0)"]);
}

/// Log time behaves as on an idle cluster.
#[test]
fn log_time_passes_with_entries_only() {
    let mut shop = Harness::<Shop>::new();
    let _: u64 = shop.command("Shop/Own", &"ann".to_owned()).unwrap();
    let (start, index) = (shop.time_ms(), shop.index());
    shop.advance(Duration::from_secs(2));
    assert_eq!((shop.time_ms(), shop.index()), (start, index), "nobody waits for a time");
    let _stream = shop.watch::<_, u64>("Shop/Stock", &"item-".to_owned());
    shop.advance(Duration::from_secs(5));
    assert!(shop.time_ms() > start && shop.index() > index, "a watch has waited");
}

#[test]
fn watch_of_a_range_remembers_and_ends() {
    let mut shop = Harness::<Shop>::new();
    let stream = shop.watch::<_, u64>("Shop/Stock", &"item-".to_owned());
    assert_eq!(shop.sent(&stream), [0]);
    let _: u64 = shop.command("Shop/Own", &"ann".to_owned()).unwrap();
    assert_eq!(shop.steps(&stream), 1, "a commit elsewhere runs no step");
    let _: u64 = shop.command("Shop/Fill", &2_u64).unwrap();
    shop.advance(Duration::from_secs(5));
    assert_eq!((shop.sent(&stream), shop.steps(&stream)), (vec![2], 3));
    let _: u64 = shop.command("Shop/Fill", &3_u64).unwrap();
    assert_eq!(shop.sent(&stream), [3]);
    assert_eq!(shop.ended(&stream), Some(Ok(())));
}

#[test]
fn watch_that_refuses_ends_its_stream() {
    let mut shop = Harness::<Shop>::new();
    let refused = shop.watch::<_, u64>("Shop/Stock", &String::new());
    let refusal = shop.ended(&refused).unwrap().unwrap_err();
    assert_eq!((refusal.code(), refusal.message()), (Code::FailedPrecondition, "nobody owns the shop"));
    let _: u64 = shop.command("Shop/Own", &"ann".to_owned()).unwrap();
    let followed = shop.watch::<_, u64>("Shop/Stock", &String::new());
    assert_eq!((shop.sent(&followed), shop.ended(&followed)), (vec![0], None));
}

#[test]
fn snapshot_survives_and_damage_is_refused() {
    let mut shop = Harness::<Shop>::new();
    let _: u64 = shop.command("Shop/Fill", &20_000_u64).unwrap();
    shop.snapshot_restore();
    assert_eq!(shop.inspect(|shop| shop.stock.len()), 20_000);
    let snapshot = shop.snapshot().unwrap();
    for len in [0, 3, 4, 9, snapshot.len() / 2, snapshot.len() - 1] {
        let refused = shop.restore(snapshot[..len].to_vec()).unwrap_err();
        assert_eq!(refused.code(), Code::DataLoss, "{len} bytes: {refused}");
    }
    let longer = [snapshot.as_slice(), b"x"].concat();
    assert!(shop.restore(longer).unwrap_err().message().contains("goes on after its end"));
    assert_eq!(shop.inspect(|shop| shop.stock.len()), 20_000, "the old state remains");
}

/// A snapshot format that loses rows. The harness must notice that, as the host does.
struct Forgetful;

impl Format for Forgetful {
    fn write(_: &mut Sink) -> Result<(), Status> {
        Ok(())
    }

    fn read(_: &mut Source) -> Result<(), Status> {
        Ok(())
    }
}

lockstep_guest::state! {
    struct Leaky {
        n: Counter = 1,
    }
}

impl Machine for Leaky {
    type Snapshots = Forgetful;
    const METHODS: &'static [&'static [Method<Self>]] =
        &[&[Method::command("Leaky/Add", |leaky, _, r| serve("Leaky/Add", r, |n: u64| Ok(leaky.n.add(n))))]];
}

#[test]
#[should_panic(expected = "the restored state differs from the original")]
fn unfaithful_snapshot_is_found() {
    let mut leaky = Harness::<Leaky>::new();
    let _: u64 = leaky.command("Leaky/Add", &1_u64).unwrap();
    leaky.snapshot_restore();
}

#[test]
#[should_panic(expected = "before index 2: the restored state differs from the original")]
fn replica_that_is_moved_finds_an_unfaithful_snapshot() {
    let mut leaky = Harness::<Leaky>::new();
    let _: u64 = leaky.command("Leaky/Add", &1_u64).unwrap();
    let _: u64 = leaky.command("Leaky/Add", &1_u64).unwrap();
    leaky.assert_replicas_agree();
}
