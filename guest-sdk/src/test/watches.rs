//! Streams in the harness: decides which step runs when. As on a node, the next step runs after a
//! commit that changes something that the last step read, at an applied index, after a quiet time,
//! and when the state was replaced. The client of a test takes every message at once.

use std::marker::PhantomData;

use prost::Message;

use super::Harness;
use super::guest::Request;
use super::host::{Call, Mode, Reads, Writes};
use crate::context::Cause;
use crate::dispatch::Machine;
use crate::status::{Reply, Status};
use crate::step::Step;

/// A stream that a test opened.
#[derive(Clone, Copy, Debug)]
pub struct Stream<R> {
    id: usize,
    reply: PhantomData<fn() -> R>,
}

/// Most steps that may follow at once on each other. A node would continue as fast as its client
/// takes messages, but a test has to end.
const STEPS_AT_ONCE_MAX: u32 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Open>);

#[derive(Debug)]
struct Open {
    method: String,
    request: Vec<u8>,
    caller: String,
    memo: Vec<u8>,
    reads: Reads,
    wake_at_index: u64,
    /// Milliseconds since 1970; `None` means never.
    wake_at_ms: Option<u64>,
    sent: Vec<Vec<u8>>,
    steps: usize,
    outcome: Option<Reply<()>>,
}

impl<M: Machine> Harness<M> {
    /// Opens a stream and runs its first step.
    ///
    /// Further steps run as long as each step asks for the next one at once.
    ///
    /// # Panics
    /// When the steps ask for the next one at once thousands of times, in this call or in a later
    /// one.
    pub fn watch<Q: Message, R: Message + Default>(&mut self, method: &str, request: &Q) -> Stream<R> {
        let id = self.streams.0.len();
        self.streams.0.push(Open {
            method: method.to_owned(),
            request: request.encode_to_vec(),
            caller: self.caller.clone(),
            memo: Vec::new(),
            reads: Reads::default(),
            wake_at_index: 0,
            wake_at_ms: None,
            sent: Vec::new(),
            steps: 0,
            outcome: None,
        });
        self.run(id, Cause::Start);
        Stream { id, reply: PhantomData }
    }

    /// Returns the messages sent on a stream since the last call.
    ///
    /// # Panics
    /// When a message is not an `R`, because the test names the wrong type.
    pub fn sent<R: Message + Default>(&mut self, stream: &Stream<R>) -> Vec<R> {
        std::mem::take(&mut self.streams.0[stream.id].sent)
            .iter()
            .map(|bytes| R::decode(bytes.as_slice()).expect("the stream carries this message"))
            .collect()
    }

    /// Returns how the stream ended, or `None` while it is open.
    pub fn ended<R>(&self, stream: &Stream<R>) -> Option<Reply<()>> {
        self.streams.0[stream.id].outcome.clone()
    }

    /// Returns how many steps the stream has run.
    ///
    /// A commit that changes nothing that the stream read adds no step.
    pub fn steps<R>(&self, stream: &Stream<R>) -> usize {
        self.streams.0[stream.id].steps
    }

    /// Closes a stream, like a client that disconnects.
    pub fn close<R>(&mut self, stream: &Stream<R>) {
        self.streams.0[stream.id].outcome = Some(Err(Status::cancelled("the client went away")));
    }

    pub(super) fn streams_after_commit(&mut self, writes: &Writes) {
        for id in self.open_streams() {
            let open = &self.streams.0[id];
            if open.reads.touched_by(writes) {
                self.run(id, Cause::Change);
            } else if open.wake_at_index != 0 && open.wake_at_index <= self.index {
                self.run(id, Cause::Wake);
            }
        }
    }

    pub(super) fn streams_after_reset(&mut self) {
        for id in self.open_streams() {
            self.run(id, Cause::Reset);
        }
    }

    pub(super) fn advance_to(&mut self, until_ms: u64) {
        while let Some((at_ms, id)) = self.next_timer().filter(|timer| timer.0 <= until_ms) {
            self.clock_ms = at_ms;
            if self.log_ms < at_ms {
                // The leader appends an entry without commands, so that the watch sees the time
                // that it waits for.
                self.begin_entry();
                self.streams_after_commit(&Writes::new());
            }
            // The step runs unless that entry has already woken the stream.
            if self.streams.0[id].wake_at_ms == Some(at_ms) {
                self.run(id, Cause::Wake);
            }
        }
        self.clock_ms = until_ms;
    }

    fn next_timer(&self) -> Option<(u64, usize)> {
        self.open_streams().into_iter().filter_map(|id| Some((self.streams.0[id].wake_at_ms?, id))).min()
    }

    fn open_streams(&self) -> Vec<usize> {
        let streams = self.streams.0.iter().enumerate();
        streams.filter(|(_, open)| open.outcome.is_none()).map(|(id, _)| id).collect()
    }

    /// Runs a step and those that follow at once.
    fn run(&mut self, id: usize, cause: Cause) {
        let mut again = self.step(id, cause);
        for _ in 1..STEPS_AT_ONCE_MAX {
            if !again {
                return;
            }
            again = self.step(id, Cause::Wake);
        }
        let method = &self.streams.0[id].method;
        assert!(!again, "{method} ran {STEPS_AT_ONCE_MAX} steps and asks for the next one at once: does it ever wait?");
    }

    /// Runs one step. Returns whether the next one follows at once.
    fn step(&mut self, id: usize, cause: Cause) -> bool {
        let place = self.place();
        let open = &mut self.streams.0[id];
        let memo = std::mem::take(&mut open.memo);
        let before = memo.clone();
        let mut call = Call::new(Mode::Watch, std::mem::take(&mut self.store));
        call.caller.clone_from(&open.caller);
        let request = Request { place, method: &open.method, bytes: &open.request };
        let (call, outcome) = self.guest.watch::<M>(call, request, cause, memo);
        self.store = call.store;
        self.lines.extend(call.lines);
        open.steps += 1;
        open.reads = call.reads;
        match outcome {
            Ok(step) => {
                let again = step.runs_again(self.index, &before);
                open.follow(step, self.clock_ms);
                again
            }
            Err(status) => {
                open.outcome = Some(Err(status));
                false
            }
        }
    }
}

impl Open {
    fn follow(&mut self, step: Step<Vec<u8>>, clock_ms: u64) {
        self.sent.extend(step.replies);
        self.memo = step.memo;
        self.wake_at_index = step.wake_at_index;
        self.wake_at_ms = match step.wake_after_ms {
            0 => None,
            ms => Some(clock_ms + u64::from(ms)),
        };
        if step.done {
            self.outcome = Some(Ok(()));
        }
    }
}
