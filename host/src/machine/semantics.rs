//! The range of semantics that this build runs, and what a profile gains when its number is raised.
//! It knows no cluster, and decides no change. `guest` owns the newest number.
//!
//! - A number is never lowered, and an old one means what it meant: its limits keep their values.
//! - A limit that a later number brings gets its default when the number is raised, unless it was
//!   set before.

use std::fmt;

use crate::faults;
use crate::guest::{Limits, SEMANTICS, SIZES_METERED_SINCE, charges_sizes_first};

/// The oldest version that a build runs. A cluster keeps its version until it is raised by a log
/// entry. Version 3 knew no limit on the replies of an entry, and a profile without that limit has
/// none in this build.
const SEMANTICS_OLDEST: u32 = 3;

/// The limits that a number brought, with the first number that has them. A profile of an earlier
/// number has the values that `Limits` gives to what is left out.
const BROUGHT: &[(u32, &str)] = &[(4, "fuel_per_reply_byte"), (4, "reply_bytes_per_entry_max")];

/// The numbers that a build runs, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemanticsRange {
    /// The oldest one.
    pub oldest: u32,
    /// The newest one, with which the build founds a cluster.
    pub newest: u32,
}

impl SemanticsRange {
    /// Returns the range of this build. A build whose wasmtime charges sizes behind the operator
    /// does not run the numbers in which wasmtime charges them.
    pub fn of_this_build() -> SemanticsRange {
        let oldest = if charges_sizes_first() { SEMANTICS_OLDEST } else { SIZES_METERED_SINCE };
        let newest = faults::semantics_max().map_or(SEMANTICS, |max| max.clamp(oldest, SEMANTICS));
        SemanticsRange { oldest, newest }
    }

    /// Returns the limits with which the build founds a cluster.
    pub fn founding_limits(&self) -> Limits {
        Limits { semantics: self.newest, ..without(&Limits::DEFAULT, |brought| brought > self.newest) }
    }

    /// Returns whether the build runs this number.
    pub fn holds(&self, semantics: u32) -> bool {
        (self.oldest..=self.newest).contains(&semantics)
    }
}

impl fmt::Display for SemanticsRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// Returns the limits of a profile whose number is raised from `from` to `to`. An error says which
/// limits contradict each other then.
pub fn raised_limits(limits: &Limits, from: u32, to: u32) -> Result<Limits, String> {
    let bare = without(limits, |brought| brought > from);
    let is_new = |name: &str| BROUGHT.iter().any(|(number, new)| *new == name && (from + 1..=to).contains(number));
    let gained = Limits::keys().iter().filter(|key| is_new(key.name) && limits.value(key) == bare.value(key));
    let values: Vec<_> = gained.map(|key| (key.name.to_owned(), Limits::DEFAULT.value(key))).collect();
    limits.with(&values).map(|limits| Limits { semantics: to, ..limits })
}

/// Returns the limits as a profile has them that leaves out what some numbers brought.
fn without(limits: &Limits, leaves_out: impl Fn(u32) -> bool) -> Limits {
    let mut fields = serde_json::to_value(limits).expect("limits are numbers");
    let named = fields.as_object_mut().expect("limits have names");
    for (_, name) in BROUGHT.iter().filter(|(number, _)| leaves_out(*number)) {
        named.remove(*name);
    }
    let bare: Limits = serde_json::from_value(fields).expect("what a later number brought may be left out");
    // The number is not among the fields.
    Limits { semantics: limits.semantics, ..bare }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of_3() -> Limits {
        Limits { semantics: 3, fuel_per_reply_byte: 0, reply_bytes_per_entry_max: u64::MAX, ..Limits::DEFAULT }
    }

    #[test]
    fn the_range_ends_with_what_this_build_founds() {
        let range = SemanticsRange::of_this_build();
        assert_eq!((range.oldest, range.newest), (SEMANTICS_OLDEST, SEMANTICS));
        assert!(range.holds(range.oldest) && range.holds(range.newest));
        assert!(!range.holds(range.oldest - 1) && !range.holds(range.newest + 1));
        assert_eq!(SemanticsRange { oldest: 3, newest: 4 }.to_string(), "3 to 4");
    }

    #[test]
    fn a_cluster_is_founded_with_the_limits_that_its_number_has() {
        let founded = |newest| SemanticsRange { oldest: 3, newest }.founding_limits();
        assert_eq!(founded(3), of_3());
        assert_eq!(founded(4), Limits { semantics: 4, ..Limits::DEFAULT });
        assert_eq!(founded(SEMANTICS), Limits::DEFAULT);
    }

    #[test]
    fn what_a_number_brings_gets_its_default_and_the_rest_stays() {
        let before = Limits { fuel_per_command: 7_000_000, ..of_3() };
        let after = raised_limits(&before, 3, 4).unwrap();
        assert_eq!(after, Limits { semantics: 4, fuel_per_command: 7_000_000, ..Limits::DEFAULT });
        let raised = raised_limits(&before, 4, SEMANTICS).unwrap();
        assert_eq!(raised, Limits { semantics: SEMANTICS, ..before }, "the number had them before");
    }

    #[test]
    fn what_an_operator_has_set_stays() {
        let before = Limits { reply_bytes_per_entry_max: 32 << 20, ..of_3() };
        let after = raised_limits(&before, 3, 4).unwrap();
        assert_eq!(after, Limits { semantics: 4, reply_bytes_per_entry_max: 32 << 20, ..Limits::DEFAULT });
    }

    #[test]
    fn only_limits_that_may_be_left_out_were_brought() {
        for (number, name) in BROUGHT {
            assert!((SEMANTICS_OLDEST + 1..=SEMANTICS).contains(number), "{name}");
            assert!(Limits::keys().iter().any(|key| key.name == *name), "{name}");
        }
        assert_eq!(without(&Limits { semantics: 3, ..Limits::DEFAULT }, |_| true), of_3());
    }
}
