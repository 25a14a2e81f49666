//! Counts the frames of a client that carry no call, and says when they are too many. Each costs
//! the node about as much as a frame with a call, and no limit of calls bounds them. Reads heads of
//! frames only, and has no clock.
//!
//! - PING and WINDOW_UPDATE of an honest client answer what it got: libraries send at most two
//!   WINDOW_UPDATEs (call and connection) and a PING (to measure the path) for a DATA frame. So
//!   each DATA frame that is sent pays for three of them, and a client that takes a GB a second is
//!   never slowed down.
//! - An opened call pays for two more: the window of the call, and its priority (PRIORITY, which
//!   libraries send once a call). Headers that do not fit one frame pay for one CONTINUATION.
//! - What is paid for and not used is kept up to a limit, so an hour of honest work pays for no
//!   flood.
//! - SETTINGS count fivefold: each makes the node look at all calls of the connection. A client
//!   sends them once, or a few times a second while it measures the path.

use std::time::Duration;

use tokio::time::Instant;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Head, PADDED, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use super::rate::Rate;

/// Most control frames that a connection may send at once beyond those that are paid for.
pub const CONTROL_AT_ONCE_MAX: u32 = 1_000;

/// Most of them a second in the long run. A client needs less than one.
pub const CONTROL_A_SECOND_MAX: u32 = 100;

/// A connection that is beyond the rate for so long without a rest is closed.
pub const CONTROL_TOO_LONG: Duration = Duration::from_secs(10);

/// Longest time for which nothing is read. What one read held beyond that is forgiven, so that the
/// answer to our own PING is read in time.
const REST_MAX: Duration = Duration::from_secs(1);

/// Most frames that are paid for and have not come: what a client says about 80 MB that are on
/// their way.
const PAID_MAX: u32 = 16 << 10;

/// Most bytes of a DATA frame that may be nothing but padding.
const PADDING_BYTES_MAX: u32 = 256;

/// The control frames of one connection.
#[derive(Debug)]
pub(super) struct Control {
    rate: Rate,
    /// PINGs, WINDOW_UPDATEs and PRIORITYs that are paid for.
    paid: u32,
    /// Whether the headers of the last call go on in a CONTINUATION that is paid for.
    goes_on: bool,
    /// Time beyond the rate after which the connection is closed.
    too_long: Duration,
    /// The start of the time in which the connection is beyond the rate.
    since: Option<Instant>,
}

/// What follows from the frames that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Nothing.
    Free,
    /// Nothing is read for that time.
    Rest(Duration),
    /// The connection is closed.
    Over,
}

impl Control {
    pub(super) fn new(now: Instant) -> Control {
        Control::ended_after(CONTROL_TOO_LONG, now)
    }

    pub(super) fn ended_after(too_long: Duration, now: Instant) -> Control {
        let rate = Rate::new(CONTROL_AT_ONCE_MAX, CONTROL_A_SECOND_MAX, now);
        Control { rate, paid: 0, goes_on: false, too_long, since: None }
    }

    /// Returns what a frame costs that the client has sent.
    pub(super) fn received(&mut self, frame: Head) -> usize {
        match frame.kind {
            DATA => usize::from(is_empty(frame)),
            HEADERS if frame.length == 0 => 1,
            HEADERS => {
                self.pay(2);
                self.goes_on = !frame.has(END_HEADERS);
                0
            }
            // They have a rate of their own.
            RST_STREAM => 0,
            PING | WINDOW_UPDATE | PRIORITY if self.paid > 0 => {
                self.paid -= 1;
                0
            }
            CONTINUATION => usize::from(!std::mem::take(&mut self.goes_on)),
            SETTINGS if !frame.has(ACK) => 5,
            // Kinds that nobody knows are here, too.
            _ => 1,
        }
    }

    /// Notes a frame that was sent to the client.
    pub(super) fn sent(&mut self, frame: Head) {
        if frame.kind == DATA {
            self.pay(3);
        }
    }

    fn pay(&mut self, frames: u32) {
        self.paid = PAID_MAX.min(self.paid + frames);
    }

    /// Pays for frames that the client has sent.
    pub(super) fn spend(&mut self, cost: usize, now: Instant) -> Pace {
        if cost == 0 {
            return Pace::Free;
        }
        if self.rate.is_rested(now) {
            self.since = None;
        }
        let rest = self.rate.spend(cost, now);
        if rest.is_zero() {
            return Pace::Free;
        }
        self.rate.forgive(REST_MAX);
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.too_long { Pace::Over } else { Pace::Rest(rest.min(REST_MAX)) }
    }

    /// Returns whether the connection was beyond the rate a short time ago.
    pub(super) fn is_restless(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.since.is_some() && !self.rate.is_rested(now())
    }
}

