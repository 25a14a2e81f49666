//! What a handler can learn about its call. The values come from the log, or from the host for this
//! call alone. None of them comes from this node's clock.

use std::time::Duration;

use crate::host;
use crate::random::Sequence;
use crate::value::{Stored, describe};

/// Index, position and time of a call, as the host gives them.
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

            /// Returns the log time in milliseconds since 1970.
            ///
            /// It is the clock of the leader that proposed the entry at [`index`](Self::index). It
            /// never goes backwards from one index to the next.
            pub fn time_ms(&self) -> u64 {
                self.place.time_ms
            }

            /// Returns [`time_ms`](Self::time_ms) as a duration since 1970.
            pub fn time(&self) -> Duration {
                Duration::from_millis(self.place.time_ms)
            }
        }
    };
}

macro_rules! caller_method {
    ($context:ty) => {
        impl $context {
            /// Returns the name that the client has proven, by a token or by its certificate.
            ///
            /// It is empty if the client has shown neither, and on a node that lets everybody do
            /// everything. A command has it in its log entry, so every node sees the same name. A
            /// test sets it with `Harness::as_caller`.
            pub fn caller(&self) -> String {
                host::caller()
            }
        }
    };
}

/// Context of a command. Everything in it is equal on every node.
#[derive(Debug)]
pub struct Command {
    place: Place,
    random: Sequence,
}

shared_methods!(Command, "Raft log index of the entry being applied. Commands of one entry share it.");
caller_method!(Command);

impl Command {
    /// Returns the position of the command in its entry, from 0.
    pub fn position(&self) -> u32 {
        self.place.position
    }

    /// Returns (index, position), which is unique to each command and grows.
    ///
    /// Use it where another program would draw a random id.
    pub fn id(&self) -> (u64, u32) {
        (self.place.index, self.place.position)
    }

    /// Returns the next number of a sequence that is the same on every node.
    ///
    /// The sequence follows from [`id`](Self::id) alone. Clients can predict it: never use it for a
    /// secret.
    pub fn random(&self) -> u64 {
        self.random.next()
    }

    /// Returns a random number from 0 to less than `bound`.
    ///
    /// It is drawn from the sequence of [`random`](Self::random). Each number is equally likely.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn random_below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// Shuffles `things` with numbers from the sequence of [`random`](Self::random).
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

/// Context of a query.
#[derive(Debug)]
pub struct Query {
    place: Place,
}

shared_methods!(Query, "Raft log index last applied to the state that this call sees.");
caller_method!(Query);

impl Query {
    /// Returns the status of this node, a JSON object. It differs between nodes.
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
    /// The client has opened the stream.
    Start,
    /// A commit changed something that the last step read.
    Change,
    /// A time or an index that the last step asked for was reached, and nothing that it read has
    /// changed.
    Wake,
    /// A snapshot replaced the state since the last step, so the stream may have missed steps.
    Reset,
}

/// Context of a step of a watch.
#[derive(Debug)]
pub struct Watch {
    place: Place,
    cause: Cause,
    memo: Vec<u8>,
}

shared_methods!(Watch, "Raft log index last applied to the state that this call sees.");
caller_method!(Watch);

impl Watch {
    /// Returns why this step runs.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns the bytes that the last step passed to [`Step::memo`](crate::Step::memo).
    ///
    /// They are empty at the first step.
    pub fn memo(&self) -> &[u8] {
        &self.memo
    }

    /// Returns the value that the last step remembered, or `None`.
    ///
    /// The step passed it to [`Step::remember`](crate::Step::remember).
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

/// The machine that ran before a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// BLAKE3 hash of its component.
    pub hash: [u8; 32],
    /// The version that it declares; empty if it declares none.
    pub version: String,
}

/// Context of a call of a migration. Everything in it is equal on every node.
#[derive(Debug)]
pub struct Migration {
    place: Place,
    predecessor: Predecessor,
    cursor: Vec<u8>,
}

shared_methods!(Migration, "Raft log index of the entry that makes the change.");

impl Migration {
    /// Returns what ran before.
    pub fn predecessor(&self) -> &Predecessor {
        &self.predecessor
    }

    /// Returns the bytes that the last call passed to [`Migrated::more`](crate::Migrated::more).
    ///
    /// They are empty in the first call.
    pub fn cursor(&self) -> &[u8] {
        &self.cursor
    }

    /// Returns the same call with another cursor.
    pub(crate) fn with_cursor(&self, cursor: &[u8]) -> Self {
        Self { place: self.place, predecessor: self.predecessor.clone(), cursor: cursor.to_vec() }
    }

    #[doc(hidden)]
    pub fn at(place: Place, predecessor: Predecessor, cursor: Vec<u8>) -> Self {
        Self { place, predecessor, cursor }
    }
}
