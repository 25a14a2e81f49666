//! Tests streams that are longer than a step: a large range in pages, without gaps and duplicates.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use lockstep_guest::dispatch::{Method, serve_step};
use lockstep_guest::snapshot::AsItIs;
use lockstep_guest::{Harness, Machine, Map, Reply, Step, Watch};

lockstep_guest::state! {
    struct Journal {
        entries: Map<u64, String> = 1,
    }
}

const PAGE: usize = 500;
const ENTRIES: u64 = 2_391;

impl Machine for Journal {
    type Snapshots = AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] = &[&[
        Method::watch("Journal/Follow", |journal, cx, r| {
            serve_step("Journal/Follow", r, |after: u64| journal.follow(cx, after))
        }),
        Method::watch("Journal/Find", |journal, cx, r| {
            serve_step("Journal/Find", r, |wanted: u64| journal.find(cx, wanted))
        }),
        Method::watch("Journal/Wait", |_, cx, r| serve_step("Journal/Wait", r, |index: u64| wait(cx, index))),
        Method::watch("Journal/Chatter", |_, _, r| {
            serve_step("Journal/Chatter", r, |_: u64| Ok(Step::send(1_u64).again()))
        }),
    ]];
}

impl Journal {
    fn follow(&self, cx: &Watch, after: u64) -> Reply<Step<u64>> {
        let after = cx.recall().unwrap_or(after);
        let page: Vec<u64> = self.entries.range(after + 1..).take(PAGE).map(|(number, _)| number).collect();
        let last = page.last().copied().unwrap_or(after);
        let more = page.len() == PAGE;
        let step = Step::send_all(page).remember(&last);
        Ok(if more { step.again() } else { step })
    }

    /// Looks through one page in each step and sends nothing until it has found something.
    fn find(&self, cx: &Watch, wanted: u64) -> Reply<Step<u64>> {
        let after = cx.recall().unwrap_or(0);
        let page: Vec<u64> = self.entries.range(after + 1..).take(10).map(|(number, _)| number).collect();
        Ok(match page.last() {
            _ if page.contains(&wanted) => Step::send(wanted).done(),
            Some(last) => Step::wait().remember(last).again(),
            None => Step::end(),
        })
    }
}

fn wait(cx: &Watch, index: u64) -> Reply<Step<u64>> {
    Ok(if cx.index() < index { Step::wait().until_index(index) } else { Step::send(cx.index()).done() })
}

fn append(machine: &mut Harness<Journal>, numbers: impl IntoIterator<Item = u64>) {
    machine.change(|journal| numbers.into_iter().for_each(|number| journal.entries.insert(&number, "entry")));
}

/// Makes a journal in a harness that has applied entries, or none.
fn journal(applied: bool) -> Harness<Journal> {
    let mut machine = Harness::new();
    if applied {
        machine.together(|_| ());
    }
    append(&mut machine, 1..=ENTRIES);
    machine
}

#[test]
fn a_large_range_comes_in_pages_and_then_each_new_entry() {
    for applied in [true, false] {
        let mut machine = journal(applied);
        let stream = machine.watch::<_, u64>("Journal/Follow", &0_u64);
        assert_eq!(machine.sent(&stream), (1..=ENTRIES).collect::<Vec<_>>());
        assert_eq!(machine.steps(&stream), 5);
        append(&mut machine, [ENTRIES + 1]);
        assert_eq!(machine.sent(&stream), [ENTRIES + 1]);
        // A client that was disconnected says how far it was.
        let rest = machine.watch::<_, u64>("Journal/Follow", &(ENTRIES - 1));
        assert_eq!(machine.sent(&rest), [ENTRIES, ENTRIES + 1]);
    }
}

#[test]
fn a_step_that_sends_nothing_may_run_again_too() {
    for applied in [true, false] {
        let mut machine = journal(applied);
        let stream = machine.watch::<_, u64>("Journal/Find", &2_000_u64);
        assert_eq!((machine.sent(&stream), machine.ended(&stream)), (vec![2_000], Some(Ok(()))));
        assert_eq!(machine.steps(&stream), 200);
    }
}

#[test]
fn an_index_that_is_reached_runs_the_next_step_at_once_and_another_one_waits() {
    let mut machine = Harness::<Journal>::new();
    let first = machine.watch::<_, u64>("Journal/Wait", &1_u64);
    let third = machine.watch::<_, u64>("Journal/Wait", &3_u64);
    assert_eq!((machine.steps(&first), machine.steps(&third)), (1, 1));
    machine.together(|_| ());
    assert_eq!(machine.sent(&first), [1]);
    machine.together(|_| ());
    machine.advance(Duration::from_secs(1));
    assert_eq!(machine.steps(&third), 1, "nothing has happened that it waits for");
    machine.together(|_| ());
    assert_eq!(machine.sent(&third), [3]);
    let late = machine.watch::<_, u64>("Journal/Wait", &2_u64);
    assert_eq!(machine.sent(&late), [3]);
}

#[test]
#[should_panic(expected = "does it ever wait?")]
fn a_stream_that_never_waits_ends_the_test() {
    let mut machine = journal(true);
    machine.watch::<_, u64>("Journal/Chatter", &0_u64);
}
