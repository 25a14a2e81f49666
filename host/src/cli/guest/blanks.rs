//! The placeholders of a script: `{{n}}`, `{{uuid}}` and `{{uuid:name}}` in the texts of a call.
//! They are filled in for each pass through the script. Nothing here is random: the same place in
//! the same pass gets the same value in every run, so runs can be compared.

use serde_json::Value;

use crate::cli::json::Tree;

/// Number of the first pass through a script. It is the only pass of `lockstep guest test`.
pub(super) const FIRST_PASS: u64 = 1;

/// One call in one pass through the script.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Number of the pass, from [`FIRST_PASS`].
    pub(super) pass: u64,
    /// The line of the script.
    pub(super) line: usize,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Pass,
    Uuid(Option<&'a str>),
}

/// Tells whether the tree has placeholders.
pub(super) fn has_blanks(tree: &Tree) -> bool {
    match tree {
        Tree::Leaf(Value::String(text)) => text_has_blanks(text),
        Tree::Leaf(_) => false,
        Tree::List(list) => list.iter().any(has_blanks),
        Tree::Object(fields) => fields.iter().any(|(key, value)| text_has_blanks(key) || has_blanks(value)),
    }
}

/// Tells whether one text has placeholders.
pub(super) fn text_has_blanks(text: &str) -> bool {
    parts(text).iter().any(|part| !matches!(part, Part::Text(_)))
}

/// Returns the tree with all placeholders filled in, in texts and in keys of maps.
pub(super) fn fill(tree: &Tree, place: Place) -> Tree {
    Filler { place, uuids: 0 }.tree(tree)
}

/// Returns one text with all placeholders filled in.
pub(super) fn fill_text(text: &str, place: Place) -> String {
    Filler { place, uuids: 0 }.text(text)
}

struct Filler {
    place: Place,
    /// Number of unnamed ids that this call has used so far.
    uuids: u64,
}

impl Filler {
    fn tree(&mut self, tree: &Tree) -> Tree {
        match tree {
            Tree::Leaf(Value::String(text)) => Tree::text(self.text(text)),
            Tree::Leaf(_) => tree.clone(),
            Tree::List(list) => Tree::List(list.iter().map(|tree| self.tree(tree)).collect()),
            Tree::Object(fields) => {
                Tree::Object(fields.iter().map(|(key, tree)| (self.text(key), self.tree(tree))).collect())
            }
        }
    }

    fn text(&mut self, text: &str) -> String {
        let filled = parts(text).into_iter().map(|part| match part {
            Part::Text(text) => text.to_owned(),
            Part::Pass => self.place.pass.to_string(),
            Part::Uuid(name) => self.uuid(name),
        });
        filled.collect()
    }

    fn uuid(&mut self, name: Option<&str>) -> String {
        let Place { pass, line } = self.place;
        let of = match name {
            Some(name) => format!("{pass} {name}"),
            None => {
                self.uuids += 1;
                format!("{pass} {line} {}", self.uuids)
            }
        };
        uuid(blake3::hash(of.as_bytes()).as_bytes())
    }
}

/// Formats the bytes as a random UUID (version 4).
fn uuid(bytes: &[u8; 32]) -> String {
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let (high, low) = (word(0), word(8));
    let variant = 0x8000 | (low >> 48) & 0x3fff;
    format!(
        "{:08x}-{:04x}-4{:03x}-{variant:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

/// Splits a text at its placeholders. Anything else in double braces is text: it may be the
/// author's data.
fn parts(text: &str) -> Vec<Part<'_>> {
    let (mut parts, mut rest, mut from) = (Vec::new(), text, 0);
    while let Some(open) = rest[from..].find("{{").map(|at| from + at) {
        let blank = rest[open + 2..].split_once("}}").and_then(|(name, after)| Some((blank(name)?, after)));
        match blank {
            Some((blank, after)) => {
                parts.extend([Part::Text(&rest[..open]), blank]);
                (rest, from) = (after, 0);
            }
            None => from = open + 1,
        }
    }
    parts.push(Part::Text(rest));
    parts
}

fn blank(name: &str) -> Option<Part<'_>> {
    match name.trim() {
        "n" => Some(Part::Pass),
        "uuid" => Some(Part::Uuid(None)),
        name => name.strip_prefix("uuid:").map(|name| Part::Uuid(Some(name.trim()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Tree {
        Tree::parse(text).expect("JSON")
    }

    fn place(pass: u64, line: usize) -> Place {
        Place { pass, line }
    }

    #[test]
    fn the_pass_is_filled_in_wherever_a_text_stands() {
        let call = tree(r#"{ "id": "a-{{n}}", "{{ n }}": ["{{n}}{{n}}", 7, null, { "deep": "{n} {{n" }] }"#);
        assert!(has_blanks(&call));
        let filled = fill(&call, place(12, 1));
        assert_eq!(filled, tree(r#"{ "id": "a-12", "12": ["1212", 7, null, { "deep": "{n} {{n" }] }"#));
        assert!(!has_blanks(&filled));
    }

    #[test]
    fn what_is_not_ours_stays() {
        for text in ["", "{{name}}", "{{}}", "}}{{", "{{uuids}}", "{{N}}", "{ {n}}"] {
            assert_eq!(fill_text(text, place(3, 1)), text);
            assert!(!text_has_blanks(text), "{text}");
        }
        assert_eq!(fill_text("{{name}} {{{n}}}", place(3, 1)), "{{name}} {3}");
    }

    #[test]
    fn each_nameless_uuid_is_its_own_and_a_named_one_is_that_of_its_pass() {
        let ids = |text: &str, place| fill_text(text, place).split(' ').map(str::to_owned).collect::<Vec<_>>();
        let one = ids("{{uuid}} {{uuid}}", place(1, 1));
        assert_ne!(one[0], one[1]);
        assert_eq!(one, ids("{{uuid}} {{uuid}}", place(1, 1)), "runs can be compared");
        for other in [place(1, 2), place(2, 1)] {
            assert!(ids("{{uuid}}", other).iter().all(|id| !one.contains(id)));
        }
        let named = ids("{{uuid:order}} {{uuid: order }} {{uuid:item}}", place(1, 1));
        assert_eq!(named[0], named[1]);
        assert_ne!(named[0], named[2]);
        assert_eq!(named[..1], ids("{{uuid:order}}", place(1, 9)));
        assert_ne!(named[..1], ids("{{uuid:order}}", place(2, 9)));
    }

    #[test]
    fn a_uuid_looks_like_a_random_one() {
        for pass in 0..100 {
            let id = fill_text("{{uuid}}", place(pass, 1));
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert!(id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
            assert!(id.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()), "{id}");
        }
    }
}
