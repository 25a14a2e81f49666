//! Decides what each method of a service is, from its options. Refuses at build time what the host
//! would refuse when it loads the guest, and uses the names that the author wrote in the `.proto`.

use std::collections::BTreeMap;

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, Kind as FieldKind, MethodDescriptor, ReflectMessage, Value,
};

use crate::{Error, report};

/// How a method is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes through the log and runs on every node.
    Command,
    /// Reads the state on one node.
    Query,
    /// Streams replies, and runs again when what it read changes.
    Watch,
}

/// Name of the method option.
const OPTION: &str = "lockstep.method";

/// Returns the kind of every method in the guest's `own` files.
/// The key is the full name `package.Service/Method`.
///
/// # Errors
/// Returns the error of the first method that cannot be served.
pub fn method_kinds(pool: &DescriptorPool, own: &[String]) -> Result<BTreeMap<String, Kind>, Error> {
    let option = pool.get_extension_by_name(OPTION);
    let mut kinds = BTreeMap::new();
    for service in pool.services().filter(|service| own.iter().any(|name| name == service.parent_file().name())) {
        for method in service.methods() {
            let name = format!("{}/{}", service.full_name(), method.name());
            let kind = method_kind(&method, option.as_ref()).map_err(|problem| Error::Method {
                place: report::place(&method.parent_file(), method.path()),
                method: name.clone(),
                problem,
            })?;
            kinds.insert(name, kind);
        }
    }
    Ok(kinds)
}

fn method_kind(method: &MethodDescriptor, option: Option<&ExtensionDescriptor>) -> Result<Kind, String> {
    if method.is_client_streaming() {
        return Err("client streaming cannot be one command of a replicated log; \
                    take a repeated field in the request instead"
            .to_owned());
    }
    let options = method.options();
    let rules = option
        .filter(|option| options.has_extension(option))
        .and_then(|option| options.get_extension(option).as_message().cloned());
    let streaming = method.is_server_streaming();
    let kind = match rules.as_ref().map_or(0, |rules| number(rules, "kind")) {
        0 if streaming => Kind::Watch,
        0 if number(&options, "idempotency_level") == NO_SIDE_EFFECTS => Kind::Query,
        0 | 1 => Kind::Command,
        2 => Kind::Query,
        3 => Kind::Watch,
        other => return Err(format!("kind {other} is unknown")),
    };
    match (kind, streaming) {
        (Kind::Command, true) => {
            return Err("a command has one reply: a server-streaming method is a WATCH".to_owned());
        }
        (Kind::Query, true) => {
            return Err("a query has one reply: a server-streaming method is a WATCH".to_owned());
        }
        (Kind::Watch, false) => {
            return Err("a WATCH needs a reply of `stream`; for one reply use QUERY".to_owned());
        }
        _ => {}
    }
    if let Some(rules) = rules {
        check_consistency(method, kind, &rules)?;
    }
    Ok(kind)
}

/// `google.protobuf.MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS`.
const NO_SIDE_EFFECTS: i32 = 1;

fn check_consistency(method: &MethodDescriptor, kind: Kind, rules: &DynamicMessage) -> Result<(), String> {
    let fixed = number(rules, "consistency") != 0;
    let field = rules
        .get_field_by_name("consistency_field")
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default();
    if kind == Kind::Command && (fixed || !field.is_empty()) {
        return Err("consistency is for queries and watches; a command is always ordered".to_owned());
    }
    if field.is_empty() {
        return Ok(());
    }
    if fixed {
        return Err("consistency and consistency_field exclude each other".to_owned());
    }
    let input = method.input();
    match input.get_field_by_name(&field) {
        Some(found) if matches!(found.kind(), FieldKind::Bool) && !found.is_list() => Ok(()),
        Some(_) => Err(format!("consistency_field `{field}` is not a bool")),
        None => Err(format!("consistency_field `{field}` is not a field of {}", input.full_name())),
    }
}

fn number(message: &DynamicMessage, field: &str) -> i32 {
    debug_assert!(message.descriptor().get_field_by_name(field).is_some());
    match message.get_field_by_name(field).as_deref() {
        Some(Value::EnumNumber(number)) => *number,
        _ => 0,
    }
}
