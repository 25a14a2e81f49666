//! What one run of a watch handler answers: messages to send, and when to run again.

use std::time::Duration;

use crate::Status;
use crate::value::{EncodeValue, encode};

/// The outcome of one step of a stream.
///
/// The handler runs again when a key or range that it read changes, and in addition when it asks for
/// it: `Step::send(value).or_after(Duration::from_secs(60))`, `Step::wait().until_index(i)`.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a step does nothing unless it is returned"]
pub struct Step<T>(pub(crate) Result<Plan<T>, Status>);

/// The step of a handler that did not fail; with `T` = bytes, as it goes to the host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan<T> {
    pub(crate) replies: Vec<T>,
    pub(crate) memo: Vec<u8>,
    pub(crate) wake_at_index: u64,
    pub(crate) wake_after_ms: u32,
    pub(crate) done: bool,
}

impl<T> Step<T> {
    /// Sends one message.
    pub fn send(message: T) -> Self {
        Self::send_all([message])
    }

    /// Sends several messages, in order.
    pub fn send_all(messages: impl IntoIterator<Item = T>) -> Self {
        Self(Ok(Plan {
            replies: messages.into_iter().collect(),
            memo: Vec::new(),
            wake_at_index: 0,
            wake_after_ms: 0,
            done: false,
        }))
    }

    /// Sends nothing for now.
    pub fn wait() -> Self {
        Self::send_all([])
    }

    /// Ends the stream with OK, sending nothing more.
    pub fn end() -> Self {
        Self::wait().done()
    }

    /// Ends the stream with a status.
    pub fn fail(status: Status) -> Self {
        Self(Err(status))
    }

    /// Also runs again after this long without a step. Rounded up to a millisecond, at most 49 days;
    /// zero is never.
    pub fn or_after(self, quiet: Duration) -> Self {
        let ms = quiet.as_nanos().div_ceil(1_000_000);
        self.with(|plan| plan.wake_after_ms = u32::try_from(ms).unwrap_or(u32::MAX))
    }

    /// Also runs again when this log index has been applied; 0 is never.
    pub fn until_index(self, index: u64) -> Self {
        self.with(|plan| plan.wake_at_index = index)
    }

    /// Hands bytes to the next step of this stream, at most 4 KiB.
    pub fn memo(self, memo: impl Into<Vec<u8>>) -> Self {
        self.with(|plan| plan.memo = memo.into())
    }

    /// Hands a value to the next step, which takes it with [`Watch::recall`](crate::Watch::recall).
    pub fn remember<V>(self, value: &(impl EncodeValue<V> + ?Sized)) -> Self {
        let memo = encode(value);
        self.memo(memo)
    }

    /// Ends the stream with OK after the messages.
    pub fn done(self) -> Self {
        self.with(|plan| plan.done = true)
    }

    fn with(mut self, change: impl FnOnce(&mut Plan<T>)) -> Self {
        if let Ok(plan) = &mut self.0 {
            change(plan);
        }
        self
    }
}

impl<T> From<Status> for Step<T> {
    fn from(status: Status) -> Self {
        Self::fail(status)
    }
}

/// For handlers that use `?` in a function that returns `Reply<Step<_>>`.
impl<T> From<Result<Step<T>, Status>> for Step<T> {
    fn from(result: Result<Step<T>, Status>) -> Self {
        result.unwrap_or_else(Step::fail)
    }
}
