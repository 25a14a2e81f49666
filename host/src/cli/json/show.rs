//! Shows a message as JSON, whatever it contains. A part without a JSON form is shown as well as
//! possible, with `"@error"` beside it: a timestamp out of range by its fields, an `Any` of an
//! unknown type by its bytes. This file hides nothing, and never fails.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, SerializeOptions, Value as Held,
};
use serde_json::Value;

use super::Tree;

/// Messages whose JSON is not an object of their fields.
const WELL_KNOWN: [&str; 17] = [
    "Any",
    "Timestamp",
    "Duration",
    "Struct",
    "ListValue",
    "Value",
    "Empty",
    "FieldMask",
    "FloatValue",
    "DoubleValue",
    "Int32Value",
    "Int64Value",
    "UInt32Value",
    "UInt64Value",
    "BoolValue",
    "StringValue",
    "BytesValue",
];
/// Name of the reason that stands beside a part without a JSON form.
const ERROR: &str = "@error";

/// A message as JSON.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) json: Tree,
    /// The parts without a JSON form: the path of each field, and why.
    pub(crate) problems: Vec<String>,
}

/// Shows a message in the JSON mapping of protobuf, as other tools print it. It includes fields
/// that hold their default.
pub(crate) fn show(message: &DynamicMessage) -> Shown {
    let mut show = Show { problems: Vec::new() };
    let json = show.message(message, "");
    Shown { json, problems: show.problems }
}

/// Shows bytes like [`show`], even if they do not decode as this message.
pub(crate) fn show_bytes(descriptor: &MessageDescriptor, bytes: &[u8]) -> Shown {
    match DynamicMessage::decode(descriptor.clone(), bytes) {
        Ok(message) => show(&message),
        Err(error) => {
            let problem = format!("the bytes are no {}: {error}", descriptor.full_name());
            let json = raw(descriptor.full_name(), &problem, bytes);
            Shown { json, problems: vec![problem] }
        }
    }
}

/// Tells whether the JSON of such a message is not an object of its fields.
pub(super) fn is_well_known(descriptor: &MessageDescriptor) -> bool {
    let name = descriptor.full_name().strip_prefix("google.protobuf.");
    name.is_some_and(|name| WELL_KNOWN.contains(&name))
}

/// Returns the standard JSON of a message, if all of it has a JSON form.
fn whole(message: &DynamicMessage) -> Result<Tree, String> {
    let mut json = Vec::new();
    let options = SerializeOptions::new().skip_default_fields(false);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&json).map_err(|error| error.to_string())
}

/// Tells whether JSON would hide a number that is not finite. Such a number in a wrapper becomes
/// `null`, which does not show that there was a number.
fn hides_a_number(message: &DynamicMessage) -> bool {
    let is_wrapper =
        ["google.protobuf.FloatValue", "google.protobuf.DoubleValue"].contains(&message.descriptor().full_name());
    let hides = |value: &Held| match value {
        Held::Message(message) => hides_a_number(message),
        value => is_wrapper && number(value).is_some_and(|number| !number.is_finite()),
    };
    message.fields().any(|(_, value)| match value {
        Held::List(list) => list.iter().any(hides),
        Held::Map(map) => map.values().any(hides),
        value => hides(value),
    })
}

fn enum_name(field: &FieldDescriptor, number: i32) -> Option<String> {
    let kind = match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    Some(kind.as_enum()?.get_value(number)?.name().to_owned())
}

fn number(value: &Held) -> Option<f64> {
    value.as_f64().or_else(|| value.as_f32().map(f64::from))
}

/// Returns the value under `name` in an object.
fn member(tree: Tree, name: &str) -> Option<Tree> {
    let Tree::Object(pairs) = tree else { return None };
    pairs.into_iter().find(|(found, _)| found == name).map(|(_, tree)| tree)
}

fn raw(type_name: &str, problem: &str, bytes: &[u8]) -> Tree {
    let value = BASE64_STANDARD.encode(bytes);
    let pairs = [("@type", type_name), (ERROR, problem), ("@value", &value)];
    Tree::Object(pairs.map(|(name, text)| (name.to_owned(), Tree::text(text))).into())
}

struct Show {
    problems: Vec<String>,
}

impl Show {
    fn message(&mut self, message: &DynamicMessage, path: &str) -> Tree {
        match whole(message) {
            Ok(tree) if !hides_a_number(message) => tree,
            Ok(_) => self.parts(message, path, "a number that JSON does not have"),
            Err(reason) => self.parts(message, path, &reason),
        }
    }

