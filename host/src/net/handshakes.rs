//! Turns of the TLS handshakes of one port: how many are under way at a time, in all and of one
//! source, and how many of one source there may be a second. A handshake costs about a millisecond
//! of a processor, and whoever asks for it nearly nothing. Makes no handshake itself.
//!
//! - A handshake waits for its turn until the time of its connection is over. None is refused.
//! - A source that has shown a certificate has turns of its own kind. So handshakes of strangers,
//!   however many and however slow, never keep those of peers waiting.
//! - What a source has used up is remembered while it matters, and only so many sources are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::counts::Counts;
use super::rate::Rate;
use crate::source::Source;

/// Most handshakes under way at a port, and as many of sources that have shown a certificate.
const HANDSHAKES_MAX: usize = 64;
/// Most of one source among them.
const HANDSHAKES_OF_ONE_MAX: usize = 8;
/// Most handshakes of one source at once, as when all clients behind a proxy connect again.
const HANDSHAKES_AT_ONCE_MAX: u32 = 200;
/// Most handshakes of one source a second in the long run: about a tenth of a processor.
const HANDSHAKES_A_SECOND_MAX: u32 = 100;
/// Sources that are remembered without need.
const SOURCES_KEPT_MAX: usize = 1_024;

/// The turns of one port. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Handshakes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    of_strangers: Arc<Semaphore>,
    of_known: Arc<Semaphore>,
    sources: Mutex<HashMap<Source, OfSource>>,
    delayed: AtomicU64,
}

/// What one source does.
#[derive(Debug)]
struct OfSource {
    turns: Arc<Semaphore>,
    rate: Rate,
    /// Whether it has shown a certificate.
    is_known: bool,
}

/// One handshake under way. Its place is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _of_port: OwnedSemaphorePermit,
    _of_source: OwnedSemaphorePermit,
}

impl Handshakes {
    pub(super) fn new() -> Handshakes {
        let places = || Arc::new(Semaphore::new(HANDSHAKES_MAX));
        Handshakes(Arc::new(Inner {
            of_strangers: places(),
            of_known: places(),
            sources: Mutex::default(),
            delayed: AtomicU64::new(0),
        }))
    }

    /// Waits for the turn of a handshake.
    pub(super) async fn turn(&self, source: Source) -> Turn {
        let (turns, is_known) = self.of(source);
        let places = if is_known { &self.0.of_known } else { &self.0.of_strangers };
        let is_full = turns.available_permits() == 0 || places.available_permits() == 0;
        if is_full {
            Counts::add(&self.0.delayed);
        }
        // First its own: then no source has more than its places in the line of the port.
        let of_source = turns.acquire_owned().await.expect("nobody closes it");
        let rest = self.spend(source);
        if !rest.is_zero() {
            if !is_full {
                Counts::add(&self.0.delayed);
            }
            sleep(rest).await;
        }
        let of_port = places.clone().acquire_owned().await.expect("nobody closes it");
        Turn { _of_port: of_port, _of_source: of_source }
    }

    /// Notes that a source has shown a certificate.
    pub(super) fn has_shown(&self, source: Source) {
        if let Some(known) = self.0.sources.lock().get_mut(&source) {
            known.is_known = true;
        }
    }

    /// Returns how many handshakes are under way.
    pub(super) fn under_way(&self) -> usize {
        [&self.0.of_strangers, &self.0.of_known].map(|places| HANDSHAKES_MAX - places.available_permits()).iter().sum()
    }

    /// Returns how many handshakes had to wait since the process began.
    pub(super) fn delayed(&self) -> u64 {
        self.0.delayed.load(Relaxed)
    }

