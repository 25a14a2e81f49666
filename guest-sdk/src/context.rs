//! What a handler may ask about its call. Values come from the log, or from the host for this call
//! alone; none is a clock of this node.

use std::time::Duration;

use crate::host;
use crate::random::Sequence;
use crate::value::{Stored, describe};

/// Where a call stands in history, as the host says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct Place {
    pub index: u64,
    pub position: u32,
    pub time_ms: u64,
}

macro_rules! shared_methods {
    ($context:ty, $index:literal) => {
        impl $context {
            #[doc = $index]
            pub fn index(&self) -> u64 {
                self.place.index
            }

            /// Milliseconds since 1970 by the log: the clock of the leader that proposed the entry at
            /// [`index`](Self::index). Never goes backwards from one index to the next.
            pub fn time_ms(&self) -> u64 {
                self.place.time_ms
            }

            /// [`time_ms`](Self::time_ms) as a duration since 1970.
            pub fn time(&self) -> Duration {
                Duration::from_millis(self.place.time_ms)
            }

            /// Authenticated name of the client. Clients are not authenticated yet, so a node says the empty string, always;
            /// a test may set it with `Harness::as_caller`. Decide nothing by it.
            pub fn caller(&self) -> String {
                host::caller()
            }
        }
    };
}

/// Of a command. Everything in it is equal on every node.
#[derive(Debug)]
pub struct Command {
    place: Place,
    random: Sequence,
}

shared_methods!(Command, "Raft log index of the entry being applied. Commands of one entry share it.");

impl Command {
    /// Place in the entry, from 0.
    pub fn position(&self) -> u32 {
        self.place.position
    }

    /// (index, position): no two commands have the same, and it grows. Use it where another program
    /// would draw a random id.
    pub fn id(&self) -> (u64, u32) {
        (self.place.index, self.place.position)
    }

    /// The next number of a sequence that follows from [`id`](Self::id) alone, so it is the same on every
    /// node. Clients can foretell it: never use it for a secret.
    pub fn random(&self) -> u64 {
        self.random.next()
    }

    /// As [`random`](Self::random), from 0 to less than `bound`, each number equally likely.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn random_below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// Puts things into an order drawn with [`random`](Self::random).
    pub fn shuffle<T>(&self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            let other = self.random.below(last as u64 + 1);
            things.swap(last, usize::try_from(other).expect("not more than last"));
        }
    }

    #[doc(hidden)]
    pub fn at(place: Place) -> Self {
        Self { place, random: Sequence::at(place.index, place.position) }
    }
}

/// Of a query.
#[derive(Debug)]
pub struct Query {
    place: Place,
}

shared_methods!(Query, "Raft log index last applied to the state that this call sees.");

impl Query {
    /// What this node says about itself: a JSON object. Different on each node.
    pub fn node_status(&self) -> String {
        host::node_status()
    }

    #[doc(hidden)]
    pub fn at(place: Place) -> Self {
        Self { place }
    }
}

/// Why a step of a watch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client has just asked.
    Start,
    /// A commit touched what the last step read.
    Change,
    /// A time or an index that the last step asked for was reached, and nothing that it read has changed.
    Wake,
    /// A snapshot replaced the state since the last step; steps may have been missed.
    Reset,
}

/// Of a step of a watch.
#[derive(Debug)]
pub struct Watch {
    place: Place,
    cause: Cause,
    memo: Vec<u8>,
}

shared_methods!(Watch, "Raft log index last applied to the state that this call sees.");

impl Watch {
    /// Why this step runs.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// What the last step handed over with [`Step::memo`](crate::Step::memo); empty at the start.
    pub fn memo(&self) -> &[u8] {
        &self.memo
    }

    /// What the last step handed over with [`Step::remember`](crate::Step::remember); none if nothing.
    ///
    /// # Panics
    /// When the last step remembered a value of another type.
    pub fn recall<V: Stored>(&self) -> Option<V> {
        if self.memo.is_empty() {
            return None;
        }
        match V::decode_value(&self.memo) {
            Ok(value) => Some(value),
            Err(error) => panic!("the memo {} is {error}", describe(&self.memo)),
        }
    }

    #[doc(hidden)]
    pub fn at(place: Place, cause: Cause, memo: Vec<u8>) -> Self {
        Self { place, cause, memo }
    }
}
