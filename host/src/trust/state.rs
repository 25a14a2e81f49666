//! The keys and the policy that are in force, and what was derived from them: tokens that were
//! checked, verdicts about methods, used quotas. New keys or a new policy make a new state, so
//! nothing derived from the old ones is left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::keys::Keys;
use super::policy::Policy;
use super::quota::Quotas;
use super::roles::Right;
use super::verified::Verified;
use crate::limit::Limit;

/// Most verdicts that are remembered. About 1 KiB each, with the longest names and one verdict for
/// each subject.
const VERDICTS_MAX: usize = 8_192;

/// Most bytes of a method whose verdicts are remembered. Longer ones are names that a stranger has
/// made up.
pub(super) const METHOD_BYTES_MAX: usize = 256;

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) keys: Keys,
    pub(super) policy: Policy,
    pub(super) verified: Verified,
    verdicts: RwLock<Verdicts>,
    quotas: Mutex<Quotas>,
}

/// The verdicts about one subject, by method and right.
type OfSubject = HashMap<String, Vec<(Right, Arc<Verdict>)>>;

/// The verdicts that are remembered. They are found without an allocation, since every call asks.
#[derive(Debug, Default)]
struct Verdicts {
    /// `None` is whoever shows no name.
    of: HashMap<Option<Arc<str>>, OfSubject>,
    count: usize,
}

/// What the policy says about a subject and a method.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Denied,
    /// At least one grant has no quota.
    Free,
    /// The grants, with their calls a second.
    Counted(Vec<(usize, u32)>),
}

/// How a call fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fare {
    Allowed,
    Denied,
    /// Too many calls; the quota, and how long to wait.
    TooMany(u32, Duration),
}

impl State {
    pub(super) fn new(keys: Keys, policy: Policy) -> State {
        State { keys, policy, ..State::default() }
    }

    /// Whether the policy lets the subject call the method. It counts the call.
    pub(super) fn call(&self, subject: Option<&Arc<str>>, method: &str, right: Right, now: Instant) -> Fare {
        let verdict = self.verdict(subject, method, right);
        let Verdict::Counted(grants) = &*verdict else {
            return if *verdict == Verdict::Denied { Fare::Denied } else { Fare::Allowed };
        };
        let mut quotas = self.quotas.lock();
        let mut shortest: Option<(u32, Duration)> = None;
        for &(grant, per_second) in grants {
            match quotas.take(grant, subject, per_second, now) {
                Ok(()) => return Fare::Allowed,
                Err(wait) if shortest.is_none_or(|(_, least)| wait < least) => shortest = Some((per_second, wait)),
                Err(_) => {}
            }
        }
        shortest.map_or(Fare::Denied, |(per_second, wait)| Fare::TooMany(per_second, wait))
    }

    /// Whether the policy lets the subject call the method, however often it does.
    pub(super) fn allows(&self, subject: Option<&Arc<str>>, method: &str, right: Right) -> bool {
        *self.verdict(subject, method, right) != Verdict::Denied
    }

    /// Returns how near the limits are of what is remembered.
    pub(super) fn limits(&self) -> [Limit; 3] {
        let (subjects, subjects_max) = self.quotas.lock().remembered();
        [
            Limit::new("tokens_remembered", self.verified.len(), Verified::MAX),
            Limit::new("verdicts_remembered", self.verdicts.read().count, VERDICTS_MAX),
            Limit::new("quota_subjects_remembered", subjects, subjects_max),
        ]
    }

    fn verdict(&self, subject: Option<&Arc<str>>, method: &str, right: Right) -> Arc<Verdict> {
        if method.len() > METHOD_BYTES_MAX {
            return Arc::new(self.judge(subject, method, right));
        }
        let subject_key = subject.cloned();
        if let Some(known) = self.verdicts.read().get(&subject_key, method, right) {
            return known.clone();
        }
        let verdict = Arc::new(self.judge(subject, method, right));
        self.verdicts.write().put(subject_key, method, right, verdict.clone());
        verdict
    }