fn is_empty(frame: Head) -> bool {
    let has_nothing = frame.length == 0 || frame.has(PADDED) && frame.length <= PADDING_BYTES_MAX;
    has_nothing && !frame.has(END_STREAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u32) -> Head {
        Head { kind, flags, length }
    }

    fn control() -> (Control, Instant) {
        let now = Instant::now();
        (Control::new(now), now)
    }

    #[test]
    fn each_kind_has_its_cost() {
        let rows = [
            ("an empty DATA", frame(DATA, 0, 0), 1),
            ("a DATA of padding", frame(DATA, PADDED, 200), 1),
            ("the last DATA", frame(DATA, END_STREAM, 0), 0),
            ("a DATA", frame(DATA, 0, 100), 0),
            ("a call", frame(HEADERS, 4, 50), 0),
            ("empty HEADERS", frame(HEADERS, 4, 0), 1),
            ("PRIORITY", frame(PRIORITY, 0, 5), 1),
            ("a reset", frame(RST_STREAM, 0, 4), 0),
            ("SETTINGS", frame(SETTINGS, 0, 0), 5),
            ("an answer to SETTINGS", frame(SETTINGS, ACK, 0), 1),
            ("PING", frame(PING, 0, 8), 1),
            ("an answer to no PING", frame(PING, ACK, 8), 1),
            ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 4), 1),
            ("CONTINUATION", frame(CONTINUATION, 0, 0), 1),
            ("a kind that nobody knows", frame(77, 0, 100), 1),
        ];
        for (what, frame, cost) in rows {
            assert_eq!(control().0.received(frame), cost, "{what}");
        }
    }

    #[test]
    fn what_a_client_gets_pays_for_what_it_says_about_it() {
        let (mut control, now) = control();
        // A GB in frames of 16 KiB, for each of which the client says all that libraries say.
        for _ in 0..(1 << 30) / (16 << 10) {
            control.sent(frame(DATA, 0, 16 << 10));
            let cost: usize =
                [WINDOW_UPDATE, WINDOW_UPDATE, PING].iter().map(|kind| control.received(frame(*kind, 0, 8))).sum();
            assert_eq!(control.spend(cost, now), Pace::Free);
        }
        assert_eq!(control.received(frame(WINDOW_UPDATE, 0, 4)), 1, "no more than that");
        let _call = control.received(frame(HEADERS, 4, 50));
        assert_eq!([(); 3].map(|()| control.received(frame(WINDOW_UPDATE, 0, 4))), [0, 0, 1]);
    }

    #[test]
    fn a_call_pays_for_its_priority_and_for_headers_in_two_frames() {
        let (mut control, _) = control();
        for _ in 0..10_000 {
            let of_call = [
                frame(HEADERS, 0, 16 << 10),
                frame(CONTINUATION, END_HEADERS, 100),
                frame(PRIORITY, 0, 5),
                frame(WINDOW_UPDATE, 0, 4),
            ];
            assert_eq!(of_call.map(|frame| control.received(frame)), [0; 4]);
        }
        assert_eq!(control.received(frame(PRIORITY, 0, 5)), 1, "no more than that");
        let begun = [frame(HEADERS, 0, 100), frame(CONTINUATION, 0, 100), frame(CONTINUATION, 0, 100)];
        assert_eq!(begun.map(|frame| control.received(frame)), [0, 0, 1]);
        let whole = [frame(HEADERS, END_HEADERS, 100), frame(CONTINUATION, 0, 100)];
        assert_eq!(whole.map(|frame| control.received(frame)), [0, 1]);
    }

    #[test]
    fn honest_work_of_an_hour_pays_for_no_flood() {
        let (mut control, _) = control();
        for _ in 0..1_000_000 {
            control.sent(frame(DATA, 0, 16 << 10));
            let _call = control.received(frame(HEADERS, END_HEADERS, 50));
        }
        let cost: usize = (0..1_000_000).map(|_| control.received(frame(PING, 0, 8))).sum();
        assert_eq!(cost, 1_000_000 - PAID_MAX as usize);
    }

    #[test]
    fn a_burst_is_free_then_it_rests_and_in_the_end_it_is_over() {
        let (mut control, mut now) = control();
        assert_eq!(control.spend(CONTROL_AT_ONCE_MAX as usize, now), Pace::Free);
        assert!(!control.is_restless(|| now));
        assert_eq!(control.spend(50, now), Pace::Rest(Duration::from_millis(500)));
        assert!(control.is_restless(|| now));
        assert_eq!(control.spend(1_000_000, now), Pace::Rest(REST_MAX), "the rest is forgiven");
        let begun = now;
        while now < begun + CONTROL_TOO_LONG {
            now += REST_MAX;
            let pace = control.spend(1_000, now);
            assert_eq!(pace == Pace::Over, now >= begun + CONTROL_TOO_LONG, "{pace:?} after {:?}", now - begun);
        }
    }

    #[test]
    fn one_that_rests_between_bursts_is_never_over() {
        let (mut control, mut now) = control();
        for _ in 0..100 {
            assert_ne!(control.spend(CONTROL_AT_ONCE_MAX as usize + 1, now), Pace::Over);
            now += CONTROL_TOO_LONG;
            assert!(!control.is_restless(|| now));
        }
    }
}
