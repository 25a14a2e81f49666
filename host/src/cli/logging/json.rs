//! Writes one JSON object a line, without duplicate names, so that a collector can read all lines
//! up to the last ones of a process. It does not decide what is logged.
//!
//! `timestamp`, `level`, `target`, `node` and `message` come first and mean the same in every line.
//! A field of an event that has one of these names, or a name that was there before, gets the
//! prefix [`RENAMED`].

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::cli::json::Tree;

/// Prefix of the name of a field that would otherwise be there twice.
const RENAMED: &str = "field_";
/// The names that mean the same in every line.
const OWN: [&str; 7] = ["timestamp", "level", "target", "node", "message", "span", "spans"];

type Pairs = Vec<(String, Tree)>;

/// Returns the line of an event, with the node's name. `formatted` is the event in tracing's own
/// JSON format, which keeps the fields in an object of their own.
pub(super) fn of_event(formatted: &str, node: &str) -> String {
    let Ok(Tree::Object(parts)) = Tree::parse(formatted) else {
        // The text is not in tracing's format. It is kept as a whole.
        return line("ERROR", node, "lockstep", formatted.trim_end(), Vec::new());
    };
    let (mut first, mut fields, mut last) = (Pairs::new(), Pairs::new(), Pairs::new());
    for (name, tree) in parts {
        match (name.as_str(), tree) {
            ("fields", Tree::Object(pairs)) => fields = pairs,
            ("timestamp" | "level" | "target", tree) => first.push((name, tree)),
            (_, tree) => last.push((name, tree_named_once(tree))),
        }
    }
    first.push(("node".into(), Tree::text(node)));
    let message = fields.iter().position(|(name, _)| name == "message");
    first.extend(message.map(|at| fields.remove(at)));
    Tree::Object([first, named_once(fields, &OWN), last].concat()).to_string()
}

/// Returns a line that does not come from an event.
pub(super) fn line(level: &str, node: &str, target: &str, message: &str, more: Vec<(&str, Tree)>) -> String {
    let texts = [("timestamp", now()), ("level", level.into()), ("node", node.into()), ("target", target.into())];
    let mut pairs: Pairs = texts.map(|(name, text)| (name.to_owned(), Tree::text(text))).into();
    pairs.push(("message".into(), Tree::text(message)));
    pairs.extend(more.into_iter().map(|(name, tree)| (name.to_owned(), tree)));
    Tree::Object(pairs).to_string()
}

/// Returns the current time as tracing writes it.
pub(super) fn now() -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    SystemTime.format_time(&mut Writer::new(&mut text)).expect("a text can be written to");
    text
}

/// Renames duplicate names at every depth. Names in `taken` are renamed, too.
fn named_once(pairs: Pairs, taken: &[&str]) -> Pairs {
    let mut once = Pairs::new();
    for (mut name, tree) in pairs {
        while taken.contains(&name.as_str()) || once.iter().any(|(earlier, _)| *earlier == name) {
            name.insert_str(0, RENAMED);
        }
        once.push((name, tree_named_once(tree)));
    }
    once
}

fn tree_named_once(tree: Tree) -> Tree {
    match tree {
        Tree::Leaf(_) => tree,
        Tree::List(list) => Tree::List(list.into_iter().map(tree_named_once).collect()),
        Tree::Object(pairs) => Tree::Object(named_once(pairs, &[])),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_there_twice_and_nothing_is_lost() {
        let formatted = r#"{"timestamp":"t","level":"INFO","fields":{"node":"nodeB","message":"added","target":7,"x":1,"x":2,
            "span":3},"target":"lockstep::raft","span":{"name":"a","name":"b"},"spans":[{"name":"a","name":"b"}]}"#;
        assert_eq!(
            of_event(formatted, "nodeA"),
            r#"{"timestamp":"t","level":"INFO","target":"lockstep::raft","node":"nodeA","message":"added","#.to_owned()
                + r#""field_node":"nodeB","field_target":7,"x":1,"field_x":2,"field_span":3,"#
                + r#""span":{"name":"a","field_name":"b"},"spans":[{"name":"a","field_name":"b"}]}"#
        );
    }

    #[test]
    fn a_line_without_an_event_has_the_same_names() {
        let said = line("ERROR", "nodeA", "lockstep", "no\n\"room\"", vec![("causes", Tree::List(Vec::new()))]);
        let value: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (&value["level"], &value["node"], &value["message"]),
            (&"ERROR".into(), &"nodeA".into(), &"no\n\"room\"".into())
        );
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z') && !said.contains('\n'), "{said}");
        assert!(of_event("no JSON", "nodeA").contains(r#""message":"no JSON""#));
    }
}
