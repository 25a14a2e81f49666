//! The record of what lies under each tag of a guest's state, as an author keeps it in the file
//! `state.lock`: its syntax, what differs between it and a guest, and how it is brought up to date.
//! The SDK describes a guest's state in the same lines.
//!
//! ```text
//! # A comment.
//! 1 leases: Map<String, locks.Lease>
//! 2 index of leases: Set<(String, String)>
//! retired 3: Map<String, String>
//! ```
//!
//! A message counts as equal to a later version of itself under the same name.

use std::collections::BTreeMap;
use std::fmt;

/// Name of the file, beside the author's Cargo.toml.
pub const STATE_LOCK_FILE: &str = "state.lock";

/// The first lines of a file that is written.
const HEADER: &str = "\
# What lies under each tag of the state. Keep this file under version control: the build compares
# the state with it, and fails if a tag changes its type. `lockstep guest check --write_lock` adds
# new tags, and retires those that are gone. The rows of a Table are those of a Map, and a Counter
# is a Value<u64>.
";

/// What lies under each tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateLock {
    tags: BTreeMap<u16, Recorded>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Recorded {
    /// Name of the collection, or `index of` and that name. `None` for a tag that is retired.
    name: Option<String>,
    /// Type of the rows, with one space behind each comma and none elsewhere.
    rows: String,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct StateLockError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// A difference between a record and a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDifference {
    /// The tag.
    pub tag: u16,
    /// What differs, in words.
    pub words: String,
    /// Whether the tag has rows of another type than before, so that old rows cannot be read.
    pub breaks: bool,
}

impl StateLock {
    /// Reads the lines of a file or of a description.
    ///
    /// # Errors
    /// When a line has another form, or when a tag stands twice.
    pub fn parse(text: &str) -> Result<Self, StateLockError> {
        let mut lock = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refused = |problem: String| StateLockError { line: number, problem };
            let (tag, recorded) = parse_line(line).ok_or_else(|| {
                refused(format!("`{line}` is neither `<tag> <name>: <type>` nor `retired <tag>: <type>`"))
            })?;
            if lock.tags.insert(tag, recorded).is_some() {
                return Err(refused(format!("the tag {tag} stands twice")));
            }
        }
        Ok(lock)
    }

    /// Returns each tag with the name of its collection and the type of its rows, in the order of
    /// the tags. A tag that is retired has no name.
    pub fn tags(&self) -> impl Iterator<Item = (u16, Option<&str>, &str)> {
        self.tags.iter().map(|(tag, recorded)| (*tag, recorded.name.as_deref(), recorded.rows.as_str()))
    }

    /// Returns tags and types in one line, as the SDK's macros read them at compile time.
    pub fn compact(&self) -> String {
        let entries: Vec<String> = self.tags.iter().map(|(tag, recorded)| format!("{tag} {}", recorded.rows)).collect();
        entries.join("|")
    }

    /// Compares this record with a state.
    pub fn differences(&self, state: &Self) -> Vec<StateDifference> {
        let tags = self.tags.keys().chain(state.tags.keys().filter(|tag| !self.tags.contains_key(tag)));
        let mut found: Vec<StateDifference> =
            tags.filter_map(|tag| difference(*tag, self.tags.get(tag), state.tags.get(tag))).collect();
        found.sort_by_key(|difference| (!difference.breaks, difference.tag));
        found
    }

    /// Returns the record of a state that follows on this one: tags that are gone are retired.
    pub fn followed_by(&self, state: &Self) -> Self {
        let mut tags = state.tags.clone();
        for (tag, recorded) in &self.tags {
            tags.entry(*tag).or_insert_with(|| Recorded { name: None, rows: recorded.rows.clone() });
        }
        Self { tags }
    }

    /// Returns the text of the file.
    pub fn to_file(&self) -> String {
        format!("{HEADER}{self}")
    }
}

impl fmt::Display for StateLock {
    /// Writes a line for each tag, retired ones last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (tag, Recorded { name, rows }) in &self.tags {
            if let Some(name) = name {
                writeln!(f, "{tag} {name}: {rows}")?;
            }
        }
        for (tag, Recorded { rows, .. }) in self.tags.iter().filter(|(_, recorded)| recorded.name.is_none()) {
            writeln!(f, "retired {tag}: {rows}")?;
        }
        Ok(())
    }
}

impl fmt::Display for StateDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag {}: {}", self.tag, self.words)
    }
}

