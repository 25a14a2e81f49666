//! Messages in values, as JSON in protobuf's mapping. A message that is read is encoded as the SDK
//! encodes it: fields in order, maps sorted by key, defaults left out. So a row that comes back
//! unchanged has the bytes that it had.

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, ReflectMessage, Value};

use crate::cli::json::{Tree, read_message, show_bytes};

/// Shows a message. `None` if not all of it has a JSON form.
pub(super) fn show(descriptor: &MessageDescriptor, bytes: &[u8]) -> Option<Tree> {
    let shown = show_bytes(descriptor, bytes);
    shown.problems.is_empty().then_some(shown.json)
}

/// Reads a message, and returns its bytes.
pub(super) fn encode(descriptor: &MessageDescriptor, tree: &Tree) -> Result<Vec<u8>, String> {
    read_message(descriptor, tree).map(|message| bytes_of(&message))
}

/// Encodes a message in the SDK's order.
fn bytes_of(message: &DynamicMessage) -> Vec<u8> {
    let mut fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    fields.sort_by_key(place);
    let mut out = Vec::new();
    for field in fields.iter().filter(|field| message.has_field(field)) {
        let value = message.get_field(field);
        match &*value {
            Value::Map(entries) => {
                let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                entries.sort_by(|one, other| order(one.0, other.0));
                entries.into_iter().for_each(|(key, value)| put(field, &entry(field, key, value), &mut out));
            }
            Value::Message(inner) if !field.is_group() => put(field, &bytes_of(inner), &mut out),
            Value::List(list) if list.iter().all(|item| matches!(item, Value::Message(_))) && !field.is_group() => {
                list.iter().filter_map(Value::as_message).for_each(|inner| put(field, &bytes_of(inner), &mut out));
            }
            scalar => {
                let mut alone = DynamicMessage::new(message.descriptor());
                alone.set_field(field, scalar.clone());
                out.extend_from_slice(&alone.encode_to_vec());
            }
        }
    }
    out
}

/// Returns where a field stands. The fields of a choice stand where the first of them would.
fn place(field: &FieldDescriptor) -> u32 {
    let choice = field.containing_oneof();
    let first = choice.and_then(|choice| choice.fields().map(|field| field.number()).min());
    first.unwrap_or(field.number())
}

/// Encodes an entry of a map. Key and value are left out where they are the default.
fn entry(field: &FieldDescriptor, key: &MapKey, value: &Value) -> Vec<u8> {
    let prost_reflect::Kind::Message(descriptor) = field.kind() else { return Vec::new() };
    let mut entry = DynamicMessage::new(descriptor.clone());
    entry.set_field(&descriptor.map_entry_key_field(), key.clone().into());
    match value {
        Value::Message(inner) => {
            let mut out = entry.encode_to_vec();
            let inner = bytes_of(inner);
            if !inner.is_empty() {
                put(&descriptor.map_entry_value_field(), &inner, &mut out);
            }
            out
        }
        scalar => {
            entry.set_field(&descriptor.map_entry_value_field(), scalar.clone());
            entry.encode_to_vec()
        }
    }
}

/// Returns the order of a `BTreeMap`'s keys.
fn order(one: &MapKey, other: &MapKey) -> std::cmp::Ordering {
    match (one, other) {
        (MapKey::Bool(one), MapKey::Bool(other)) => one.cmp(other),
        (MapKey::I32(one), MapKey::I32(other)) => one.cmp(other),
        (MapKey::I64(one), MapKey::I64(other)) => one.cmp(other),
        (MapKey::U32(one), MapKey::U32(other)) => one.cmp(other),
        (MapKey::U64(one), MapKey::U64(other)) => one.cmp(other),
        (MapKey::String(one), MapKey::String(other)) => one.cmp(other),
        _ => std::cmp::Ordering::Equal,
    }
}

fn put(field: &FieldDescriptor, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(field.number(), WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
