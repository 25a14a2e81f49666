//! A request as bytes with gaps: texts like `{key}` are filled in for each call, and everything
//! else was encoded before the run. It knows no server and draws no key.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::Value;

use crate::cli::json::{Tree, read_message};

/// Most keys that one request has: `{key}` to `{key:1000}`.
const KEYS_MAX: usize = 1000;

/// The placeholders, for messages.
const KNOWN: &str = "{key}, {key:2} and so on for more keys in one request, {value}, {n} and {client}";

/// A request of which only the gaps differ from call to call.
#[derive(Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
    keys: usize,
}

/// What fills the gaps of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill<'a> {
    /// As many as [`Template::keys`] says.
    pub(super) keys: &'a [u64],
    pub(super) value: &'a [u8],
    /// Number of the call.
    pub(super) number: u64,
    pub(super) client: u64,
}

#[derive(Debug)]
enum Part {
    Bytes(Bytes),
    Value,
    /// A number in decimal digits.
    Digits(Number),
    /// A number as protobuf writes an integer.
    Varint(Number),
    /// The length of what follows, and that.
    Sized(Vec<Part>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    /// By its position in [`Fill::keys`].
    Key(usize),
    Call,
    Client,
}

impl Template {
    /// Makes a request of texts, by the numbers of their fields. `rest` is what follows them,
    /// encoded.
    ///
    /// # Errors
    /// A text has a placeholder that does not exist.
    pub(super) fn of_texts(fields: &[(u32, &str)], rest: &'static [u8]) -> Result<Template, String> {
        let mut parts = Vec::new();
        for (number, text) in fields {
            parts.push(key(*number, WireType::LengthDelimited));
            parts.push(Part::Sized(parts_of(text)?));
        }
        parts.push(Part::Bytes(Bytes::from_static(rest)));
        Ok(Template::new(parts))
    }

    /// Makes a request of JSON. Its texts may have placeholders. In a field of type bytes, such a
    /// text is taken as it is, and not as base64.
    ///
    /// # Errors
    /// The JSON is no such message, or a placeholder does not exist or stands where none may. The
    /// text says which field it is.
    pub(super) fn of_json(input: &MessageDescriptor, json: &str) -> Result<Template, String> {
        let tree = Tree::parse(json)?;
        match &tree {
            Tree::Object(pairs) if has_gaps(&tree)? => Ok(Template::new(message(input, pairs)?)),
            _ => {
                let encoded = read_message(input, &tree)?.encode_to_vec();
                Ok(Template::new(vec![Part::Bytes(encoded.into())]))
            }
        }
    }

    fn new(parts: Vec<Part>) -> Template {
        let keys = parts.iter().map(Part::keys).max().unwrap_or(0);
        Template { parts, keys }
    }