    fn of(&self, source: Source) -> (Arc<Semaphore>, bool) {
        let mut sources = self.0.sources.lock();
        let now = Instant::now();
        if sources.len() >= SOURCES_KEPT_MAX && !sources.contains_key(&source) {
            forget_some(&mut sources, now);
        }
        let of_source = sources.entry(source).or_insert_with(|| OfSource {
            turns: Arc::new(Semaphore::new(HANDSHAKES_OF_ONE_MAX)),
            rate: Rate::new(HANDSHAKES_AT_ONCE_MAX, HANDSHAKES_A_SECOND_MAX, now),
            is_known: false,
        });
        (of_source.turns.clone(), of_source.is_known)
    }

    /// Counts a handshake. Returns how long it has to wait.
    fn spend(&self, source: Source) -> Duration {
        let mut sources = self.0.sources.lock();
        sources.get_mut(&source).map(|of_source| of_source.rate.spend(1, Instant::now())).unwrap_or_default()
    }
}

/// Forgets sources that have no handshake and have used up little, strangers first.
fn forget_some(sources: &mut HashMap<Source, OfSource>, now: Instant) {
    let is_idle = |of_source: &mut OfSource| {
        // The table has one of the references.
        Arc::strong_count(&of_source.turns) == 1 && of_source.rate.is_rested(now)
    };
    sources.retain(|_, of_source| of_source.is_known || !is_idle(of_source));
    if sources.len() >= SOURCES_KEPT_MAX {
        sources.retain(|_, of_source| !is_idle(of_source));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn source(number: u16) -> Source {
        Source::V6([number, 0, 0, 0])
    }

    fn turn(handshakes: &Handshakes, number: u16) -> Option<Turn> {
        handshakes.turn(source(number)).now_or_never()
    }

    #[test]
    fn one_source_never_has_all_turns() {
        let handshakes = Handshakes::new();
        let mut flood: Vec<Turn> = (0..HANDSHAKES_OF_ONE_MAX).map(|_| turn(&handshakes, 1).unwrap()).collect();
        assert!(turn(&handshakes, 1).is_none(), "it has all that one may have");
        let other = turn(&handshakes, 2).unwrap();
        assert_eq!(handshakes.under_way(), HANDSHAKES_OF_ONE_MAX + 1);
        flood.pop();
        assert!(turn(&handshakes, 1).is_some());
        drop((flood, other));
        assert_eq!((handshakes.under_way(), handshakes.delayed()), (0, 1));
    }

    #[test]
    fn strangers_never_keep_those_with_a_certificate_waiting() {
        let handshakes = Handshakes::new();
        drop(turn(&handshakes, 1000).unwrap());
        handshakes.has_shown(source(1000));
        let each = HANDSHAKES_OF_ONE_MAX as u16;
        let strangers: Vec<Turn> =
            (0..HANDSHAKES_MAX as u16).map(|number| turn(&handshakes, number / each).unwrap()).collect();
        assert!(turn(&handshakes, 900).is_none(), "all turns of strangers are taken");
        assert!(turn(&handshakes, 1000).is_some());
        drop(strangers);
    }

    #[tokio::test]
    async fn one_that_connects_again_and_again_is_slowed_down() {
        let handshakes = Handshakes::new();
        for _ in 0..HANDSHAKES_AT_ONCE_MAX {
            drop(handshakes.turn(source(1)).await);
        }
        let begun = Instant::now();
        // The bucket may have got some back meanwhile.
        for _ in 0..HANDSHAKES_AT_ONCE_MAX {
            drop(handshakes.turn(source(1)).await);
        }
        assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
        assert!(turn(&handshakes, 2).is_some(), "another one does not wait");
    }

    #[test]
    fn only_so_many_sources_are_remembered() {
        let handshakes = Handshakes::new();
        let held = turn(&handshakes, 0).unwrap();
        for number in 1..=3 * SOURCES_KEPT_MAX as u16 {
            assert!(turn(&handshakes, number).is_some());
        }
        let sources = handshakes.0.sources.lock();
        assert!(sources.len() <= SOURCES_KEPT_MAX && sources.contains_key(&source(0)), "{}", sources.len());
        drop(held);
    }
}
