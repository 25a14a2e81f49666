//! The policy: who has which role, for which methods, how often. It is read from TOML and never
//! changed. Decides by names alone; `quota` counts.

use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::roles::{Right, Role};
use crate::pattern::Pattern;

/// Name that a policy gives to whoever showed neither a certificate nor a token.
pub const ANONYMOUS: &str = "anonymous";

/// Most bytes of a policy file.
pub const POLICY_BYTES_MAX: usize = 1 << 20;
/// Most grants of a policy.
const GRANTS_MAX: usize = 10_000;
/// Most calls a second of a quota. More is no limit at all.
const PER_SECOND_MAX: u32 = 1_000_000;

/// One sentence of a policy.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    subject: Pattern,
    role: Role,
    /// Empty for all methods that the role allows.
    methods: Vec<Pattern>,
    /// Calls a second of each subject.
    pub(super) per_second: Option<u32>,
}

/// All grants, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub(super) grants: Vec<Grant>,
}

/// Why a policy cannot be used, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    line: usize,
    column: usize,
    problem: String,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.problem)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    grant: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    subject: Spanned<String>,
    role: Spanned<String>,
    methods: Option<Spanned<Vec<Spanned<String>>>>,
    per_second: Option<Spanned<i64>>,
}

impl Policy {
    /// Reads a policy. One without any grant is refused: a file that was emptied by a slip would
    /// lock everybody out.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let begin = error.span().map_or(0, |span| span.start);
            // The library's own words may have several lines.
            PolicyError::at(text, begin, error.message().split_whitespace().collect::<Vec<_>>().join(" "))
        })?;
        if file.grant.is_empty() {
            let problem =
                "it has no [[grant]], so it would lock everybody out; without --policy, tokens alone give roles";
            return Err(PolicyError::at(text, 0, problem.into()));
        }
        if file.grant.len() > GRANTS_MAX {
            return Err(PolicyError::at(text, 0, format!("more than {GRANTS_MAX} grants")));
        }
        let grants = file.grant.iter().map(|row| row.read(text)).collect::<Result<_, _>>()?;
        Ok(Policy { grants })
    }

    /// Returns the numbers of the grants that let the subject call the method. `None` stands for
    /// whoever showed nothing.
    pub(super) fn allowing(&self, subject: Option<&str>, method: &str, right: Right) -> Vec<usize> {
        let allows = |grant: &Grant| grant.is_for(subject) && grant.allows(method, right);
        self.grants.iter().enumerate().filter(|(_, grant)| allows(grant)).map(|(number, _)| number).collect()
    }
}

impl Grant {
    /// A pattern with a `*` means people with a name. Who showed nothing is meant by its own name
    /// alone.
    fn is_for(&self, subject: Option<&str>) -> bool {
        match subject {
            Some(subject) => self.subject.matches(subject),
            None => self.subject.as_str() == ANONYMOUS,
        }
    }

    fn allows(&self, method: &str, right: Right) -> bool {
        self.role.may(right) && (self.methods.is_empty() || self.methods.iter().any(|pattern| pattern.matches(method)))
    }
}

impl Row {
    fn read(&self, text: &str) -> Result<Grant, PolicyError> {
        let refuse = |begin: usize, problem: String| Err(PolicyError::at(text, begin, problem));
        if self.subject.get_ref().is_empty() {
            return refuse(self.subject.span().start, "a subject has a name; * stands for everybody with one".into());
        }
        let Some(role) = Role::named(self.role.get_ref()) else {
            let problem = format!("{:?} is no role; there are reader, writer, operator and admin", self.role.get_ref());
            return refuse(self.role.span().start, problem);
        };
        let per_second = match &self.per_second {
            None => None,
            Some(rate) => match u32::try_from(*rate.get_ref()) {
                Ok(calls @ 1..=PER_SECOND_MAX) => Some(calls),
                _ => {
                    let problem = format!("per_second is a whole number from 1 to {PER_SECOND_MAX}");
                    return refuse(rate.span().start, problem);
                }
            },
        };
        let subject = Pattern::new(self.subject.get_ref());
        Ok(Grant { subject, role, methods: self.read_methods(text)?, per_second })
    }

