//! The figures of one case, and the verdict on them. A pure function of what was seen: it measures
//! nothing and asks nobody.

use std::time::Duration;

use super::case::Promised;
use super::honest::{Call, Kind, Phase};

/// Factor by which the honest clients may become slower.
const FACTOR_MAX: f64 = 3.0;
/// Shortest time that counts as a baseline. A put passes three processes that share the processors
/// with the attacker. Where each waits for one turn of the scheduler, of 3 or 4 ms, the node did
/// nothing wrong.
const BASELINE_MIN: Duration = Duration::from_millis(5);
/// Most bytes by which a node may grow.
const GROWTH_BYTES_MAX: u64 = 256 << 20;
/// Time in which the attacked node must serve again.
pub(crate) const BACK_MAX: Duration = Duration::from_secs(5);

/// What is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judging {
    /// Everything.
    All,
    /// Everything but times, which say nothing on a machine that does other work.
    AllButTimes,
}

/// What was seen of one case.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// 99th percentiles of puts at the other nodes.
    pub puts: Times,
    /// 99th percentiles of gets at the other nodes.
    pub gets: Times,
    /// 99th percentiles of puts at the attacked node.
    pub puts_at_attacked: Times,
    /// 99th percentiles of gets at the attacked node.
    pub gets_at_attacked: Times,
    /// What the clients of the attacked node are promised.
    pub promised: Promised,
    /// Errors of honest calls at the other nodes, in all phases but the warm-up.
    pub errors: Vec<String>,
    /// Honest calls at the other nodes during the attack.
    pub calls: usize,
    /// Failed honest calls at the attacked node, and all of them, during the attack.
    pub at_attacked: (usize, usize),
    /// Bytes by which the node has grown that grew most.
    pub growth_bytes: u64,
    /// Whether the attack was ended early, because a node had grown too far.
    pub stopped: bool,
    /// Time until the attacked node served again; `None` if it did not.
    pub back: Option<Duration>,
    /// Nodes whose process has ended, with their last words.
    pub ended: Vec<String>,
    /// Terms that began during attack and after: elections.
    pub elections: u64,
    /// Processors that the attacked node used during the attack.
    pub node_processors: f64,
    /// Processors that the attacker used.
    pub attacker_processors: f64,
    /// What the attacker did.
    pub did: String,
    /// How much the attacker did.
    pub deeds: u64,
}

/// 99th percentiles of one kind of call, at the attacked node or at the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Before the attack.
    pub baseline: Duration,
    /// During it.
    pub attack: Duration,
    /// After it.
    pub after: Duration,
    /// Calls that were due during the attack and failed.
    pub failed: usize,
}

/// The verdict on one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Everything that is wrong. Empty means that the case has passed.
    pub wrong: Vec<String>,
}

impl Times {
    fn of(calls: &[Call], kind: Kind, at_attacked: bool) -> Times {
        let during = |phase| {
            let kept = move |call: &&Call| call.phase == phase && call.kind == kind && call.at_attacked == at_attacked;
            calls.iter().filter(kept)
        };
        let p99 = |phase| percentile_99(during(phase).map(|call| call.took).collect());
        Times {
            baseline: p99(Phase::Baseline),
            attack: p99(Phase::Attack),
            after: p99(Phase::After),
            failed: during(Phase::Attack).filter(|call| call.error.is_some()).count(),
        }
    }

    /// Returns the factor by which the attack made calls slower, as it was measured: 0 without a
    /// baseline.
    pub fn raw_factor(&self) -> f64 {
        match self.baseline.is_zero() {
            true => 0.0,
            false => self.attack.as_secs_f64() / self.baseline.as_secs_f64(),
        }
    }

    /// Returns the factor that is judged: a short baseline counts as [`BASELINE_MIN`].
    pub fn factor(&self) -> f64 {
        self.attack.as_secs_f64() / self.baseline.max(BASELINE_MIN).as_secs_f64()
    }
}

