//! What the calls of the last minute of a probation come to, and whether that passes a threshold.
//! It asks no node, and keeps no clock: each look is given with its time.
//!
//! - A figure is judged by its own window: the looks of the last [`WINDOW`], or as many more as
//!   have [`CALLS_MIN`] calls. So what was good for an hour does not dilute what fails now.
//! - It is compared with that of all calls before the change.
//! - A window begins again when the figures are of another process.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{Figures, Thresholds};

/// Length of a window in which there are enough calls.
const WINDOW: Duration = Duration::from_secs(60);
/// Fewest calls by which a change is judged.
pub(super) const CALLS_MIN: u64 = 100;

/// A number of calls, and a sum over them: those that ended badly, or microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) calls: u64,
    pub(super) sum: u64,
}

impl Tally {
    /// Returns what came behind `before`. `None` if that is of another process.
    fn since(self, before: Tally) -> Option<Tally> {
        let Tally { calls, sum } = self;
        Some(Tally { calls: calls.checked_sub(before.calls)?, sum: sum.checked_sub(before.sum)? })
    }

    fn mean(self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.sum as f64 / self.calls as f64 }
    }
}

/// A figure that is judged.
struct Measure {
    /// Its name for programs.
    name: &'static str,
    /// The calls: "commands".
    calls: &'static str,
    /// Whether it is a time, or else a share of calls that ended badly.
    is_time: bool,
    /// Whether each node counts for itself. Otherwise all nodes have the same figure.
    is_of_node: bool,
    of: fn(&Figures) -> Tally,
}

const MEASURES: [Measure; 4] = [
    Measure {
        name: "failed",
        calls: "commands",
        is_time: false,
        is_of_node: false,
        of: |figures| figures.commands_failed,
    },
    Measure { name: "slower", calls: "commands", is_time: true, is_of_node: true, of: |figures| figures.commands_us },
    Measure {
        name: "queries_failed",
        calls: "queries and steps of watches",
        is_time: false,
        is_of_node: true,
        of: |figures| figures.queries_failed,
    },
    Measure {
        name: "queries_slower",
        calls: "queries and steps of watches",
        is_time: true,
        is_of_node: true,
        of: |figures| figures.queries_us,
    },
];

impl Measure {
    /// Says how the calls of a window at `node` pass the threshold. `None` if they do not, or if
    /// they cannot be compared.
    fn passed(&self, before: &Figures, node: &str, window: Tally, thresholds: Thresholds) -> Option<String> {
        let was = (self.of)(before);
        if self.is_of_node && was.calls < CALLS_MIN || self.is_time && node != before.node {
            return None;
        }
        let (now, was, calls) = (window.mean(), was.mean(), self.calls);
        if self.is_time {
            return (now > was * thresholds.slower).then(|| {
                format!("the guest takes {now:.0} us for each of the last {calls}, and {was:.0} us before the change")
            });
        }
        let (now, was) = (100.0 * now, 100.0 * was);
        (now > was + thresholds.failed)
            .then(|| format!("{now:.1}% of the last {calls} were refused or failed, and {was:.1}% before the change"))
    }
}

/// The windows of all figures.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// The node that was looked at last.
    node: String,
    windows: [Window; MEASURES.len()],
}

impl Windows {
    /// Takes a look at `now`, and returns which thresholds are passed: by name, in words.
    pub(super) fn look(
        &mut self,
        at: Instant,
        now: &Figures,
        before: &Figures,
        thresholds: Thresholds,
    ) -> Vec<(&'static str, String)> {
        let is_same_node = self.node == now.node;
        self.node.clone_from(&now.node);
        let judged = MEASURES.iter().zip(&mut self.windows).filter_map(|(measure, window)| {
            if measure.is_of_node && !is_same_node {
                window.looks.clear();
            }
            let calls = window.look(at, (measure.of)(now))?;
            Some((measure.name, measure.passed(before, &now.node, calls, thresholds)?))
        });
        judged.collect()
    }
}

/// The looks at one figure, oldest first. The first is where the window begins.
///
/// Looks between which nothing came are one. So there are no more than a window has, and no more
/// than [`CALLS_MIN`] before.
#[derive(Debug, Default)]
struct Window {
    looks: VecDeque<(Instant, Tally)>,
}