    fn read_methods(&self, text: &str) -> Result<Vec<Pattern>, PolicyError> {
        let Some(methods) = &self.methods else { return Ok(Vec::new()) };
        if methods.get_ref().is_empty() {
            let problem = "no method is named; leave it out to allow all that the role allows";
            return Err(PolicyError::at(text, methods.span().start, problem.into()));
        }
        let read = |method: &Spanned<String>| {
            let read = Pattern::of_methods(method.get_ref());
            read.map_err(|problem| PolicyError::at(text, method.span().start, problem.into()))
        };
        methods.get_ref().iter().map(read).collect()
    }
}

impl PolicyError {
    fn at(text: &str, offset: usize, problem: String) -> PolicyError {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_begin = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        PolicyError { line, column: before[line_begin..].chars().count() + 1, problem }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: &str = r#"
[[grant]]
subject = "alice"
role = "admin"
[[grant]]
subject = "shop-*"
role = "writer"
methods = ["orders.*/Place"]
per_second = 100
[[grant]]
subject = "*"
role = "reader"
[[grant]]
subject = "anonymous"
role = "reader"
methods = ["news.News/Read"]
"#;

    #[test]
    fn grants_add_up() {
        let policy = Policy::parse(POLICY).unwrap();
        let place = "orders.v1.Orders/Place";
        let rows = [
            (Some("alice"), "RaftManager/Shutdown", Right::Administer, vec![0]),
            (Some("alice"), place, Right::Query, vec![0, 2]),
            (Some("shop-7"), place, Right::Command, vec![1]),
            (Some("shop-7"), place, Right::Query, vec![1, 2]),
            (Some("shop-7"), "orders.v1.Orders/Cancel", Right::Command, vec![]),
            (Some("bob"), place, Right::Command, vec![]),
            (None, place, Right::Query, vec![]),
            (None, "news.News/Read", Right::Query, vec![3]),
        ];
        for (subject, method, right, expected) in rows {
            assert_eq!(policy.allowing(subject, method, right), expected, "{subject:?} {method}");
        }
        assert_eq!(policy.grants[1].per_second, Some(100));
        assert!(Policy::default().allowing(Some("alice"), place, Right::Look).is_empty());
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let grant = |more: &str| format!("[[grant]]\nsubject = \"a\"\nrole = \"reader\"\n{more}");
        let rows = [
            (grant("rôle = 1"), "line 4, column "),
            (grant("metods = [\"a\"]"), "line 4, column 1: unknown field `metods`"),
            (grant("per_second = 0"), "line 4, column 14: per_second is a whole number from 1 to"),
            (grant("per_second = -1"), "line 4, column 14: "),
            (grant("per_second = \"many\""), "line 4, column 14: "),
            (grant("methods = []"), "line 4, column 11: no method is named"),
            (grant("methods = [\"ok\", \"/a.B/C\"]"), "line 4, column 18: a method is written package.Service/Method"),
            (grant("methods = [\"\"]"), "line 4, column 12: a method has a name"),
            ("[[grant]]\nsubject = \"\"\nrole = \"reader\"".into(), "line 2, column 11: a subject has a name"),
            ("[[grant]]\nsubject = \"a\"\nrole = \"root\"".into(), "line 3, column 8: \"root\" is no role"),
            ("[[grant]]\nrole = \"reader\"".into(), "line 1, column 1: missing field `subject`"),
            ("[[grants]]\n".into(), "line 1, column 3: unknown field `grants`"),
            ("what".into(), "line 1, column "),
            (String::new(), "line 1, column 1: it has no [[grant]]"),
            ("# All of it is commented out.\ngrant = []\n".into(), "line 1, column 1: it has no [[grant]]"),
        ];
        for (text, expected) in rows {
            let error = Policy::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}\n{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,200}") {
            drop(Policy::parse(&text));
        }

        #[test]
        fn text_like_a_policy_never_panics(
            words in prop::collection::vec(
                prop::sample::select(vec!["[[grant]]", "subject", "=", "\"a\"", "role", "methods", "[", "]", "per_second", "\n", "1", "ü", "\"reader\"", ","]),
                0..40,
            ),
        ) {
            drop(Policy::parse(&words.join(" ")));
        }
    }
}