    /// Shows the parts of a message one by one, since not all of them have a JSON form.
    fn parts(&mut self, message: &DynamicMessage, path: &str, reason: &str) -> Tree {
        let descriptor = message.descriptor();
        if !is_well_known(&descriptor) {
            return Tree::Object(self.fields(message, path));
        }
        match descriptor.name() {
            "Any" => self.any(message, path, reason),
            // The only field of these messages is the value that they hold.
            "Struct" | "ListValue" | "Value" | "FloatValue" | "DoubleValue" => match message.fields().next() {
                Some((field, value)) => self.value(&field, value, path),
                None => self.unshown(message, path, reason),
            },
            _ => self.unshown(message, path, reason),
        }
    }

    fn fields(&mut self, message: &DynamicMessage, path: &str) -> Vec<(String, Tree)> {
        let mut pairs = Vec::new();
        for field in message.descriptor().fields() {
            if !field.supports_presence() || message.has_field(&field) {
                let path = if path.is_empty() {
                    field.json_name().to_owned()
                } else {
                    format!("{path}.{}", field.json_name())
                };
                let tree = self.value(&field, &message.get_field(&field), &path);
                pairs.push((field.json_name().to_owned(), tree));
            }
        }
        for (extension, value) in message.extensions() {
            let mut alone = DynamicMessage::new(message.descriptor());
            alone.set_extension(&extension, value.clone());
            let name = extension.json_name();
            let tree = whole(&alone).map(|tree| member(tree, name)).unwrap_or_else(|reason| {
                self.problems.push(format!("{path}{name}: {reason}"));
                Some(raw(extension.full_name(), &reason, &alone.encode_to_vec()))
            });
            pairs.extend(tree.map(|tree| (name.to_owned(), tree)));
        }
        pairs
    }

    fn value(&mut self, field: &FieldDescriptor, value: &Held, path: &str) -> Tree {
        match value {
            Held::Message(message) => self.message(message, path),
            Held::List(list) => {
                let show = |(at, value): (usize, &Held)| self.value(field, value, &format!("{path}[{at}]"));
                Tree::List(list.iter().enumerate().map(show).collect())
            }
            Held::Map(map) => {
                let mut pairs: Vec<(String, Tree)> = Vec::new();
                for (key, value) in map {
                    let key = key_text(key);
                    let tree = self.value(field, value, &format!("{path}.{key}"));
                    pairs.push((key, tree));
                }
                pairs.sort_by(|one, other| one.0.cmp(&other.0));
                Tree::Object(pairs)
            }
            scalar => self.scalar(field, scalar, path),
        }
    }

    /// Shows a value that contains no message.
    fn scalar(&mut self, field: &FieldDescriptor, scalar: &Held, path: &str) -> Tree {
        Tree::Leaf(match scalar {
            Held::Bool(value) => Value::from(*value),
            Held::I32(value) => Value::from(*value),
            Held::U32(value) => Value::from(*value),
            Held::I64(value) => Value::from(value.to_string()),
            Held::U64(value) => Value::from(value.to_string()),
            Held::String(value) => Value::from(value.as_str()),
            Held::Bytes(value) => Value::from(BASE64_STANDARD.encode(value)),
            Held::EnumNumber(number) => enum_name(field, *number).map_or(Value::from(*number), Value::from),
            // Uses the shortest text that gives this number, not the longer text of the same number
            // as a double.
            Held::F32(value) if value.is_finite() => {
                Value::from(value.to_string().parse().unwrap_or(f64::from(*value)))
            }
            Held::F64(value) if value.is_finite() => Value::from(*value),
            _ => return self.no_number(field, number(scalar).unwrap_or(f64::NAN), path),
        })
    }

    /// Returns the words for a number that JSON lacks. The JSON mapping has such words for a field
    /// of an ordinary message. It has none for a well-known message, so that is recorded as a
    /// problem.
    fn no_number(&mut self, field: &FieldDescriptor, number: f64, path: &str) -> Tree {
        let words = format!("{number:?}").replace("inf", "Infinity");
        if is_well_known(field.parent_message()) {
            self.problems.push(format!("{}: JSON has no number {words}", named(path)));
        }
        Tree::text(words)
    }

