//! Prepares the files for prost. What prost cannot turn into Rust is rewritten to something that it
//! can turn into Rust and that means the same. Clients see the descriptor, which this file never
//! changes.

use std::collections::BTreeMap;

use prost_build::Module;
use prost_reflect::{DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

use crate::OPTIONS_PROTO_NAME;

/// Package of the types that come with protobuf, which prost has ready.
const GOOGLE: &str = "google.protobuf";

/// Tells whether prost has the types of this package ready.
pub(crate) fn is_google(package: &str) -> bool {
    package.strip_prefix(GOOGLE).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns the files that Rust code is made from.
pub(crate) fn files(pool: &DescriptorPool) -> Vec<FileDescriptor> {
    let with_options = uses_options(pool);
    let is_made =
        |file: &FileDescriptor| !is_google(file.package_name()) && (with_options || file.name() != OPTIONS_PROTO_NAME);
    pool.files().filter(is_made).collect()
}

/// Tells whether a field or a method uses a type of `lockstep/options.proto`. Most guests have
/// none.
fn uses_options(pool: &DescriptorPool) -> bool {
    let is_option = |field: FieldDescriptor| {
        let file = match field.kind() {
            Kind::Message(message) => message.parent_file(),
            Kind::Enum(declared) => declared.parent_file(),
            _ => return false,
        };
        file.name() == OPTIONS_PROTO_NAME && field.parent_file().name() != OPTIONS_PROTO_NAME
    };
    let is_own = |message: MessageDescriptor| message.parent_file().name() == OPTIONS_PROTO_NAME;
    pool.all_messages().any(|message| message.fields().any(is_option))
        || pool
            .services()
            .any(|service| service.methods().any(|method| is_own(method.input()) || is_own(method.output())))
}

/// Returns all files for prost, also those of protobuf.
/// prost needs them to know what it can derive.
pub(crate) fn all(pool: &DescriptorPool, own: &[String]) -> Vec<(Module, FileDescriptorProto)> {
    let made = files(pool);
    let is_made = |file: &FileDescriptor| made.contains(file) || is_google(file.package_name());
    let request = |file: FileDescriptor| {
        let mut proto = file.file_descriptor_proto().clone();
        if !own.iter().any(|name| name == file.name()) {
            proto.service.clear();
        }
        let mut defaults = BTreeMap::new();
        file.messages().for_each(|message| collect_aliases(&message, &mut defaults));
        proto.message_type.iter_mut().for_each(|message| replace_aliases(message, file.package_name(), &defaults));
        clean_comments(&mut proto);
        (Module::from_protobuf_package_name(file.package_name()), proto)
    };
    pool.files().filter(is_made).map(request).collect()
}

/// Collects the fields whose default is an alias.
/// Each is stored with the first name of its number, which is the name that prost knows.
fn collect_aliases(message: &MessageDescriptor, found: &mut BTreeMap<String, String>) {
    for field in message.fields() {
        if let (Kind::Enum(declared), Some(default)) = (field.kind(), &field.field_descriptor_proto().default_value) {
            let number = declared.get_value_by_name(default).map(|value| value.number());
            let first = declared.enum_descriptor_proto().value.iter().find(|value| Some(value.number()) == number);
            if let Some(first) = first.filter(|first| first.name() != default.as_str()) {
                found.insert(field.full_name().to_owned(), first.name().to_owned());
            }
        }
    }
    message.child_messages().for_each(|child| collect_aliases(&child, found));
}

fn replace_aliases(message: &mut DescriptorProto, scope: &str, defaults: &BTreeMap<String, String>) {
    let full_name = if scope.is_empty() { message.name().to_owned() } else { format!("{scope}.{}", message.name()) };
    let replace = |field: &mut FieldDescriptorProto| {
        if let Some(first) = defaults.get(&format!("{full_name}.{}", field.name())) {
            field.default_value = Some(first.clone());
        }
    };
    message.field.iter_mut().for_each(replace);
    message.nested_type.iter_mut().for_each(|child| replace_aliases(child, &full_name, defaults));
}

/// Replaces control characters in comments. A carriage return in a comment is legal in protobuf and
/// an error in Rust.
fn clean_comments(file: &mut FileDescriptorProto) {
    let clean = |text: &mut String| {
        *text = text.chars().map(|char| if char.is_control() && char != '\n' { ' ' } else { char }).collect();
    };
    for location in file.source_code_info.iter_mut().flat_map(|info| &mut info.location) {
        location.leading_detached_comments.clear();
        location.leading_comments.iter_mut().chain(&mut location.trailing_comments).for_each(clean);
    }
}
