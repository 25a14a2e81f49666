//! Reads a message from JSON. An error names the path of its field: a name that no field has, a
//! field that is given twice under one name or under both of its names, a value that the field
//! cannot hold. This file guesses nothing.

use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value, json};

use super::Tree;
use super::show::is_well_known;
use crate::cli::similar::{similar, suggestion};

const ANY: &str = "google.protobuf.Any";

/// Reads `tree` as a message, in the JSON mapping of protobuf. An error says what is wrong, and
/// where.
pub(crate) fn read_message(descriptor: &MessageDescriptor, tree: &Tree) -> Result<DynamicMessage, String> {
    if is_well_known(descriptor) {
        no_name_twice(tree, "")?;
        return DynamicMessage::deserialize(descriptor.clone(), tree.to_value()).map_err(|error| error.to_string());
    }
    Names.message(descriptor, tree, "")?;
    DynamicMessage::deserialize(descriptor.clone(), tree.to_value()).map_err(|error| {
        // The error does not say where. So each value is read alone to find the place.
        Values.message(descriptor, tree, "").err().unwrap_or_else(|| error.to_string())
    })
}

/// A walk along the fields of a message. It ends at the first problem.
trait Walk {
    /// Visits a message whose JSON is an object of its fields.
    fn fields(&self, descriptor: &MessageDescriptor, pairs: &[(String, Tree)], path: &str) -> Result<(), String>;

    /// Visits the entries of a map.
    fn entries(&self, key: &Kind, pairs: &[(String, Tree)], path: &str) -> Result<(), String>;

    /// Visits a value that is not an ordinary message, in `field` of `descriptor`. `whole` is the
    /// field's value with nothing else in it.
    fn leaf(&self, at: &Leaf<'_>, tree: &Tree, whole: Value) -> Result<(), String>;

    fn message(&self, descriptor: &MessageDescriptor, tree: &Tree, path: &str) -> Result<(), String> {
        let Tree::Object(pairs) = tree else { return Ok(()) };
        self.fields(descriptor, pairs, path)?;
        for (name, tree) in pairs {
            let Some(field) = field(descriptor, name) else { continue };
            let at = Leaf { descriptor, field: &field, name, path: &join(path, name) };
            match tree {
                Tree::List(list) if field.is_list() => {
                    for (position, tree) in list.iter().enumerate() {
                        let path = format!("{}[{position}]", at.path);
                        self.value(&Leaf { path: &path, ..at }, &field.kind(), tree, json!([tree.to_value()]))?;
                    }
                }
                Tree::Object(pairs) if field.is_map() => {
                    let Kind::Message(entry) = field.kind() else { continue };
                    self.entries(&entry.map_entry_key_field().kind(), pairs, at.path)?;
                    let kind = entry.map_entry_value_field().kind();
                    for (key, tree) in pairs {
                        let path = join(at.path, key);
                        self.value(&Leaf { path: &path, ..at }, &kind, tree, json!({ key: tree.to_value() }))?;
                    }
                }
                _ if field.is_list() || field.is_map() => self.leaf(&at, tree, tree.to_value())?,
                tree => self.value(&at, &field.kind(), tree, tree.to_value())?,
            }
        }
        Ok(())
    }

    fn value(&self, at: &Leaf<'_>, kind: &Kind, tree: &Tree, whole: Value) -> Result<(), String> {
        match kind {
            Kind::Message(descriptor) if matches!(tree, Tree::Object(_)) && !is_well_known(descriptor) => {
                self.message(descriptor, tree, at.path)
            }
            _ => self.leaf(at, tree, whole),
        }
    }
}

/// A field, and how it was written.
#[derive(Clone, Copy)]
struct Leaf<'a> {
    descriptor: &'a MessageDescriptor,
    field: &'a FieldDescriptor,
    name: &'a str,
    path: &'a str,
}

/// Checks names only: each must exist, and must stand there once.
struct Names;