impl Figures {
    /// Computes what follows from the honest calls. The other figures stay empty.
    pub(crate) fn of(calls: &[Call]) -> Figures {
        let judged = |call: &&Call| !call.at_attacked && call.phase != Phase::WarmUp;
        let attacked = |call: &&Call| call.at_attacked && call.phase == Phase::Attack;
        Figures {
            puts: Times::of(calls, Kind::Put, false),
            gets: Times::of(calls, Kind::Get, false),
            puts_at_attacked: Times::of(calls, Kind::Put, true),
            gets_at_attacked: Times::of(calls, Kind::Get, true),
            errors: calls.iter().filter(judged).filter_map(told).collect(),
            calls: calls.iter().filter(judged).filter(|call| call.phase == Phase::Attack).count(),
            at_attacked: (
                calls.iter().filter(attacked).filter(|call| call.error.is_some()).count(),
                calls.iter().filter(attacked).count(),
            ),
            ..Figures::default()
        }
    }

    /// Returns what the clients of the attacked node are promised: kinds of calls.
    fn kept_at_attacked(&self) -> Vec<(&'static str, Times)> {
        let (puts, gets) = (("puts", self.puts_at_attacked), ("gets", self.gets_at_attacked));
        match self.promised {
            Promised::Nothing => Vec::new(),
            Promised::Commands => vec![puts],
            Promised::Everything => vec![puts, gets],
        }
    }

    /// Judges them.
    pub fn verdict(&self, judging: Judging) -> Verdict {
        let mut wrong = Vec::new();
        wrong.extend(self.ended.iter().map(|ended| format!("a process ended: {ended}")));
        if let Some(first) = self.errors.first() {
            wrong.push(format!("{} honest calls at other nodes failed, the first with {first}", self.errors.len()));
        }
        for (kind, times) in self.kept_at_attacked().into_iter().filter(|(_, times)| times.failed > 0) {
            wrong.push(format!(
                "{} {kind} at the attacked node failed, whose clients are promised better",
                times.failed
            ));
        }
        if self.calls == 0 || self.deeds == 0 {
            wrong.push(format!("nothing is proven: {} honest calls, {} deeds of the attacker", self.calls, self.deeds));
        }
        if self.growth_bytes > GROWTH_BYTES_MAX {
            let stopped = if self.stopped { ", where the attack was ended" } else { "" };
            wrong.push(format!("a node grew by {} MiB{stopped}", self.growth_bytes >> 20));
        }
        if self.back.is_none() {
            wrong.push("the attacked node does not serve again".into());
        }
        if judging == Judging::All {
            wrong.extend(self.slowness());
        }
        Verdict { wrong }
    }

    fn slowness(&self) -> Vec<String> {
        let mut slow = Vec::new();
        let at_others = [("puts", self.puts), ("gets", self.gets)].map(|kept| ("other nodes", kept));
        let at_attacked = self.kept_at_attacked().into_iter().map(|kept| ("the attacked node", kept));
        for (place, (kind, times)) in at_others.into_iter().chain(at_attacked) {
            if times.factor() > FACTOR_MAX {
                slow.push(format!("{kind} at {place} became {:.1} times slower", times.factor()));
            }
        }
        if let Some(back) = self.back.filter(|back| *back > BACK_MAX) {
            slow.push(format!("the attacked node served again only after {:.1} s", back.as_secs_f64()));
        }
        slow
    }
}

impl Verdict {
    /// Tells whether nothing is wrong.
    pub fn passed(&self) -> bool {
        self.wrong.is_empty()
    }
}

fn told(call: &Call) -> Option<String> {
    call.error.as_ref().map(|error| format!("{error} ({:?}, {:?})", call.kind, call.phase))
}