fn difference(tag: u16, recorded: Option<&Recorded>, state: Option<&Recorded>) -> Option<StateDifference> {
    let (words, breaks) = match (recorded, state) {
        (Some(old), Some(new)) if old.rows != new.rows => {
            let was = if old.name.is_some() { "was" } else { "is retired, and was" };
            (format!("{was} {}, and is {} now", old.rows, new.rows), true)
        }
        (Some(Recorded { name: None, rows }), Some(_)) => (format!("is retired, and is {rows} again"), false),
        (Some(_), Some(_)) => return None,
        (Some(Recorded { name: Some(_), rows }), None) => (format!("was {rows}, and is gone"), false),
        (None, Some(new)) => (format!("is new, {}", new.rows), false),
        (Some(Recorded { name: None, .. }) | None, None) => return None,
    };
    Some(StateDifference { tag, words, breaks })
}

fn parse_line(line: &str) -> Option<(u16, Recorded)> {
    let (head, rows) = line.split_once(':')?;
    let (first, rest) = head.split_once(' ')?;
    let (tag, name) = match first {
        "retired" => (rest, None),
        tag => (tag, Some(rest.split_whitespace().collect::<Vec<_>>().join(" "))),
    };
    let rows = canonical(rows);
    let is_named = name.as_ref().is_none_or(|name| !name.is_empty());
    // A bar separates the entries of the compact form.
    let is_type = !rows.is_empty() && !rows.contains('|');
    let tag = tag.trim().parse().ok()?;
    (is_named && is_type).then_some((tag, Recorded { name, rows }))
}

/// Returns a type with spaces where the SDK writes them, whatever an author wrote.
fn canonical(rows: &str) -> String {
    let dense: String = rows.chars().filter(|letter| !letter.is_whitespace()).collect();
    dense.replace(',', ", ").replace(';', "; ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lock(text: &str) -> StateLock {
        StateLock::parse(text).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let text =
            "# mine\n\n 2 index of  names :Set<(u32,u64)>\n1 names: Map< u64 , [u8;4] >\nretired 9: Value<u64>\n";
        let read = lock(text);
        assert_eq!(
            read.to_string(),
            "1 names: Map<u64, [u8; 4]>\n2 index of names: Set<(u32, u64)>\nretired 9: Value<u64>\n"
        );
        assert_eq!(read.compact(), "1 Map<u64, [u8; 4]>|2 Set<(u32, u64)>|9 Value<u64>");
        assert_eq!(lock(&read.to_file()), read);
        assert_eq!(lock("").compact(), "");
        let tags: Vec<_> = read.tags().collect();
        assert_eq!(tags[1], (2, Some("index of names"), "Set<(u32, u64)>"));
        assert_eq!(tags[2], (9, None, "Value<u64>"));
    }

    #[test]
    fn a_line_of_another_form_is_named() {
        for (text, line, problem) in [
            ("1 a: Set<u8>\n1 b: Set<u8>", 2, "the tag 1 stands twice"),
            ("names: Map<u64, u64>", 1, "`names: Map<u64, u64>` is neither"),
            ("\n70000 a: Set<u8>", 2, "is neither"),
            ("1 a", 1, "is neither"),
            ("1 a:", 1, "is neither"),
            ("1 : Set<u8>", 1, "is neither"),
            ("1 a: Set<u8>|2 Set<u8>", 1, "is neither"),
            ("retired a: Set<u8>", 1, "is neither"),
        ] {
            let error = StateLock::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn differences_say_what_happened_to_a_tag() {
        let record = lock("1 a: Set<u8>\n2 b: Set<u8>\n3 c: Set<u8>\nretired 4: Set<u8>\nretired 5: Set<u8>");
        let state = lock("1 renamed: Set<u8>\n3 c: Set<u64>\n4 d: Set<u16>\n6 e: Set<u8>");
        let told: Vec<(String, bool)> =
            record.differences(&state).iter().map(|difference| (difference.to_string(), difference.breaks)).collect();
        let expected = [
            ("tag 3: was Set<u8>, and is Set<u64> now", true),
            ("tag 4: is retired, and was Set<u8>, and is Set<u16> now", true),
            ("tag 2: was Set<u8>, and is gone", false),
            ("tag 6: is new, Set<u8>", false),
        ];
        assert_eq!(told, expected.map(|(words, breaks)| (words.to_owned(), breaks)));
        let next = record.followed_by(&state);
        assert!(next.differences(&state).is_empty(), "{next}");
        assert!(next.to_string().ends_with("6 e: Set<u8>\nretired 2: Set<u8>\nretired 5: Set<u8>\n"), "{next}");
        let again = next.differences(&lock("2 b: Set<u8>"));
        assert_eq!(again[0].to_string(), "tag 1: was Set<u8>, and is gone");
        assert_eq!(again[1].to_string(), "tag 2: is retired, and is Set<u8> again");
    }
}