impl Walk for Names {
    fn fields(&self, descriptor: &MessageDescriptor, pairs: &[(String, Tree)], path: &str) -> Result<(), String> {
        let mut seen: Vec<(u32, &str)> = Vec::new();
        for (name, _) in pairs {
            let number = match field(descriptor, name) {
                Some(field) => field.number(),
                None => match descriptor.get_extension_by_json_name(name) {
                    Some(extension) => extension.number(),
                    None => return Err(unknown(descriptor, name, path)),
                },
            };
            match seen.iter().find(|(earlier, _)| *earlier == number) {
                Some((_, earlier)) if earlier == name => return Err(twice(&join(path, name))),
                Some((_, earlier)) => {
                    return Err(format!(
                        "{} and {} are one field, and it is there twice",
                        quote(path, earlier),
                        quote(path, name)
                    ));
                }
                None => seen.push((number, name)),
            }
        }
        Ok(())
    }

    fn entries(&self, key: &Kind, pairs: &[(String, Tree)], path: &str) -> Result<(), String> {
        let is_number = !matches!(key, Kind::String | Kind::Bool);
        // For number keys, `7` and `07` are the same key.
        let key =
            |name: &str| name.parse::<i128>().ok().filter(|_| is_number).map_or(name.to_owned(), |key| key.to_string());
        let mut seen = BTreeSet::new();
        match pairs.iter().find(|(name, _)| !seen.insert(key(name))) {
            Some((name, _)) => Err(twice(&join(path, name))),
            None => Ok(()),
        }
    }

    fn leaf(&self, at: &Leaf<'_>, tree: &Tree, _whole: Value) -> Result<(), String> {
        if overflows(&scalar_kind(at.field), tree) {
            return Err(format!("{:?}, {}: out of range", at.path, kind_in_words(at.field)));
        }
        let payload = match (at.field.kind(), tree) {
            (Kind::Message(any), Tree::Object(pairs)) if any.full_name() == ANY => payload(&any, pairs),
            _ => None,
        };
        match payload {
            Some((descriptor, fields)) => self.message(&descriptor, &fields, at.path),
            None => no_name_twice(tree, at.path),
        }
    }
}

/// Returns the message in an `Any`, if its fields stand beside the type.
fn payload(any: &MessageDescriptor, pairs: &[(String, Tree)]) -> Option<(MessageDescriptor, Tree)> {
    let (is_type, fields): (Vec<_>, Vec<_>) = pairs.iter().cloned().partition(|(name, _)| name == "@type");
    let [(_, Tree::Leaf(Value::String(url)))] = is_type.as_slice() else { return None };
    let descriptor = any.parent_pool().get_message_by_name(url.rsplit('/').next()?)?;
    (!is_well_known(&descriptor)).then_some((descriptor, Tree::Object(fields)))
}

/// Checks that no name is there twice, at any depth, where names are only keys.
fn no_name_twice(tree: &Tree, path: &str) -> Result<(), String> {
    match tree {
        Tree::Leaf(_) => Ok(()),
        Tree::List(list) => {
            (0..).zip(list).try_for_each(|(at, tree): (usize, _)| no_name_twice(tree, &format!("{path}[{at}]")))
        }
        Tree::Object(pairs) => {
            let mut seen = BTreeSet::new();
            pairs.iter().try_for_each(|(name, tree)| {
                let path = join(path, name);
                if seen.insert(name) { no_name_twice(tree, &path) } else { Err(twice(&path)) }
            })
        }
    }
}

/// Reads each value alone, to find the one that cannot be read.
struct Values;

impl Walk for Values {
    fn fields(&self, _descriptor: &MessageDescriptor, _pairs: &[(String, Tree)], _path: &str) -> Result<(), String> {
        Ok(())
    }

    fn entries(&self, _key: &Kind, _pairs: &[(String, Tree)], _path: &str) -> Result<(), String> {
        Ok(())
    }

    fn leaf(&self, at: &Leaf<'_>, tree: &Tree, whole: Value) -> Result<(), String> {
        let alone = json!({ at.name: whole });
        let Err(error) = DynamicMessage::deserialize(at.descriptor.clone(), alone) else { return Ok(()) };
        let problem = match (value_kind(at.field), tree) {
            (Kind::Enum(kind), Tree::Leaf(Value::String(name))) => no_such_name(&kind, name),
            _ => error.to_string(),
        };
        Err(format!("{:?}, {}: {problem}", at.path, kind_in_words(at.field)))
    }
}