fn percentile_99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let place = (times.len() * 99).div_ceil(100).saturating_sub(1);
    times.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Figures {
        let times = Times {
            baseline: Duration::from_millis(30),
            attack: Duration::from_millis(60),
            after: Duration::from_millis(30),
            failed: 0,
        };
        Figures {
            puts: times,
            gets: times,
            puts_at_attacked: times,
            gets_at_attacked: times,
            calls: 600,
            deeds: 1,
            back: Some(Duration::from_secs(1)),
            ..Figures::default()
        }
    }

    fn wrong(figures: Figures, judging: Judging) -> String {
        figures.verdict(judging).wrong.join("; ")
    }

    #[test]
    fn unharmed_clients_pass() {
        assert!(good().verdict(Judging::All).passed());
    }

    #[test]
    fn each_harm_is_named() {
        let slow = Times { attack: Duration::from_millis(91), ..good().puts };
        let table = [
            (Figures { ended: vec!["nodeA".into()], ..good() }, "a process ended: nodeA"),
            (Figures { errors: vec!["Unavailable".into()], ..good() }, "1 honest calls at other nodes failed"),
            (Figures { calls: 0, ..good() }, "nothing is proven"),
            (Figures { deeds: 0, ..good() }, "nothing is proven"),
            (Figures { growth_bytes: 257 << 20, ..good() }, "grew by 257 MiB"),
            (Figures { back: None, ..good() }, "does not serve again"),
            (Figures { puts: slow, ..good() }, "puts at other nodes became 3.0 times slower"),
            (Figures { gets: slow, ..good() }, "gets at other nodes became 3.0 times slower"),
            (Figures { back: Some(Duration::from_secs(6)), ..good() }, "only after 6.0 s"),
        ];
        for (figures, expected) in table {
            let wrong = wrong(figures, Judging::All);
            assert!(wrong.contains(expected), "{wrong:?} instead of {expected}");
        }
    }

    #[test]
    fn times_alone_do_not_fail_a_run_that_does_not_judge_them() {
        let slow = Times { attack: Duration::from_secs(9), ..good().puts };
        let figures = Figures { puts: slow, back: Some(Duration::from_secs(9)), ..good() };
        assert_eq!(wrong(figures, Judging::AllButTimes), "");
    }

    #[test]
    fn a_short_baseline_is_no_reason_to_fail() {
        let times = |attack| Times {
            baseline: Duration::from_millis(2),
            attack: Duration::from_millis(attack),
            ..Times::default()
        };
        assert_eq!(wrong(Figures { puts: times(14), ..good() }, Judging::All), "");
        assert!(!wrong(Figures { puts: times(16), ..good() }, Judging::All).is_empty());
        assert_eq!((times(14).raw_factor(), Times::default().raw_factor()), (7.0, 0.0));
    }

    #[test]
    fn the_attacked_node_is_judged_by_what_its_clients_are_promised() {
        let slow = Times { attack: Duration::from_millis(91), ..good().puts };
        let failed = Times { failed: 2, ..good().puts };
        let table = [
            (Promised::Nothing, slow, slow, ""),
            (Promised::Nothing, failed, failed, ""),
            (Promised::Commands, good().puts, slow, ""),
            (Promised::Commands, slow, slow, "puts at the attacked node became 3.0 times slower"),
            (Promised::Commands, failed, failed, "2 puts at the attacked node failed"),
            (Promised::Everything, good().puts, slow, "gets at the attacked node became 3.0 times slower"),
        ];
        for (promised, puts_at_attacked, gets_at_attacked, expected) in table {
            let wrong = wrong(Figures { promised, puts_at_attacked, gets_at_attacked, ..good() }, Judging::All);
            assert!(wrong.contains(expected) && wrong.is_empty() == expected.is_empty(), "{wrong:?}: {expected}");
        }
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times = |count: u64| (1..=count).map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(percentile_99(times(100)), Duration::from_millis(99));
        assert_eq!(percentile_99(times(1000)), Duration::from_millis(990));
        assert_eq!(percentile_99(times(3)), Duration::from_millis(3));
        assert_eq!(percentile_99(Vec::new()), Duration::ZERO);
    }

    #[test]
    fn calls_are_counted_where_they_belong() {
        let call = |phase, at_attacked, error: Option<&str>| Call {
            phase,
            at_attacked,
            kind: Kind::Put,
            took: Duration::from_millis(7),
            error: error.map(str::to_owned),
        };
        let figures = Figures::of(&[
            call(Phase::WarmUp, false, Some("too early")),
            call(Phase::Baseline, false, None),
            call(Phase::Attack, false, Some("refused")),
            call(Phase::Attack, true, Some("refused")),
            call(Phase::Attack, true, None),
        ]);
        assert_eq!((figures.errors.len(), figures.calls, figures.at_attacked), (1, 1, (1, 2)));
        assert_eq!((figures.puts.baseline, figures.gets.baseline), (Duration::from_millis(7), Duration::ZERO));
        assert_eq!((figures.puts.failed, figures.puts_at_attacked.failed), (1, 1));
        assert_eq!(figures.puts_at_attacked.attack, Duration::from_millis(7));
    }
}