    /// Returns how many keys one request has.
    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// Makes the request of one call.
    pub(super) fn encode(&self, fill: &Fill<'_>) -> Bytes {
        // With the exact capacity, the bytes are not moved again.
        let mut request = Vec::with_capacity(length(&self.parts, fill));
        self.parts.iter().for_each(|part| part.write(fill, &mut request));
        request.into()
    }
}

impl Part {
    fn keys(&self) -> usize {
        match self {
            Part::Digits(Number::Key(position)) | Part::Varint(Number::Key(position)) => position + 1,
            Part::Sized(parts) => parts.iter().map(Part::keys).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn length(&self, fill: &Fill<'_>) -> usize {
        match self {
            Part::Bytes(bytes) => bytes.len(),
            Part::Value => fill.value.len(),
            Part::Digits(number) => digits(number.of(fill)),
            Part::Varint(number) => encoded_len_varint(number.of(fill)),
            Part::Sized(parts) => {
                let length = length(parts, fill);
                encoded_len_varint(length as u64) + length
            }
        }
    }

    fn write(&self, fill: &Fill<'_>, request: &mut Vec<u8>) {
        match self {
            Part::Bytes(bytes) => request.extend_from_slice(bytes),
            Part::Value => request.extend_from_slice(fill.value),
            Part::Digits(number) => write_digits(number.of(fill), request),
            Part::Varint(number) => encode_varint(number.of(fill), request),
            Part::Sized(parts) => {
                encode_varint(length(parts, fill) as u64, request);
                parts.iter().for_each(|part| part.write(fill, request));
            }
        }
    }
}

impl Number {
    fn of(self, fill: &Fill<'_>) -> u64 {
        match self {
            Number::Key(position) => fill.keys[position],
            Number::Call => fill.number,
            Number::Client => fill.client,
        }
    }
}

fn length(parts: &[Part], fill: &Fill<'_>) -> usize {
    parts.iter().map(|part| part.length(fill)).sum()
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |power| power as usize + 1)
}

fn write_digits(mut number: u64, request: &mut Vec<u8>) {
    let mut text = [0; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    request.extend_from_slice(&text[at..]);
}

fn key(number: u32, wire_type: WireType) -> Part {
    let mut bytes = Vec::new();
    encode_key(number, wire_type, &mut bytes);
    Part::Bytes(bytes.into())
}

/// Takes a text apart at its placeholders. Other braces are text: a value may be JSON itself.
fn parts_of(text: &str) -> Result<Vec<Part>, String> {
    let literal = |text: &str| Part::Bytes(Bytes::copy_from_slice(text.as_bytes()));
    let (mut parts, mut rest, mut searched) = (Vec::new(), text, 0);
    while let Some(open) = rest[searched..].find('{').map(|at| at + searched) {
        let Some(length) = rest[open + 1..].find(['{', '}']) else { break };
        let close = open + 1 + length;
        let word = rest[open + 1..close].trim();
        if !rest[close..].starts_with('}') || !is_name(word) {
            searched = open + 1;
            continue;
        }
        if open > 0 {
            parts.push(literal(&rest[..open]));
        }
        parts.push(gap(word)?);
        (rest, searched) = (&rest[close + 1..], 0);
    }
    if !rest.is_empty() || parts.is_empty() {
        parts.push(literal(rest));
    }
    Ok(parts)
}

/// Tells whether a word in braces is meant as a placeholder.
fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.chars().all(|each| each.is_ascii_alphanumeric() || ['_', ':'].contains(&each))
}

fn gap(word: &str) -> Result<Part, String> {
    let position = match word {
        "value" => return Ok(Part::Value),
        "n" => return Ok(Part::Digits(Number::Call)),
        "client" => return Ok(Part::Digits(Number::Client)),
        "key" => 1,
        _ => word.strip_prefix("key:").and_then(|number| number.parse::<usize>().ok()).unwrap_or(0),
    };
    if !(1..=KEYS_MAX).contains(&position) {
        return Err(format!("there is no placeholder {{{word}}}; there are {KNOWN}, up to {{key:{KEYS_MAX}}}"));
    }
    Ok(Part::Digits(Number::Key(position - 1)))
}

fn text_has_gaps(text: &str) -> Result<bool, String> {
    Ok(parts_of(text)?.iter().any(|part| !matches!(part, Part::Bytes(_))))
}

fn has_gaps(tree: &Tree) -> Result<bool, String> {
    match tree {
        Tree::Leaf(Value::String(text)) => text_has_gaps(text),
        Tree::Leaf(_) => Ok(false),
        Tree::List(list) => any_has_gaps(list.iter()),
        Tree::Object(pairs) => any_has_gaps(pairs.iter().map(|(_, tree)| tree)),
    }
}

fn any_has_gaps<'a>(trees: impl Iterator<Item = &'a Tree>) -> Result<bool, String> {
    for tree in trees {
        if has_gaps(tree)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Encodes a message, of which at least one field has gaps.
fn message(descriptor: &MessageDescriptor, pairs: &[(String, Tree)]) -> Result<Vec<Part>, String> {
    // What has no gaps is read together, so that a name that is given twice is found.
    let mut plain = Vec::new();
    let mut parts = Vec::new();
    let mut seen: Vec<u32> = Vec::new();
    for (name, tree) in pairs {
        if !has_gaps(tree)? {
            plain.push((name.clone(), tree.clone()));
            continue;
        }
        let found = descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name));
        let Some(field) = found else {
            // The reader has the words for a name that no field has.
            let unknown = Tree::Object(vec![(name.clone(), Tree::text(""))]);
            read_message(descriptor, &unknown)?;
            return Err(format!("{name:?} is no field of {}", descriptor.full_name()));
        };
        if seen.contains(&field.number()) {
            return Err(format!("{name:?} is there twice"));
        }
        seen.push(field.number());
        parts.extend(field_parts(&field, tree).map_err(|problem| within(name, &problem))?);
    }
    if !plain.is_empty() {
        let read = read_message(descriptor, &Tree::Object(plain))?;
        let twice = read.fields().find(|(field, _)| seen.contains(&field.number()));
        if let Some((field, _)) = twice {
            return Err(format!("{:?} is there twice", field.name()));
        }
        parts.push(Part::Bytes(read.encode_to_vec().into()));
    }
    Ok(parts)
}

fn field_parts(field: &FieldDescriptor, tree: &Tree) -> Result<Vec<Part>, String> {
    match tree {
        _ if field.is_map() => Err("a map may have no placeholder".into()),
        Tree::List(list) if field.is_list() => {
            let mut parts = Vec::new();
            for element in list {
                if has_gaps(element)? {
                    parts.extend(value_parts(field, element)?);
                } else {
                    let alone = Tree::Object(vec![(field.name().to_owned(), Tree::List(vec![element.clone()]))]);
                    parts.push(Part::Bytes(read_message(field.parent_message(), &alone)?.encode_to_vec().into()));
                }
            }
            Ok(parts)
        }
        _ if field.is_list() => Err("the field is a list".into()),
        _ => value_parts(field, tree),
    }
}

/// Encodes one value that has gaps.
fn value_parts(field: &FieldDescriptor, tree: &Tree) -> Result<Vec<Part>, String> {
    let number = field.number();
    match (field.kind(), tree) {
        (Kind::String | Kind::Bytes, Tree::Leaf(Value::String(text))) => {
            Ok(vec![key(number, WireType::LengthDelimited), Part::Sized(parts_of(text)?)])
        }
        (Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64, Tree::Leaf(Value::String(text))) => {
            match parts_of(text)?.as_slice() {
                [Part::Digits(gap)] => Ok(vec![key(number, WireType::Varint), Part::Varint(*gap)]),
                _ => Err("in a number, a placeholder of a number stands alone, such as \"{n}\"".into()),
            }
        }
        (Kind::Message(below), Tree::Object(pairs)) if !below.full_name().starts_with("google.protobuf.") => {
            Ok(vec![key(number, WireType::LengthDelimited), Part::Sized(message(&below, pairs)?)])
        }
        (kind, _) => Err(format!("a value of type {kind:?} may have no placeholder")),
    }
}

/// Puts the name of a field in front of what is wrong in it.
fn within(name: &str, problem: &str) -> String {
    format!("in {name:?}: {problem}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use prost_reflect::DynamicMessage;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

    use crate::cli::json::show;

    const FILL: Fill<'static> = Fill { keys: &[7, 1234], value: b"vvv", number: 300, client: 5 };

    fn field(name: &str, number: i32, kind: Type, label: Label, type_name: Option<&str>) -> FieldDescriptorProto {
        FieldDescriptorProto {
            name: Some(name.into()),
            number: Some(number),
            label: Some(label.into()),
            r#type: Some(kind.into()),
            type_name: type_name.map(str::to_owned),
            ..FieldDescriptorProto::default()
        }
    }

    /// A message with fields of all shapes, which may also hold itself.
    fn batch() -> MessageDescriptor {
        let one = Label::Optional;
        let message = DescriptorProto {
            name: Some("Batch".into()),
            field: vec![
                field("key", 1, Type::String, one, None),
                field("raw", 2, Type::Bytes, one, None),
                field("amount", 3, Type::Uint64, one, None),
                field("more", 4, Type::Message, Label::Repeated, Some(".Batch")),
                field("flag", 5, Type::Bool, one, None),
                field("ratio", 6, Type::Double, one, None),
                field("names", 20, Type::String, Label::Repeated, None),
            ],
            ..DescriptorProto::default()
        };
        let file = FileDescriptorProto {
            name: Some("batch.proto".into()),
            syntax: Some("proto3".into()),
            message_type: vec![message],
            ..FileDescriptorProto::default()
        };
        let set = FileDescriptorSet { file: vec![file] };
        let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(set).unwrap();
        pool.get_message_by_name("Batch").unwrap()
    }

    fn filled(json: &str) -> String {
        let template = Template::of_json(&batch(), json).unwrap();
        let message = DynamicMessage::decode(batch(), template.encode(&FILL)).unwrap();
        show(&message).json.to_string()
    }

    #[test]
    fn gaps_are_filled_wherever_they_stand() {
        let table = [
            (r#"{"key": "k-{key}", "flag": true}"#, r#"{"key":"k-7","flag":true}"#),
            (r#"{"key": "{key:2}/{ client }/{n}"}"#, r#"{"key":"1234/5/300"}"#),
            (r#"{"raw": "{value}"}"#, r#"{"raw":"dnZ2"}"#),
            (r#"{"amount": "{n}"}"#, r#"{"amount":"300"}"#),
            (
                r#"{"more": [{"key": "{key}"}, {"key": "b"}, {"more": [{"amount": "{key:2}"}]}]}"#,
                r#"{"more":[{"key":"7"},{"key":"b"},{"more":[{"amount":"1234"}]}]}"#,
            ),
            (r#"{"names": ["a", "{value}", "c"]}"#, r#"{"names":["a","vvv","c"]}"#),
            (r#"{"key": "no gap", "amount": 3}"#, r#"{"key":"no gap","amount":"3"}"#),
            (r#"{"key": "{\"n\": {n}}"}"#, r#"{"key":"{\"n\": 300}"}"#),
        ];
        for (json, expected) in table {
            let mut shown: Value = serde_json::from_str(&filled(json)).unwrap();
            prune(&mut shown);
            assert_eq!(shown, serde_json::from_str::<Value>(expected).unwrap(), "{json}");
        }
    }

    /// Removes the fields that have their defaults, which may or may not be shown.
    fn prune(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.values_mut().for_each(prune);
                let is_default = |value: &Value| match value {
                    Value::Null | Value::Bool(false) => true,
                    Value::Number(number) => number.as_f64() == Some(0.0),
                    Value::String(text) => text.is_empty() || text == "0",
                    Value::Array(list) => list.is_empty(),
                    _ => false,
                };
                fields.retain(|_, value| !is_default(value));
            }
            Value::Array(list) => list.iter_mut().for_each(prune),
            _ => {}
        }
    }

    #[test]
    fn a_template_knows_how_many_keys_a_call_takes() {
        let keys = |json: &str| Template::of_json(&batch(), json).unwrap().keys();
        assert_eq!(keys(r#"{"key": "{key}"}"#), 1);
        assert_eq!(keys(r#"{"more": [{"key": "{key:3}"}], "key": "{key}"}"#), 3);
        assert_eq!(keys(r#"{"key": "{value}"}"#), 0);
    }

    #[test]
    fn what_cannot_be_filled_is_named() {
        let table = [
            (r#"{"key": "{kay}"}"#, "there is no placeholder {kay}"),
            (r#"{"key": "{key:0}"}"#, "there is no placeholder {key:0}"),
            (r#"{"key": "{key:1001}"}"#, "up to {key:1000}"),
            (r#"{"kee": "{key}"}"#, "kee"),
            (r#"{"amount": "a{n}"}"#, r#"in "amount": in a number"#),
            (r#"{"amount": "{value}"}"#, r#"in "amount": in a number"#),
            (r#"{"ratio": "{n}"}"#, "of type double may have no placeholder"),
            (r#"{"more": [{"more": [{"ratio": "{n}"}]}]}"#, r#"in "more": in "more": in "ratio""#),
            (r#"{"key": "{key}", "key": "{key}"}"#, "twice"),
            (r#"{"key": "{key}", "key": "a"}"#, "twice"),
            (r#"{"key": "{key}", "amount": []}"#, "amount"),
            (r#"{"more": {"key": "{key}"}}"#, "is a list"),
            (r#"{"key": "{key}"} x"#, "not JSON"),
        ];
        for (json, expected) in table {
            let problem = Template::of_json(&batch(), json).unwrap_err();
            assert!(problem.contains(expected), "{json}: {problem}");
        }
    }

    #[test]
    fn digits_are_counted_as_they_are_written() {
        for number in [0, 9, 10, 99, 100, 12_345, u64::MAX] {
            let mut text = Vec::new();
            write_digits(number, &mut text);
            assert_eq!(
                (String::from_utf8(text).unwrap(), digits(number)),
                (number.to_string(), number.to_string().len())
            );
        }
    }

    #[test]
    fn requests_have_the_capacity_that_they_need() {
        let template = Template::of_texts(&[(1, "bench/{key}"), (2, "{value}")], &[0x18, 1]).unwrap();
        let request = template.encode(&FILL);
        assert_eq!(request, [b"\x0a\x07bench/7" as &[u8], b"\x12\x03vvv\x18\x01"].concat());
        assert_eq!(length(&template.parts, &FILL), request.len());
    }
}