    fn any(&mut self, message: &DynamicMessage, path: &str, reason: &str) -> Tree {
        let held = |name: &str| message.get_field_by_name(name);
        let url = held("type_url").and_then(|url| url.as_str().map(str::to_owned)).unwrap_or_default();
        let bytes = held("value").and_then(|bytes| bytes.as_bytes().cloned()).unwrap_or_default();
        let known =
            url.rsplit_once('/').and_then(|(_, name)| message.descriptor().parent_pool().get_message_by_name(name));
        let Some(inner) = known.and_then(|known| DynamicMessage::decode(known, bytes.clone()).ok()) else {
            self.problems.push(format!("{}: {reason}", named(path)));
            return raw(&url, reason, &bytes);
        };
        let mut pairs = vec![("@type".to_owned(), Tree::text(url))];
        if is_well_known(&inner.descriptor()) {
            pairs.push(("value".to_owned(), self.message(&inner, &format!("{path}.value"))));
        } else {
            pairs.extend(self.fields(&inner, path));
        }
        Tree::Object(pairs)
    }

    /// Shows a message by its fields, with the reason beside them.
    fn unshown(&mut self, message: &DynamicMessage, path: &str, reason: &str) -> Tree {
        self.problems.push(format!("{}: {reason}", named(path)));
        let mut pairs = self.fields(message, path);
        let only_default = pairs.is_empty() && !message.encode_to_vec().is_empty();
        if only_default {
            return raw(message.descriptor().full_name(), reason, &message.encode_to_vec());
        }
        pairs.push((ERROR.to_owned(), Tree::text(reason)));
        Tree::Object(pairs)
    }
}

/// Returns the path, or a name for the whole message, which has no path.
fn named(path: &str) -> &str {
    if path.is_empty() { "the message" } else { path }
}

