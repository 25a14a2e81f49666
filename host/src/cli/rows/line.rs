//! The lines of a file of rows. The first says which state they are of, and which collections it
//! has. Each other line is a row. The last line says that the file is whole.
//!
//! ```text
//! {"lockstep_rows":1,"component":"…","version":"1","index":41,"collections":[{"name":"names","tag":3,"rows":"Map<u64, String>"}]}
//! {"in":"names","key":"7","value":"ann"}
//! {"in":"names","key":"8","raw_value":"/w=="}
//! {"raw_key":"AQI=","raw_value":""}
//! {"lockstep_rows_end":1}
//! ```
//!
//! - A row that would not come back byte for byte from its JSON has `raw_key` or `raw_value`: the
//!   bytes in base64. A raw key has no tag, unless its row is in no collection.
//! - Collections are found by their tags: names may differ between two states.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shape::{Collection, Rows, Shape};
use super::{key, scalar, value};
use crate::cli::json::Tree;

/// Version of the format.
const FORMAT: u64 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Version of the format.
    pub(super) lockstep_rows: u64,
    /// BLAKE3 hash of the component that the state belongs to, in hex.
    pub(super) component: String,
    /// The version that it declares; empty if it declares none.
    pub(super) version: String,
    /// The last entry in the state.
    pub(super) index: u64,
    pub(super) collections: Vec<Listed>,
}

/// A collection, as the first line names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) tag: u16,
    /// The type of its rows.
    pub(super) rows: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct End {
    lockstep_rows_end: u64,
}

impl Header {
    pub(super) fn new(component: String, version: String, index: u64, collections: &[Collection]) -> Header {
        let listed = |Collection { tag, name, types, .. }: &Collection| Listed {
            name: name.clone(),
            tag: *tag,
            rows: types.clone(),
        };
        Header {
            lockstep_rows: FORMAT,
            component,
            version,
            index,
            collections: collections.iter().map(listed).collect(),
        }
    }

    pub(super) fn to_line(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are JSON")
    }

    /// Reads the first line.
    pub(super) fn parse(line: &str) -> Result<Header, String> {
        let foreign = |error| format!("it does not begin as `lockstep rows export` begins: {error}");
        let header: Header = serde_json::from_str(line).map_err(foreign)?;
        match header.lockstep_rows {
            FORMAT => Ok(header),
            newer => Err(format!("its format is {newer}, and this version reads {FORMAT}")),
        }
    }
}

/// Returns the last line.
pub(super) fn end() -> String {
    serde_json::to_string(&End { lockstep_rows_end: FORMAT }).expect("a number is JSON")
}

/// Returns whether a line is the last one.
pub(super) fn is_end(line: &str) -> bool {
    serde_json::from_str::<End>(line).is_ok()
}

/// A row as it is shown.
pub(super) struct Shown<'a> {
    pub(super) json: Tree,
    pub(super) collection: Option<&'a Collection>,
    /// Whether a part of it is shown as bytes.
    pub(super) is_raw: bool,
}

/// Shows a row of a state with these collections.
pub(super) fn show<'a>(collections: &'a [Collection], row: &[u8], value: &[u8]) -> Shown<'a> {
    let split = key::split_tag(row);
    let found = split.and_then(|(tag, rest)| {
        collections.iter().find(|collection| collection.tag == tag).map(|collection| (collection, rest))
    });
    let Some((collection, rest)) = found else {
        let json = vec![("raw_key".to_owned(), scalar::bytes(row)), ("raw_value".to_owned(), scalar::bytes(value))];
        return Shown { json: Tree::Object(json), collection: None, is_raw: true };
    };
    let mut pairs = vec![("in".to_owned(), Tree::text(&collection.name))];
    let mut is_raw = false;
    let mut put = |name: &str, shape: Option<&Shape>, bytes: &[u8], shown: Option<Tree>| {
        match (shape, shown) {
            // A part that the collection does not have is empty.
            (None, _) if bytes.is_empty() => {}
            (Some(_), Some(tree)) => pairs.push((name.to_owned(), tree)),
            _ => {
                is_raw = true;
                pairs.push((format!("raw_{name}"), scalar::bytes(bytes)));
            }
        }
    };
    let (of_key, of_value) = shapes(&collection.rows);
    put("key", of_key, rest, of_key.and_then(|shape| exact_key(shape, rest)));
    put("value", of_value, value, of_value.and_then(|shape| exact_value(shape, value)));
    Shown { json: Tree::Object(pairs), collection: Some(collection), is_raw }
}

