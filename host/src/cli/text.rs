//! Shows protobuf messages as short text, `id: "nodeB" previous_index: 3`, and names in the
//! spelling of the command line.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

/// Whether fields that hold their default are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defaults {
    /// Shows only fields that were set. For requests.
    Hidden,
    /// Shows numbers and flags even when they are 0 or false, because an index of 0 is an answer,
    /// too. Empty texts stay hidden.
    Shown,
}

/// Returns the message on one line, or one line for each field if a field holds messages or maps.
pub(crate) fn format(message: &DynamicMessage, defaults: Defaults) -> String {
    let has_parts = message.fields().any(|(field, _)| matches!(field.kind(), Kind::Message(_)));
    fields(message, defaults).join(if has_parts { "\n" } else { " " })
}

/// Turns `AddVoter` into `add_voter`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

fn fields(message: &DynamicMessage, defaults: Defaults) -> Vec<String> {
    let descriptor = message.descriptor();
    let mut parts = Vec::new();
    for field in descriptor.fields() {
        let value = message.get_field(&field);
        if message.has_field(&field) || (defaults == Defaults::Shown && is_number(&field)) {
            push_field(&mut parts, &field, &value, defaults);
        }
    }
    parts
}

fn is_number(field: &FieldDescriptor) -> bool {
    let text_or_parts = matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_));
    !text_or_parts && !field.is_list() && !field.supports_presence()
}

fn push_field(parts: &mut Vec<String>, field: &FieldDescriptor, value: &Value, defaults: Defaults) {
    let name = field.name();
    match value {
        Value::List(items) => {
            for item in items {
                push_field(parts, field, item, defaults);
            }
        }
        Value::Map(entries) => {
            // The map itself has no order. Sorting lets people find a name.
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| (*key).clone());
            for (key, value) in entries {
                let (key, value) = (map_key(key), scalar(field, value));
                parts.push(format!("{name} {{ key: {key} value: {value} }}"));
            }
        }
        Value::Message(inner) => {
            parts.push(format!("{name} {{ {} }}", fields(inner, defaults).join(" ")));
        }
        value => parts.push(format!("{name}: {}", scalar(field, value))),
    }
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
        MapKey::String(value) => format!("{value:?}"),
    }
}

fn scalar(field: &FieldDescriptor, value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::String(value) => format!("{value:?}"),
        Value::Bytes(value) => format!("\"{}\"", value.escape_ascii()),
        Value::EnumNumber(number) => match field.kind() {
            Kind::Enum(kind) => {
                kind.get_value(*number).map_or_else(|| number.to_string(), |value| value.name().to_owned())
            }
            _ => number.to_string(),
        },
        Value::Message(inner) => format!("{{ {} }}", fields(inner, Defaults::Hidden).join(" ")),
        Value::List(_) | Value::Map(_) => String::from("…"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(name: &str, json: &str) -> DynamicMessage {
        let pool = crate::cli::manager::descriptors();
        let descriptor = pool.get_message_by_name(name).unwrap();
        DynamicMessage::deserialize(descriptor, &mut serde_json::Deserializer::from_str(json)).unwrap()
    }

    #[test]
    fn request_shows_what_was_set() {
        let request = message("AddVoterRequest", r#"{"id": "node\"B", "previousIndex": 3}"#);
        assert_eq!(format(&request, Defaults::Hidden), r#"id: "node\"B" previous_index: 3"#);
    }

    #[test]
    fn reply_shows_zero_but_not_empty_text() {
        assert_eq!(format(&message("AwaitResponse", "{}"), Defaults::Shown), "index: 0");
    }

    #[test]
    fn servers_and_statistics_take_a_line_each() {
        let servers = r#"{"servers": [{"suffrage": "Voter", "id": "a", "leader": true}, {"id": "b"}], "index": 7}"#;
        assert_eq!(
            format(&message("GetConfigurationResponse", servers), Defaults::Shown),
            "servers { suffrage: \"Voter\" id: \"a\" leader: true }\nservers { id: \"b\" leader: false }\nindex: 7"
        );
        let stats = r#"{"stats": {"term": "2", "state": "Leader"}}"#;
        assert_eq!(
            format(&message("StatsResponse", stats), Defaults::Shown),
            "stats { key: \"state\" value: \"Leader\" }\nstats { key: \"term\" value: \"2\" }"
        );
    }

    #[test]
    fn names_become_snake_case() {
        assert_eq!(snake_case("LeadershipTransferToServer"), "leadership_transfer_to_server");
    }
}
