//! The types of a state's rows, from the description that a guest's SDK puts into it: which
//! collections there are, and what a key and a value of each are. This file reads no row.

use std::fmt;

use lockstep_contract::StateLock;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Deepest nesting of types.
const DEPTH_MAX: usize = 64;
/// How the name of an index begins in the description.
const INDEX_OF: &str = "index of ";

/// The type of a key or a value, by the names that the SDK gives them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    Unit,
    Bool,
    Char,
    /// An unsigned integer of so many bytes.
    Unsigned(usize),
    /// A signed integer of so many bytes.
    Signed(usize),
    F32,
    F64,
    Text,
    Bytes,
    /// An array of so many bytes.
    Array(usize),
    Option(Box<Shape>),
    Reverse(Box<Shape>),
    Tuple(Vec<Shape>),
    Message(MessageDescriptor),
    /// A type of the author's own, or a message that the guest does not describe.
    Unknown,
}

impl Shape {
    /// Returns whether `null` stands for a value of this type.
    pub(super) fn is_nullable(&self) -> bool {
        match self {
            Shape::Option(_) => true,
            Shape::Reverse(inner) => inner.is_nullable(),
            _ => false,
        }
    }
}

/// What the rows of a collection are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rows {
    Map(Shape, Shape),
    Set(Shape),
    /// One value, or none.
    Value(Shape),
    /// Something that this version does not know.
    Unknown,
}

/// One collection of a state, or one index.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Collection {
    pub(super) tag: u16,
    /// Its name in the state. Indexes of one table have their tags in their names.
    pub(super) name: String,
    /// The name of the table, if this is an index.
    pub(super) table: Option<String>,
    /// The type of its rows as it is written.
    pub(super) types: String,
    pub(super) rows: Rows,
}

impl Collection {
    /// Makes a collection from its line in the description.
    pub(super) fn new(tag: u16, name: &str, types: &str, pool: &DescriptorPool) -> Collection {
        let rows = rows(types, pool);
        let table = name.strip_prefix(INDEX_OF).map(str::to_owned);
        Collection { tag, name: name.to_owned(), table, types: types.to_owned(), rows }
    }
}

/// Returns whether a collection of that name is an index.
pub(super) fn is_index(name: &str) -> bool {
    name.starts_with(INDEX_OF)
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (tag {}, {})", self.name, self.tag, self.types)
    }
}

/// Returns the collections of a state, in the order of their tags.
pub(super) fn collections(state: &StateLock, pool: &DescriptorPool) -> Vec<Collection> {
    let described = state.tags().filter_map(|(tag, name, types)| Some(Collection::new(tag, name?, types, pool)));
    let mut found: Vec<Collection> = described.collect();
    let names: Vec<String> = found.iter().map(|collection| collection.name.clone()).collect();
    for collection in &mut found {
        if names.iter().filter(|name| **name == collection.name).count() > 1 {
            collection.name = format!("{} {}", collection.name, collection.tag);
        }
    }
    found
}

fn rows(types: &str, pool: &DescriptorPool) -> Rows {
    let mut parser = Parser { rest: types, pool, depth: 0 };
    parser.rows().filter(|_| parser.rest.trim().is_empty()).unwrap_or(Rows::Unknown)
}

