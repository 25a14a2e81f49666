//! JSON as it is written: it keeps the order and duplicate names, which `serde_json::Value` loses.
//! With it, messages are read from JSON and shown as JSON (`json/read.rs`, `json/show.rs`). This
//! module knows no file and no socket.

mod read;
mod show;

use std::cell::RefCell;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

pub(crate) use read::read_message;
#[cfg(test)]
pub(crate) use show::show;
pub(crate) use show::{Shown, key_text, show_bytes};

/// One value, and everything below it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    /// `null`, true, false, a number or a text.
    Leaf(Value),
    List(Vec<Tree>),
    /// The pairs in the order in which they are written, including duplicates.
    Object(Vec<(String, Tree)>),
}

impl Tree {
    /// Parses one value with nothing after it. An error says what is wrong, and where.
    pub(crate) fn parse(text: &str) -> Result<Tree, String> {
        let path = RefCell::default();
        let mut reader = serde_json::Deserializer::from_str(text);
        let parsed = Seed(&path).deserialize(&mut reader).and_then(|tree| reader.end().map(|()| tree));
        parsed.map_err(|error| {
            let path = path.into_inner().concat();
            match (path.trim_start_matches('.'), error.to_string()) {
                // The text is JSON, but the number cannot be represented.
                (path, error) if error.starts_with("number out of range") => format!("{path:?}: number out of range"),
                ("", error) => format!("not JSON: {error}"),
                (path, error) => format!("not JSON: {error}, in {path:?}"),
            }
        })
    }

    /// Converts the tree. If a name is duplicated in an object, the last one counts.
    pub(crate) fn to_value(&self) -> Value {
        match self {
            Tree::Leaf(value) => value.clone(),
            Tree::List(list) => list.iter().map(Tree::to_value).collect(),
            Tree::Object(pairs) => pairs.iter().map(|(name, tree)| (name.clone(), tree.to_value())).collect(),
        }
    }

    pub(crate) fn text(text: impl Into<String>) -> Tree {
        Tree::Leaf(Value::String(text.into()))
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Tree::Leaf(value) => value.serialize(serializer),
            Tree::List(list) => serializer.collect_seq(list),
            Tree::Object(pairs) => serializer.collect_map(pairs.iter().map(|(name, tree)| (name, tree))),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        Seed(&RefCell::default()).deserialize(deserializer)
    }
}

/// Builds a tree, and tracks the path of the value that is being read. After an error, the path is
/// that of the failed value.
#[derive(Clone, Copy)]
struct Seed<'a>(&'a RefCell<Vec<String>>);

impl Seed<'_> {
    /// Reads a value one step further down the path.
    fn below<T, E>(self, step: String, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.0.borrow_mut().push(step);
        let value = read()?;
        self.0.borrow_mut().pop();
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Tree;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(tree) = self.below(format!("[{}]", list.len()), || seq.next_element_seed(self))? {
            list.push(tree);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut pairs = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let tree = self.below(format!(".{name}"), || map.next_value_seed(self))?;
            pairs.push((name, tree));
        }
        Ok(Tree::Object(pairs))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_stays_as_it_is_written() {
        let text = r#"{"b":[1,-2,0.5,null,true,"ü\n"],"a":{"x":1,"x":2},"a":18446744073709551615}"#;
        let tree = Tree::parse(text).unwrap();
        assert_eq!(tree.to_string(), text);
        assert_eq!(tree.to_value()["a"], u64::MAX);
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        let table = [
            ("{} {}", "not JSON: trailing characters at line 1 column 4"),
            (r#"{"a": {"b": [1, 1e400]}}"#, r#""a.b[1]": number out of range"#),
            (r#"{"a": [x]}"#, r#"not JSON: expected value at line 1 column 8, in "a[0]""#),
            ("x", "not JSON: expected value at line 1 column 1"),
        ];
        for (text, expected) in table {
            assert_eq!(Tree::parse(text).unwrap_err(), expected);
        }
    }
}