/// Tells whether a number is out of the range of its kind. It covers the cases in which
/// prost-reflect would take the nearest number in range.
fn overflows(kind: &Kind, tree: &Tree) -> bool {
    let beyond = |limit: f64, number: &serde_json::Number| number.is_f64() && number.as_f64() >= Some(limit);
    let is_word = |text: &str| ["NaN", "Infinity", "-Infinity"].contains(&text);
    match (kind, tree) {
        // The greatest 64-bit number is not a floating-point number, but the number above it is.
        (Kind::Uint64 | Kind::Fixed64, Tree::Leaf(Value::Number(number))) => beyond(2f64.powi(64), number),
        (Kind::Int64 | Kind::Sint64 | Kind::Sfixed64, Tree::Leaf(Value::Number(number))) => {
            beyond(2f64.powi(63), number)
        }
        (Kind::Double, Tree::Leaf(Value::String(text))) => {
            !is_word(text) && text.parse::<f64>().is_ok_and(|number| !number.is_finite())
        }
        (Kind::Float, Tree::Leaf(Value::String(text))) => {
            !is_word(text) && text.parse::<f32>().is_ok_and(|number| !number.is_finite())
        }
        _ => false,
    }
}

/// Returns the kind of a field's values, without the wrapper around it.
fn scalar_kind(field: &FieldDescriptor) -> Kind {
    match value_kind(field) {
        Kind::Message(wrapper) if is_well_known(&wrapper) && wrapper.name().ends_with("Value") => {
            wrapper.get_field_by_name("value").map_or(Kind::Message(wrapper), |value| value.kind())
        }
        kind => kind,
    }
}

/// Returns the kind of a field's values, including those of a map.
fn value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

/// Returns, for example, `of type uint32` or `of repeated Item`.
fn kind_in_words(field: &FieldDescriptor) -> String {
    let name = |kind: Kind| match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(kind) => kind.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            format!("of map<{}, {}>", name(key), name(value))
        }
        kind if field.is_list() => format!("of repeated {}", name(kind)),
        kind => format!("of type {}", name(kind)),
    }
}

fn no_such_name(kind: &EnumDescriptor, name: &str) -> String {
    let names: Vec<String> = kind.values().map(|value| value.name().to_owned()).collect();
    format!("{} has no value {name:?}; {}", kind.full_name(), suggest(name, &names))
}

fn unknown(descriptor: &MessageDescriptor, name: &str, path: &str) -> String {
    let names: Vec<String> = descriptor.fields().map(|field| field.json_name().to_owned()).collect();
    let hint = if names.is_empty() { "it has none".to_owned() } else { suggest(name, &names) };
    format!("{:?}: {} has no field {name:?}; {hint}", join(path, name), descriptor.full_name())
}

fn suggest(name: &str, names: &[String]) -> String {
    let close: Vec<String> = similar(name, names.iter().map(String::as_str)).into_iter().map(str::to_owned).collect();
    suggestion(&close, names)
}

fn twice(path: &str) -> String {
    format!("{path:?} is there twice")
}