/// Reads types as the SDK writes them: `Map<String, (u64, Option<char>)>`.
struct Parser<'a> {
    rest: &'a str,
    pool: &'a DescriptorPool,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rows(&mut self) -> Option<Rows> {
        let name = self.name();
        let mut parts = self.list('<', '>')?.into_iter();
        let rows = match (name, parts.next()?, parts.next()) {
            ("Map", key, Some(value)) => Rows::Map(key, value),
            ("Set", key, None) => Rows::Set(key),
            ("Value", value, None) => Rows::Value(value),
            _ => return None,
        };
        parts.next().is_none().then_some(rows)
    }

    fn shape(&mut self) -> Option<Shape> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return None;
        }
        let shape = match self.rest.trim_start().chars().next()? {
            '(' => {
                let parts = self.list('(', ')')?;
                if parts.is_empty() { Shape::Unit } else { Shape::Tuple(parts) }
            }
            '[' => self.array()?,
            _ => self.named()?,
        };
        self.depth -= 1;
        Some(shape)
    }

    fn array(&mut self) -> Option<Shape> {
        let (inside, rest) = self.rest.trim_start().strip_prefix('[')?.split_once(']')?;
        let (item, count) = inside.split_once(';')?;
        self.rest = rest;
        (item.trim() == "u8").then(|| count.trim().parse().ok().map(Shape::Array))?
    }

    fn named(&mut self) -> Option<Shape> {
        let name = Some(self.name()).filter(|name| !name.is_empty())?;
        let parts = if self.rest.starts_with('<') { self.list('<', '>')? } else { Vec::new() };
        let mut parts = parts.into_iter();
        Some(match (name, parts.next(), parts.next()) {
            ("bool", None, None) => Shape::Bool,
            ("char", None, None) => Shape::Char,
            ("u8", None, None) => Shape::Unsigned(1),
            ("u16", None, None) => Shape::Unsigned(2),
            ("u32", None, None) => Shape::Unsigned(4),
            ("u64", None, None) => Shape::Unsigned(8),
            ("u128", None, None) => Shape::Unsigned(16),
            ("i8", None, None) => Shape::Signed(1),
            ("i16", None, None) => Shape::Signed(2),
            ("i32", None, None) => Shape::Signed(4),
            ("i64", None, None) => Shape::Signed(8),
            ("i128", None, None) => Shape::Signed(16),
            ("f32", None, None) => Shape::F32,
            ("f64", None, None) => Shape::F64,
            ("String", None, None) => Shape::Text,
            ("Vec", Some(Shape::Unsigned(1)), None) => Shape::Bytes,
            ("Option", Some(inner), None) => Shape::Option(inner.into()),
            ("Reverse", Some(inner), None) => Shape::Reverse(inner.into()),
            (name, None, None) => message(name, self.pool).map_or(Shape::Unknown, Shape::Message),
            _ => Shape::Unknown,
        })
    }

    fn name(&mut self) -> &'a str {
        let rest = self.rest.trim_start();
        let end = rest.find(['<', '>', '(', ')', '[', ']', ',', ';']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        self.rest = rest;
        name.trim_end()
    }

    fn list(&mut self, open: char, close: char) -> Option<Vec<Shape>> {
        self.rest = self.rest.trim_start().strip_prefix(open)?;
        let mut parts = Vec::new();
        loop {
            if let Some(rest) = self.rest.trim_start().strip_prefix(close) {
                self.rest = rest;
                return Some(parts);
            }
            if !parts.is_empty() {
                self.rest = self.rest.trim_start().strip_prefix(',')?;
            }
            parts.push(self.shape()?);
        }
    }
}

/// Finds a message among those of the guest, and those that every guest may store.
fn message(name: &str, pool: &DescriptorPool) -> Option<MessageDescriptor> {
    pool.get_message_by_name(name).or_else(|| DescriptorPool::global().get_message_by_name(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(types: &str) -> Rows {
        rows(types, &DescriptorPool::new())
    }

    #[test]
    fn types_are_read_as_the_sdk_writes_them() {
        assert_eq!(of("Map<String, u64>"), Rows::Map(Shape::Text, Shape::Unsigned(8)));
        assert_eq!(of("Set<()>"), Rows::Set(Shape::Unit));
        let reversed = Shape::Reverse(Box::new(Shape::Signed(8)));
        let letter = Shape::Option(Box::new(Shape::Char));
        assert_eq!(of("Set<(Reverse<i64>, Option<char>)>"), Rows::Set(Shape::Tuple(vec![reversed, letter])));
        let parts = vec![Shape::Array(16), Shape::Bytes, Shape::Bool, Shape::F32];
        assert_eq!(of("Value<([u8; 16], Vec<u8>, bool, f32)>"), Rows::Value(Shape::Tuple(parts)));
        let Rows::Value(Shape::Message(time)) = of("Value<google.protobuf.Timestamp>") else { panic!("a message") };
        assert_eq!(time.full_name(), "google.protobuf.Timestamp");
    }

    #[test]
    fn what_is_not_known_is_said_so() {
        assert_eq!(of("Map<?, u64>"), Rows::Map(Shape::Unknown, Shape::Unsigned(8)));
        assert_eq!(of("Value<my.Own>"), Rows::Value(Shape::Unknown));
        for types in
            ["", "Map<u8>", "Map<u8, u8, u8>", "List<u8>", "Set<u8", "Set<u8>>", "Set<[u16; 2]>", "Set<(u8,,u8)>"]
        {
            assert_eq!(of(types), Rows::Unknown, "{types}");
        }
        let deep = format!("Set<{}u8{}>", "Option<".repeat(100), ">".repeat(100));
        assert_eq!(of(&deep), Rows::Unknown);
    }

    #[test]
    fn a_state_has_its_collections_and_indexes_in_the_order_of_tags() {
        let text = "3 names: Map<u64, String>\n200 index of names: Set<(u32, u64)>\n201 index of names: Set<(u8, u64)>\n\
            4 n: Set<u8>\n5 index of n: Set<u8>\nretired 1: Set<u8>\n";
        let found = collections(&StateLock::parse(text).unwrap(), &DescriptorPool::new());
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "names (tag 3, Map<u64, String>)",
                "n (tag 4, Set<u8>)",
                "index of n (tag 5, Set<u8>)",
                "index of names 200 (tag 200, Set<(u32, u64)>)",
                "index of names 201 (tag 201, Set<(u8, u64)>)",
            ]
        );
        let tables: Vec<_> = found.iter().filter_map(|collection| collection.table.as_deref()).collect();
        assert_eq!(tables, ["n", "names", "names"]);
        assert!(found.iter().all(|collection| is_index(&collection.name) == collection.table.is_some()));
    }
}