impl Window {
    /// Takes a look. Returns what came since the window began, if that is enough to judge by.
    fn look(&mut self, at: Instant, now: Tally) -> Option<Tally> {
        if self.looks.back().is_some_and(|(_, newest)| now.since(*newest).is_none()) {
            self.looks.clear();
        }
        match self.looks.back_mut() {
            Some((last, newest)) if *newest == now => *last = at,
            _ => self.looks.push_back((at, now)),
        }
        let could_begin = |(begun, tally): &(Instant, Tally)| {
            at.duration_since(*begun) >= WINDOW && now.calls - tally.calls >= CALLS_MIN
        };
        while self.looks.get(1).is_some_and(could_begin) {
            self.looks.pop_front();
        }
        let (_, begun) = self.looks.front()?;
        now.since(*begun).filter(|since| since.calls >= CALLS_MIN)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const THRESHOLDS: Thresholds = Thresholds { failed: 1.0, slower: 2.0 };

    fn tally(calls: u64, sum: u64) -> Tally {
        Tally { calls, sum }
    }

    fn commands(node: &str, calls: u64, failed: u64, us: u64) -> Figures {
        let (commands_failed, commands_us) = (tally(calls, failed), tally(calls, us));
        Figures { node: node.into(), commands_failed, commands_us, ..Figures::default() }
    }

    fn queries(node: &str, calls: u64, failed: u64, us: u64) -> Figures {
        let (queries_failed, queries_us) = (tally(calls, failed), tally(calls, us));
        Figures { node: node.into(), queries_failed, queries_us, ..Figures::default() }
    }

    /// Returns the names of what is passed at the last of these looks, which are two seconds apart.
    fn names(before: &Figures, looks: &[Figures]) -> Vec<&'static str> {
        let (mut windows, mut at, mut found) = (Windows::default(), Instant::now(), Vec::new());
        for look in looks {
            found = windows.look(at, look, before, THRESHOLDS);
            at += Duration::from_secs(2);
        }
        found.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn thresholds_are_passed_by_what_rose() {
        let before = commands("a", 1_000, 50, 10_000);
        let grown =
            |calls: u64, failed: u64, us: u64| [before.clone(), commands("a", 1_000 + calls, 50 + failed, 10_000 + us)];
        assert!(names(&before, &grown(200, 11, 3_000)).is_empty());
        assert_eq!(names(&before, &grown(200, 13, 3_000)), ["failed"]);
        assert_eq!(names(&before, &grown(200, 0, 4_100)), ["slower"]);
        assert!(names(&before, &grown(200, 0, 4_000)).is_empty(), "twice as long is not more than twice");
        assert_eq!(names(&before, &grown(200, 13, 4_100)), ["failed", "slower"]);
        assert!(names(&before, &grown(99, 99, 99_000)).is_empty(), "too few to judge by");
    }

    #[test]
    fn queries_are_judged_like_commands() {
        let before = queries("a", 1_000, 50, 10_000);
        let grown =
            |calls: u64, failed: u64, us: u64| [before.clone(), queries("a", 1_000 + calls, 50 + failed, 10_000 + us)];
        assert!(names(&before, &grown(200, 11, 3_000)).is_empty());
        assert_eq!(names(&before, &grown(200, 200, 3_000)), ["queries_failed"]);
        assert_eq!(names(&before, &grown(200, 0, 4_100)), ["queries_slower"]);
        let few = queries("a", 99, 0, 990);
        assert!(names(&few, &[few.clone(), queries("a", 299, 200, 99_000)]).is_empty(), "there were too few before");
    }

    #[test]
    fn what_fails_late_is_not_diluted_by_what_went_well() {
        let before = commands("a", 1_000, 0, 10_000);
        // Ten minutes go well, and then a tenth of the commands fails for a minute.
        let good = (0..300).map(|look| commands("a", 1_000 * (1 + look), 0, 10_000 * (1 + look)));
        let bad = (0..30).map(|look| commands("a", 300_000 + 100 * look, 10 * look, 3_000_000 + 1_000 * look));
        let looks: Vec<Figures> = good.clone().chain(bad).collect();
        assert!(names(&before, &good.collect::<Vec<_>>()).is_empty());
        assert_eq!(names(&before, &looks), ["failed"]);
    }

    #[test]
    fn a_window_reaches_back_as_far_as_it_has_calls() {
        let (mut window, begun) = (Window::default(), Instant::now());
        // A call each ten seconds.
        let found: Vec<Option<Tally>> =
            (0..300).map(|look| window.look(begun + Duration::from_secs(10 * look), tally(look, 0))).collect();
        assert_eq!((found[99], found[100], found[299]), (None, Some(tally(100, 0)), Some(tally(100, 0))));
        assert!(window.looks.len() <= 101, "{}", window.looks.len());
        // When nothing comes, nothing is kept.
        for look in 300..900 {
            window.look(begun + Duration::from_secs(10 * look), tally(299, 0));
        }
        assert!(window.looks.len() <= 101, "{}", window.looks.len());
    }

    #[test]
    fn figures_of_the_cluster_go_on_when_another_node_leads() {
        let before = commands("a", 100, 1, 500);
        let looks = [before.clone(), commands("b", 150, 1, 9_000), commands("b", 250, 90, 99_000)];
        assert_eq!(names(&before, &looks), ["failed"], "the times of another node say nothing");
        let before = queries("a", 100, 1, 500);
        let looks = [before.clone(), queries("b", 50, 0, 900), queries("b", 150, 90, 99_000)];
        assert_eq!(names(&before, &looks), ["queries_failed"]);
        assert!(names(&before, &looks[..2]).is_empty(), "what b has run before is no window");
        let again = [looks[1].clone(), queries("b", 10, 0, 10), queries("b", 100, 90, 90)];
        assert!(names(&before, &again).is_empty(), "b has restarted, and had too few since");
    }
}