fn quote(path: &str, name: &str) -> String {
    format!("{:?}", join(path, name))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Returns the field that has this name as either of its names.
fn field(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::show::tests::pool;
    use super::*;

    fn problem(json: &str) -> String {
        let descriptor = pool().get_message_by_name("R").unwrap();
        read_message(&descriptor, &Tree::parse(json).unwrap()).err().unwrap_or_else(|| panic!("{json} was read"))
    }

    #[test]
    fn what_is_right_is_read() {
        let descriptor = pool().get_message_by_name("R").unwrap();
        let json = r#"{"one": {"name": "a", "n": "7", "next": null}, "many": [{}, {"n": 1}], "byName": {"a": {}, "b": {}},
            "numbered": {"7": "x", "8": "y"}, "raw_bytes": "AAE=", "small": 4294967295, "colour": "RED", "tree": {"a": [{"a": 1}]},
            "any": {"@type": "x/Inner", "name": "a"}, "at": "2024-01-01T00:00:00Z",
            "ratio": "Infinity", "maybe": 1e300, "signed": [-9223372036854775808, "9223372036854775807", 1e18]}"#;
        let message = read_message(&descriptor, &Tree::parse(json).unwrap()).unwrap();
        assert_eq!(message.get_field_by_name("small").unwrap().as_u32(), Some(u32::MAX));
    }

    #[test]
    fn a_name_that_is_there_twice_is_told_at_any_depth() {
        let table = [
            (r#"{"small": 1, "small": 2}"#, r#""small" is there twice"#),
            (r#"{"small": null, "small": 2}"#, r#""small" is there twice"#),
            (r#"{"one": {"next": {"n": 1, "n": 1}}}"#, r#""one.next.n" is there twice"#),
            (r#"{"many": [{}, {"n": 1, "n": 1}]}"#, r#""many[1].n" is there twice"#),
            (
                r#"{"rawBytes": "", "raw_bytes": ""}"#,
                r#""rawBytes" and "raw_bytes" are one field, and it is there twice"#,
            ),
            (r#"{"byName": {"a": {}, "a": {}}}"#, r#""byName.a" is there twice"#),
            (r#"{"byName": {"a": {"n": 1, "n": 2}}}"#, r#""byName.a.n" is there twice"#),
            (r#"{"numbered": {"7": "a", "07": "b"}}"#, r#""numbered.07" is there twice"#),
            (r#"{"tree": {"a": [1, {"b": 1, "b": 2}]}}"#, r#""tree.a[1].b" is there twice"#),
            (r#"{"any": {"@type": "x/Inner", "n": 1, "n": 2}}"#, r#""any.n" is there twice"#),
            (r#"{"any": {"@type": "x/Inner", "@type": "x/Inner"}}"#, r#""any.@type" is there twice"#),
        ];
        for (json, expected) in table {
            assert_eq!(problem(json), expected, "{json}");
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_with_the_path_of_its_field() {
        let table = [
            (r#"{"small": 4294967296}"#, r#""small", of type uint32: "#),
            (r#"{"small": -1}"#, r#""small", of type uint32: "#),
            (r#"{"small": "x"}"#, r#""small", of type uint32: invalid digit"#),
            (r#"{"one": {"n": 18446744073709551616}}"#, r#""one.n", of type uint64: "#),
            (r#"{"one": {"n": 1.8446744073709551616e19}}"#, r#""one.n", of type uint64: out of range"#),
            (r#"{"signed": [9.3e18]}"#, r#""signed[0]", of repeated sint64: out of range"#),
            (r#"{"signed": [9223372036854775808]}"#, r#""signed[0]", of repeated sint64: "#),
            (r#"{"ratio": "1e400"}"#, r#""ratio", of type double: out of range"#),
            (r#"{"maybe": "inf"}"#, r#""maybe", of type google.protobuf.DoubleValue: out of range"#),
            (r#"{"one": {"name": 5}}"#, r#""one.name", of type string: invalid type: integer `5`, expected a string"#),
            (r#"{"one": 5}"#, r#""one", of type Inner: invalid type: integer `5`"#),
            (r#"{"rawBytes": "%%%"}"#, r#""rawBytes", of type bytes: invalid base64"#),
            (r#"{"many": [{}, {"next": {"n": []}}]}"#, r#""many[1].next.n", of type uint64: "#),
            (r#"{"many": {}}"#, r#""many", of repeated Inner: "#),
            (r#"{"words": ["a", 1]}"#, r#""words[1]", of repeated string: "#),
            (r#"{"numbered": {"x": "a"}}"#, r#""numbered.x", of map<uint32, string>: "#),
            (r#"{"numbered": {"1": 1}}"#, r#""numbered.1", of map<uint32, string>: "#),
            (r#"{"at": "yesterday"}"#, r#""at", of type google.protobuf.Timestamp: "#),
            (r#"{"colour": "REDD"}"#, r#""colour", of type Colour: Colour has no value "REDD"; did you mean RED?"#),
            (r#"{"a": "x", "b": "y"}"#, "multiple fields provided for oneof 'choice'"),
        ];
        for (json, expected) in table {
            let told = problem(json);
            assert!(told.starts_with(expected), "{json}: {told}");
            assert!(!told.contains(" line "), "{told}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_with_its_path_and_what_was_meant() {
        let table = [
            (r#"{"smal": 1}"#, r#""smal": R has no field "smal"; did you mean small?"#),
            (r#"{"one": {"next": {"nam": ""}}}"#, r#""one.next.nam": Inner has no field "nam"; did you mean name?"#),
            (
                r#"{"any": {"@type": "x/Inner", "zzzzzz": ""}}"#,
                r#""any.zzzzzz": Inner has no field "zzzzzz"; there are name, n, next"#,
            ),
            (r#"{"nothing": {"x": 1}}"#, r#""nothing.x": Nothing has no field "x"; it has none"#),
        ];
        for (json, expected) in table {
            assert_eq!(problem(json), expected, "{json}");
        }
    }
}