/// Returns the key of a map as JSON has it.
pub(crate) fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use prost_reflect::DescriptorPool;

    const PROTO: &str = r#"syntax = "proto3";
        import "google/protobuf/any.proto";
        import "google/protobuf/duration.proto";
        import "google/protobuf/field_mask.proto";
        import "google/protobuf/struct.proto";
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto";
        enum Colour { NONE = 0; RED = 1; }
        message Nothing {}
        message Inner { string name = 1; uint64 n = 2; Inner next = 3; }
        message R {
          Inner one = 1; repeated Inner many = 2; map<string, Inner> by_name = 3; repeated string words = 4;
          google.protobuf.Timestamp at = 5; uint32 small = 6; map<uint32, string> numbered = 7; bytes raw_bytes = 8;
          Colour colour = 9; google.protobuf.Struct tree = 10; google.protobuf.Any any = 11; Nothing nothing = 12;
          oneof choice { string a = 13; string b = 14; }
          google.protobuf.Duration took = 15; google.protobuf.FieldMask mask = 16; google.protobuf.DoubleValue maybe = 17;
          repeated google.protobuf.Timestamp times = 18; double ratio = 19; repeated Colour colours = 20;
          map<string, google.protobuf.Timestamp> seen = 21; repeated sint64 signed = 22;
        }"#;

    pub(in super::super) fn pool() -> DescriptorPool {
        let place = tempfile::tempdir().unwrap();
        let proto = place.path().join("app.proto");
        std::fs::write(&proto, PROTO).unwrap();
        let descriptor = lockstep_guest_build::descriptor(&[proto], &[place.path()]).unwrap();
        DescriptorPool::decode(descriptor.as_slice()).unwrap()
    }

    /// Returns a field of `R`, as bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let tag = u64::from(number) << 3 | 2;
        let mut field = Vec::new();
        prost::encoding::encode_varint(tag, &mut field);
        prost::encoding::encode_varint(bytes.len() as u64, &mut field);
        field.extend(bytes);
        field
    }

    /// Returns what is shown of `R`, including fields with their defaults, and the problems.
    fn shown(bytes: &[u8]) -> (serde_json::Value, Vec<String>) {
        let Shown { json, problems } = show_bytes(&pool().get_message_by_name("R").unwrap(), bytes);
        (json.to_value(), problems)
    }

    fn timestamp(seconds: i64) -> Vec<u8> {
        prost_types::Timestamp { seconds, nanos: 7 }.encode_to_vec()
    }

    #[test]
    fn what_has_a_json_form_is_shown_in_it() {
        let (json, problems) = shown(&[field(5, &timestamp(0)), field(1, &field(1, b"a"))].concat());
        assert_eq!(json["at"], "1970-01-01T00:00:00.000000007Z");
        assert_eq!((&json["one"]["name"], &json["one"]["n"], problems.len()), (&"a".into(), &"0".into(), 0));
        let order = show(&DynamicMessage::new(pool().get_message_by_name("Inner").unwrap()));
        assert_eq!(order.json.to_string(), r#"{"name":"","n":"0"}"#);
    }

    #[test]
    fn times_out_of_range_are_shown_by_their_fields_and_all_else_stays() {
        let late = timestamp(i64::MAX);
        let took = prost_types::Duration { seconds: i64::MIN, nanos: 0 }.encode_to_vec();
        let entry = [field(1, b"k"), field(2, &late)].concat();
        let message = [
            field(1, &field(1, b"a")),
            field(4, b"word"),
            field(5, &late),
            field(8, b"\x00\x01"),
            field(15, &took),
            field(18, &timestamp(0)),
            field(18, &late),
            field(20, &[1, 0]),
            field(21, &entry),
        ];
        let (json, problems) = shown(&message.concat());
        let at = serde_json::json!({ "seconds": i64::MAX.to_string(), "nanos": 7, "@error": "timestamp out of range" });
        assert_eq!((&json["at"], &json["seen"]["k"], &json["times"][1]), (&at, &at, &at));
        assert_eq!(
            (&json["took"]["seconds"], &json["took"]["@error"]),
            (&i64::MIN.to_string().into(), &"duration out of range".into())
        );
        assert_eq!(
            (&json["one"]["name"], &json["words"][0], &json["rawBytes"]),
            (&"a".into(), &"word".into(), &"AAE=".into())
        );
        assert_eq!(json["colours"], serde_json::json!(["RED", "NONE"]));
        let paths: Vec<&str> = problems.iter().filter_map(|problem| problem.split(':').next()).collect();
        assert_eq!(paths, ["at", "took", "times[1]", "seen.k"]);
    }

    #[test]
    fn an_any_that_nobody_knows_is_shown_by_its_bytes() {
        let any = |type_url: &str, value: &[u8]| {
            field(11, &prost_types::Any { type_url: type_url.into(), value: value.into() }.encode_to_vec())
        };
        let (json, problems) = shown(&any("x/Unknown", b"\x00\x01"));
        assert_eq!((&json["any"]["@type"], &json["any"]["@value"]), (&"x/Unknown".into(), &"AAE=".into()));
        assert!(json["any"]["@error"].as_str().unwrap().contains("Unknown") && problems.len() == 1, "{json}");
        for (url, bytes) in [("", &b"x"[..]), ("x/Inner", b"\xff")] {
            assert!(shown(&any(url, bytes)).0["any"]["@error"].is_string(), "{url}");
        }
        let (json, _) = shown(&any("x/Inner", &field(1, b"a")));
        assert_eq!(json["any"], serde_json::json!({ "@type": "x/Inner", "name": "a", "n": "0" }));
        let (json, problems) = shown(&any("x/google.protobuf.Timestamp", &timestamp(i64::MAX)));
        assert_eq!(json["any"]["value"]["@error"], "timestamp out of range");
        assert_eq!(problems, ["any.value: timestamp out of range"]);
    }

    #[test]
    fn numbers_that_json_lacks_are_shown_as_words() {
        let nan = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(f64::NAN)) };
        let one = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(1.0)) };
        let list = prost_types::ListValue { values: vec![one.clone(), nan] };
        let list = prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) };
        let tree = prost_types::Struct { fields: [("a".to_owned(), one), ("b".to_owned(), list)].into() };
        let maybe = f64::NEG_INFINITY.encode_to_vec();
        let (json, problems) = shown(&[field(10, &tree.encode_to_vec()), field(17, &maybe)].concat());
        assert_eq!(json["tree"], serde_json::json!({ "a": 1.0, "b": [1.0, "NaN"] }));
        assert_eq!(json["maybe"], "-Infinity");
        assert_eq!(problems, ["tree.b[1]: JSON has no number NaN", "maybe: JSON has no number -Infinity"]);
    }

    #[test]
    fn other_odd_things_are_shown_with_the_reason() {
        let mask = prost_types::FieldMask { paths: vec!["a__b".into()] }.encode_to_vec();
        let (json, problems) = shown(&field(16, &mask));
        assert_eq!((&json["mask"]["paths"][0], problems.len()), (&"a__b".into(), 1));
        let (json, problems) = shown(b"\xff");
        assert_eq!((&json["@type"], &json["@value"]), (&"R".into(), &"/w==".into()));
        assert!(problems[0].starts_with("the bytes are no R: "), "{problems:?}");
    }
}
