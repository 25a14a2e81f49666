//! The result of one run of a watch handler: messages to send, and when to run again.

use std::time::Duration;

use crate::value::{EncodeValue, encode};

/// One step of a stream.
///
/// A handler returns it in a [`Reply`](crate::Reply), as commands and queries do: `?` works, and an
/// `Err` ends the stream with its status.
///
/// The handler runs again when a key or range that it read changes. It also runs again when the
/// step asks for it: `Ok(Step::send(value).or_after(Duration::from_secs(60)))`,
/// `Ok(Step::wait().until_index(i))`, `Ok(Step::send_all(page).remember(&last).again())`.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a step does nothing unless it is returned"]
pub struct Step<T> {
    pub(crate) replies: Vec<T>,
    pub(crate) memo: Vec<u8>,
    pub(crate) wake_at_index: u64,
    pub(crate) wake_after_ms: u32,
    pub(crate) done: bool,
}

/// The first index. It has been applied wherever a watch runs.
pub(crate) const REACHED: u64 = 1;

impl<T> Step<T> {
    /// Sends one message.
    pub fn send(message: T) -> Self {
        Self::send_all([message])
    }

    /// Sends several messages, in order.
    pub fn send_all(messages: impl IntoIterator<Item = T>) -> Self {
        Self {
            replies: messages.into_iter().collect(),
            memo: Vec::new(),
            wake_at_index: 0,
            wake_after_ms: 0,
            done: false,
        }
    }

    /// Sends nothing now.
    pub fn wait() -> Self {
        Self::send_all([])
    }

    /// Ends the stream with OK and sends nothing more.
    pub fn end() -> Self {
        Self::wait().done()
    }

    /// Also runs again after this time without a step.
    ///
    /// The time is rounded up to a millisecond and is at most 49 days. Zero means never.
    pub fn or_after(mut self, quiet: Duration) -> Self {
        let ms = quiet.as_nanos().div_ceil(1_000_000);
        self.wake_after_ms = u32::try_from(ms).unwrap_or(u32::MAX);
        self
    }

    /// Also runs again when this log index has been applied.
    ///
    /// If it has been applied already, the next step runs at once, as with [`again`](Self::again).
    /// 0 means never.
    pub fn until_index(mut self, index: u64) -> Self {
        self.wake_at_index = index;
        self
    }

    /// Runs again as soon as the client has taken the messages, even if nothing changed.
    ///
    /// Use it to send more than fits into one step. Let the step [`remember`](Self::remember) where
    /// to continue.
    ///
    /// A node slows down steps that run again repeatedly and send nothing: after the first few it
    /// runs ten of them per second. This replaces [`until_index`](Self::until_index).
    pub fn again(self) -> Self {
        self.until_index(REACHED)
    }

    /// Passes bytes to the next step of this stream, at most 4 KiB.
    pub fn memo(mut self, memo: impl Into<Vec<u8>>) -> Self {
        self.memo = memo.into();
        self
    }

    /// Passes a value to the next step.
    ///
    /// That step reads it with [`Watch::recall`](crate::Watch::recall).
    pub fn remember<V>(self, value: &(impl EncodeValue<V> + ?Sized)) -> Self {
        let memo = encode(value);
        self.memo(memo)
    }

    /// Tells whether the next step follows at once.
    ///
    /// `index` and `memo` are those with which this step ran.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn runs_again(&self, index: u64, memo: &[u8]) -> bool {
        if self.done {
            return false;
        }
        match index {
            // Index 0 exists only in a test that has applied nothing. A step that waits there for
            // the first entry and changes nothing would only do the same again.
            0 => self.wake_at_index == REACHED && !(self.replies.is_empty() && self.memo == memo),
            index => (1..=index).contains(&self.wake_at_index),
        }
    }

    /// Ends the stream with OK after the messages. To end it with another status, return `Err`.
    pub fn done(mut self) -> Self {
        self.done = true;
        self
    }

    /// Converts every message with `turn`.
    pub(crate) fn map<U>(self, turn: impl FnMut(T) -> U) -> Step<U> {
        Step {
            replies: self.replies.into_iter().map(turn).collect(),
            memo: self.memo,
            wake_at_index: self.wake_at_index,
            wake_after_ms: self.wake_after_ms,
            done: self.done,
        }
    }
}