/// Returns the types of key and value; `None` for one that such rows do not have.
fn shapes(rows: &Rows) -> (Option<&Shape>, Option<&Shape>) {
    match rows {
        Rows::Map(key, value) => (Some(key), Some(value)),
        Rows::Set(key) => (Some(key), None),
        Rows::Value(value) => (None, Some(value)),
        Rows::Unknown => (Some(&Shape::Unknown), Some(&Shape::Unknown)),
    }
}

/// Shows a key if it comes back as it was.
fn exact_key(shape: &Shape, bytes: &[u8]) -> Option<Tree> {
    let tree = key::show(shape, bytes)?;
    let mut again = Vec::with_capacity(bytes.len());
    key::encode(shape, &tree, &mut again).ok()?;
    (again == bytes).then_some(tree)
}

/// Shows a value if it comes back as it was.
fn exact_value(shape: &Shape, bytes: &[u8]) -> Option<Tree> {
    let tree = scalar::exact(value::show(shape, bytes)?);
    (value::encode(shape, &tree).ok()? == bytes).then_some(tree)
}

/// A row that was read: its key, with the tag, and its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// The parts of a line.
pub(super) struct Line {
    /// The name of the collection; `None` for a row that is in none.
    pub(super) collection: Option<String>,
    key: Part,
    value: Part,
}

#[derive(Debug, PartialEq)]
enum Part {
    None,
    Shown(Tree),
    Raw(Vec<u8>),
}

impl Line {
    /// Reads a line.
    pub(super) fn parse(line: &str) -> Result<Line, String> {
        let Tree::Object(pairs) = Tree::parse(line)? else { return Err("it is no object".into()) };
        let mut parsed = Line { collection: None, key: Part::None, value: Part::None };
        for (name, tree) in pairs {
            let raw = |tree: &Tree| scalar::read_bytes(tree).map(Part::Raw).map_err(|why| format!("{name:?}: {why}"));
            let (place, part) = match name.as_str() {
                "in" if parsed.collection.is_none() => {
                    parsed.collection = Some(scalar::read_text(&tree)?.to_owned());
                    continue;
                }
                "raw_key" => (&mut parsed.key, raw(&tree)?),
                "raw_value" => (&mut parsed.value, raw(&tree)?),
                "key" => (&mut parsed.key, Part::Shown(tree)),
                "value" => (&mut parsed.value, Part::Shown(tree)),
                _ => return Err(format!("{name:?} is there twice, or has no meaning in a row")),
            };
            if *place != Part::None {
                return Err(format!("{name:?} is there twice, or beside its other form"));
            }
            *place = part;
        }
        Ok(parsed)
    }

    /// Returns the row in a collection of the new state. `is_same` says whether its type is that of
    /// the old one, so that bytes mean the same.
    pub(super) fn into_row(self, collection: &Collection, is_same: bool) -> Result<Row, String> {
        let bytes = |part, shape: Option<&Shape>, what: &str| match (part, shape) {
            (Part::None, None) => Ok(Vec::new()),
            (Part::None, Some(_)) => Err(format!("it has no {what}")),
            (Part::Shown(Tree::Leaf(Value::Null)), None) => Ok(Vec::new()),
            (Part::Shown(_), None) => Err(format!("rows of {collection} have no {what}")),
            (Part::Raw(bytes), _) if is_same => Ok(bytes),
            (Part::Raw(_), _) => Err(format!("its {what} is raw, and {collection} has rows of another type")),
            (Part::Shown(tree), Some(shape)) if what == "key" => {
                let mut bytes = Vec::new();
                key::encode(shape, &tree, &mut bytes).map(|()| bytes).map_err(|why| format!("its key: {why}"))
            }
            (Part::Shown(tree), Some(shape)) => value::encode(shape, &tree).map_err(|why| format!("its value: {why}")),
        };
        let (of_key, of_value) = shapes(&collection.rows);
        let mut key = Vec::new();
        key::encode_tag(collection.tag, &mut key);
        key.extend(bytes(self.key, of_key, "key")?);
        Ok(Row { key, value: bytes(self.value, of_value, "value")? })
    }

    /// Returns the row if it is in no collection.
    pub(super) fn into_raw_row(self) -> Result<Row, String> {
        match (self.key, self.value) {
            (Part::Raw(key), Part::Raw(value)) => Ok(Row { key, value }),
            _ => Err("a row in no collection has raw_key and raw_value".into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "line_tests.rs"]
mod tests;