    fn judge(&self, subject: Option<&Arc<str>>, method: &str, right: Right) -> Verdict {
        let grants = self.policy.allowing(subject.map(|subject| &**subject), method, right);
        if grants.is_empty() {
            return Verdict::Denied;
        }
        let counted = grants.iter().map(|&grant| Some((grant, self.policy.grants[grant].per_second?)));
        counted.collect::<Option<Vec<_>>>().map_or(Verdict::Free, Verdict::Counted)
    }
}

impl Verdicts {
    fn get(&self, subject: &Option<Arc<str>>, method: &str, right: Right) -> Option<&Arc<Verdict>> {
        let of_method = self.of.get(subject)?.get(method)?;
        of_method.iter().find(|(of, _)| *of == right).map(|(_, verdict)| verdict)
    }

    /// Remembers a verdict. When there is no room, all others go, and are made again.
    fn put(&mut self, subject: Option<Arc<str>>, method: &str, right: Right, verdict: Arc<Verdict>) {
        if self.get(&subject, method, right).is_some() {
            return;
        }
        if self.count >= VERDICTS_MAX {
            *self = Verdicts::default();
        }
        self.of.entry(subject).or_default().entry(method.to_owned()).or_default().push((right, verdict));
        self.count += 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn state(policy: &str) -> State {
        State::new(Keys::default(), Policy::parse(policy).unwrap())
    }

    fn grant(subject: &str, role: &str, more: &str) -> String {
        format!("[[grant]]\nsubject = \"{subject}\"\nrole = \"{role}\"\n{more}\n")
    }

    #[test]
    fn a_grant_without_a_quota_beats_those_with_one() {
        let (shop, now): (Arc<str>, _) = ("shop".into(), Instant::now());
        let call = |state: &State| state.call(Some(&shop), "a.B/C", Right::Query, now);
        let counted = state(&grant("shop", "reader", "per_second = 1"));
        assert_eq!((call(&counted), call(&counted)), (Fare::Allowed, Fare::TooMany(1, Duration::from_secs(1))));
        let both = state(&(grant("shop", "reader", "per_second = 1") + &grant("*", "reader", "")));
        assert!((0..9).all(|_| call(&both) == Fare::Allowed));
        let two = state(&(grant("shop", "reader", "per_second = 2") + &grant("*", "writer", "per_second = 3")));
        assert!((0..5).all(|_| call(&two) == Fare::Allowed), "quotas add up");
        assert!(matches!(call(&two), Fare::TooMany(3, _)));
        assert_eq!(call(&State::default()), Fare::Denied);
    }

    #[test]
    fn verdicts_are_bounded_and_apart() {
        let state = state(&(grant("a", "writer", "methods = [\"x/Y\"]") + &grant("anonymous", "reader", "")));
        let a: Arc<str> = "a".into();
        for _ in 0..2 {
            assert!(state.allows(Some(&a), "x/Y", Right::Command) && !state.allows(Some(&a), "x/Z", Right::Command));
            assert!(!state.allows(Some(&a), "x/Y", Right::Administer) && !state.allows(None, "x/Y", Right::Command));
            assert!(state.allows(None, "x/Y", Right::Query));
        }
        for number in 0..2 * VERDICTS_MAX {
            state.allows(None, &number.to_string(), Right::Look);
        }
        let verdicts = state.verdicts.read();
        let held = verdicts.of.values().flat_map(HashMap::values).map(Vec::len).sum::<usize>();
        assert!(held == verdicts.count && held <= VERDICTS_MAX, "{held}");
    }

    #[test]
    fn a_long_method_is_judged_and_not_remembered() {
        let state = state(&grant("anonymous", "reader", "methods = [\"x/*\"]"));
        let long = "y".repeat(METHOD_BYTES_MAX);
        assert!(state.allows(None, &format!("x/{long}"), Right::Query));
        assert!(!state.allows(None, &format!("z/{long}"), Right::Query));
        assert_eq!(state.verdicts.read().count, 0);
        assert!(!state.allows(None, &long, Right::Query));
        assert_eq!(state.verdicts.read().count, 1);
    }
}
