//! How a machine takes over the state of an earlier version: the rules of `migrate!`, by version,
//! and what a call of one returns. Calls that belong together are part of one log entry; the host
//! makes them, passes the cursor on, and undoes all of them when one refuses.

use crate::context::Migration;
use crate::dispatch::State;
use crate::status::{Reply, Status};
use crate::text::{Text, is_same};

/// Most bytes of a version.
const VERSION_BYTES_MAX: usize = 64;

/// A state with rules for earlier versions, made by [`migrate!`](crate::migrate).
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not migrate",
    note = "`lockstep_guest::migrate!({Self} {{ \"1\" => |state, cx| ... }})` says how it takes over the state of an earlier version"
)]
pub trait Migrates: State {
    #[doc(hidden)]
    const RULES: &'static [Rule<Self>];
}

/// Code that changes the state, in one call.
pub type Migrate<S> = fn(&mut S, &Migration) -> Reply<Migrated>;

/// What is done for some versions.
pub struct Rule<S> {
    /// The versions; `None` stands for all.
    pub from: &'static [Option<&'static str>],
    /// What to do.
    pub migrate: Migrate<S>,
}

impl<S> std::fmt::Debug for Rule<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "from {:?}", self.from)
    }
}

/// How far a call of a migration has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the host learns from it whether there is another call"]
pub struct Migrated {
    /// `None` when nothing is left to do.
    pub(crate) cursor: Option<Vec<u8>>,
}

impl Migrated {
    /// Nothing is left to do.
    pub fn done() -> Self {
        Self { cursor: None }
    }

    /// Something is left to do: the next call gets this cursor, at most 4 KiB.
    ///
    /// An entry has at most 10,000 calls, which together write at most 256 MiB and use at most the
    /// fuel of 500 commands.
    pub fn more(cursor: impl Into<Vec<u8>>) -> Self {
        Self { cursor: Some(cursor.into()) }
    }
}

impl Migration {
    /// Does several things one after the other, each in calls of its own.
    ///
    /// Each part sees a cursor of its own, which is empty in its first call.
    ///
    /// ```
    /// # use lockstep_guest::Map;
    /// # lockstep_guest::state! {
    /// #     struct Bank { balances: Map<String, u64> = 1, limits: Map<String, u64> = 2 }
    /// # }
    /// lockstep_guest::migrate!(Bank {
    ///     "1" => |state, cx| cx.in_turn(state, &[
    ///         |state, cx| Ok(state.balances.rewrite(cx.cursor(), 1000, |_, old: u32| old.into())),
    ///         |state, cx| Ok(state.limits.rewrite(cx.cursor(), 1000, |_, old: u32| old.into())),
    ///     ]),
    /// });
    /// ```
    ///
    /// # Errors
    /// The refusal of a part.
    ///
    /// # Panics
    /// When there are more than 256 parts, or when the cursor is that of other parts.
    pub fn in_turn<S>(&self, state: &mut S, parts: &[Migrate<S>]) -> Reply<Migrated> {
        let (number, cursor) = self.cursor().split_first().map_or((0, &[][..]), |(number, rest)| (*number, rest));
        let part = parts.get(usize::from(number)).expect("the cursor is one of these parts");
        let migrated = part(state, &self.with_cursor(cursor))?;
        let next = usize::from(number) + 1;
        Ok(match migrated.cursor {
            Some(cursor) => Migrated::more([&[number][..], &cursor].concat()),
            None if next == parts.len() => Migrated::done(),
            None => Migrated::more([u8::try_from(next).expect("there are at most 256 parts")]),
        })
    }
}

/// Runs one call of the rule for the predecessor.
pub(crate) fn run<M: Migrates>(cx: &Migration) -> Reply<Migrated> {
    let version = cx.predecessor().version.as_str();
    let is_for = |rule: &&Rule<M>| rule.from.iter().any(|from| from.is_none_or(|from| from == version));
    match M::RULES.iter().find(is_for) {
        Some(rule) => (rule.migrate)(&mut M::open(), cx),
        None => {
            let known: Vec<String> =
                M::RULES.iter().flat_map(|rule| rule.from).flatten().map(|from| named(from)).collect();
            Err(Status::failed_precondition(format!(
                "this machine does not take over the state of {}; it knows {}",
                named(version),
                known.join(", ")
            )))
        }
    }
}

fn named(version: &str) -> String {
    if version.is_empty() { "a machine without a version".to_owned() } else { format!("version {version:?}") }
}

/// Returns the version, or fails the build if it is none.
pub const fn checked_version(version: &str) -> &str {
    if version.is_empty() {
        panic!("a version has at least one character");
    }
    check_characters(version);
    version
}

const fn check_characters(version: &str) {
    let bytes = version.as_bytes();
    if bytes.len() > VERSION_BYTES_MAX {
        panic!(
            "{}",
            Text::new().add("the version `").add(version).add("` is too long; at most 64 characters").as_str()
        );
    }
    let mut i = 0;
    while i < bytes.len() {
        if !matches!(bytes[i], b' '..=b'~') {
            panic!(
                "{}",
                Text::new()
                    .add("the version `")
                    .add(version)
                    .add("` has characters that are not printable ASCII")
                    .as_str()
            );
        }
        i += 1;
    }
}

/// Returns the bytes of a version.
pub const fn version_bytes<const N: usize>(version: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut i = 0;
    while i < N {
        bytes[i] = version.as_bytes()[i];
        i += 1;
    }
    bytes
}

/// Fails the build if a rule can never apply, or if a version is none.
pub const fn check_rules<S>(rules: &[Rule<S>]) {
    let mut i = 0;
    while i < rules.len() {
        let mut n = 0;
        while n < rules[i].from.len() {
            match rules[i].from[n] {
                Some(version) => {
                    check_characters(version);
                    if stands_before(rules, version, i, n) {
                        panic!(
                            "{}",
                            Text::new().add("the version `").add(version).add("` stands twice in `migrate!`").as_str()
                        );
                    }
                }
                None if i + 1 < rules.len() || rules[i].from.len() > 1 => {
                    panic!("`_` stands for all other versions: it is alone in its rule, which is the last one");
                }
                None => {}
            }
            n += 1;
        }
        i += 1;
    }
}

const fn stands_before<S>(rules: &[Rule<S>], version: &str, rule: usize, place: usize) -> bool {
    let mut i = 0;
    while i <= rule {
        let mut n = 0;
        while n < rules[i].from.len() && (i < rule || n < place) {
            if let Some(other) = rules[i].from[n]
                && is_same(other.as_bytes(), version.as_bytes())
            {
                return true;
            }
            n += 1;
        }
        i += 1;
    }
    false
}
