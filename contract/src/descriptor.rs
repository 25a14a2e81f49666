//! Checks a component's descriptor set before the host uses it: its size, its names, and that it
//! holds each file once. It does not know which services are served; `services` does.
//!
//! The maker of the component controls these bytes, and the decoded form takes a hundred times
//! their space. So this module counts the declarations in the encoded form first.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

use crate::services::ContractError;

/// Most bytes of a descriptor set. The largest known set, of a public API with hundreds of
/// services, has half of that.
pub const DESCRIPTOR_BYTES_MAX: usize = 4 << 20;
/// Most files in a descriptor set, including imports.
pub const FILES_MAX: usize = 1_024;
/// Most messages and enums in a descriptor set, including those nested in messages.
pub const MESSAGES_MAX: usize = 16_384;
/// Most methods in a descriptor set, over all services.
pub const METHODS_MAX: usize = 4_096;
/// Most parts in a descriptor set. A part is one encoded field of a declaration. For example, a
/// declared field has about seven: its name, number, type and so on.
pub const PARTS_MAX: usize = 524_288;
/// Most bytes of a package, or of the name of a service, a method, a message, a field or an enum.
pub const NAME_BYTES_MAX: usize = 256;

/// Most levels of nested declarations. The decoder goes no deeper than a hundred.
const NESTING_MAX: usize = 64;
/// Most characters of a name that an error shows.
const SHOWN_CHARS_MAX: usize = 64;
/// Most characters of a decoder's message that an error shows. Such messages repeat their input.
const REASON_CHARS_MAX: usize = 256;
/// Number of the field `FileDescriptorSet.file`.
const FILE_FIELD: u32 = 1;
/// Number of the field with which a Buf image extends a file.
const MORE_FIELD: u32 = 8042;
/// Number of the field, inside `MORE_FIELD`, that tells whether the file is only imported.
const IS_IMPORT_FIELD: u32 = 1;

/// The content of a descriptor section.
#[derive(Debug)]
pub(crate) struct Files {
    /// The set, with each file once.
    pub(crate) encoded: Bytes,
    /// Names of the files that are only imported. Their services are not the guest's.
    pub(crate) imported: HashSet<String>,
}

/// Reads the descriptor sets that several crates leave in one section. The sets follow one another
/// and share imports. A build may mark no imports; then the set has none, and all of its services
/// are the guest's.
pub(crate) fn read(encoded: &[u8]) -> Result<Files, ContractError> {
    if encoded.len() > DESCRIPTOR_BYTES_MAX {
        return Err(too_large("bytes", DESCRIPTOR_BYTES_MAX));
    }
    let mut merged = Vec::with_capacity(encoded.len());
    let mut seen: HashMap<String, FileDescriptorProto> = HashMap::new();
    let (mut count, mut known, mut own) = (Count::default(), HashSet::new(), HashSet::new());
    for raw in split_files(encoded).map_err(undecodable)? {
        // A file that crates share appears once for each crate.
        if !known.insert(raw) {
            continue;
        }
        count.files += 1;
        count.walk(raw, Kind::File, 0)?;
        count.check()?;
        let mut file = FileDescriptorProto::decode(raw).map_err(undecodable)?;
        check_syntax(&file)?;
        check_names(&file)?;
        // A file that one crate imports may be another crate's own.
        if !is_import(raw).map_err(undecodable)? {
            own.insert(file.name().to_owned());
        }
        // A build may keep comments or leave them out. They do not make it a different file.
        file.source_code_info = None;
        match seen.get(file.name()) {
            Some(first) if *first == file => {}
            Some(_) => {
                let text = format!("two different files are called {}", shown(file.name()));
                return Err(ContractError::Undecodable(text));
            }
            None => {
                encoding::encode_key(FILE_FIELD, WireType::LengthDelimited, &mut merged);
                encoding::encode_varint(raw.len() as u64, &mut merged);
                merged.extend_from_slice(raw);
                seen.insert(file.name().to_owned(), file);
            }
        }
    }
    let imported = seen.into_keys().filter(|name| !own.contains(name)).collect();
    Ok(Files { encoded: merged.into(), imported })
}

fn is_import(mut file: &[u8]) -> Result<bool, DecodeError> {
    let mut is_import = false;
    while !file.is_empty() {
        let (tag, _, mut more) = next_field(&mut file)?;
        while tag == MORE_FIELD && !more.is_empty() {
            let (tag, wire_type) = encoding::decode_key(&mut more)?;
            match (tag, wire_type) {
                (IS_IMPORT_FIELD, WireType::Varint) => is_import = encoding::decode_varint(&mut more)? != 0,
                _ => encoding::skip_field(wire_type, tag, &mut more, DecodeContext::default())?,
            }
        }
    }
    Ok(is_import)
}

/// Adds the mark of an imported file to an encoded file. A reader that does not know the mark skips
/// it.
pub fn mark_import(file: &mut Vec<u8>) {
    let mut more = Vec::new();
    encoding::bool::encode(IS_IMPORT_FIELD, &true, &mut more);
    encoding::encode_key(MORE_FIELD, WireType::LengthDelimited, file);
    encoding::encode_varint(more.len() as u64, file);
    file.extend(more);
}

fn undecodable(error: DecodeError) -> ContractError {
    refused(&error.to_string())
}

/// Returns the error for a reason that repeats content of the descriptor.
pub(crate) fn refused(reason: &str) -> ContractError {
    ContractError::Undecodable(escaped(reason, REASON_CHARS_MAX))
}

fn too_large(what: &'static str, most: usize) -> ContractError {
    ContractError::TooLarge { what, most }
}

/// Splits a set into its encoded files. Decoding them into prost's types would lose custom options.
fn split_files(mut rest: &[u8]) -> Result<Vec<&[u8]>, DecodeError> {
    let mut files = Vec::new();
    while !rest.is_empty() {
        let (tag, wire_type, body) = next_field(&mut rest)?;
        if tag == FILE_FIELD && wire_type == WireType::LengthDelimited {
            files.push(body);
        }
    }
    Ok(files)
}

/// Reads one field: its number, its type, and its bytes if it has a length. A truncated field
/// yields the bytes that exist; decoding them gives the error.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u32, WireType, &'a [u8]), DecodeError> {
    let (tag, wire_type) = encoding::decode_key(rest)?;
    if wire_type != WireType::LengthDelimited {
        encoding::skip_field(wire_type, tag, rest, DecodeContext::default())?;
        return Ok((tag, wire_type, &[]));
    }
    let length = usize::try_from(encoding::decode_varint(rest)?).unwrap_or(usize::MAX);
    let (body, after) = rest.split_at(length.min(rest.len()));
    *rest = after;
    Ok((tag, wire_type, body))
}

/// What a message of `google/protobuf/descriptor.proto` describes, for those that can contain
/// further declarations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Message,
    Enum,
    Service,
    Method,
    Field,
    Value,
    Oneof,
    Range,
    /// Options, or the positions of comments: has parts but declares nothing.
    Other,
}

impl Kind {
    /// Returns the kind of declaration that the field `tag` holds, if it holds one.
    fn within(self, tag: u32) -> Option<Kind> {
        Some(match (self, tag) {
            (Kind::File, 4) | (Kind::Message, 3) => Kind::Message,
            (Kind::File, 5) | (Kind::Message, 4) => Kind::Enum,
            (Kind::File, 6) => Kind::Service,
            (Kind::Service, 2) => Kind::Method,
            (Kind::File, 7) | (Kind::Message, 2 | 6) => Kind::Field,
            (Kind::Message, 5) => Kind::Range,
            (Kind::Message, 8) => Kind::Oneof,
            (Kind::Enum, 2) => Kind::Value,
            (Kind::File, 8 | 9)
            | (Kind::Message, 7 | 9)
            | (Kind::Enum, 3 | 4)
            | (Kind::Service | Kind::Value | Kind::Range, 3)
            | (Kind::Method, 4)
            | (Kind::Field, 8)
            | (Kind::Oneof, 2) => Kind::Other,
            _ => return None,
        })
    }
}

/// Counts over all files so far.
#[derive(Debug, Default)]
struct Count {
    files: usize,
    messages: usize,
    methods: usize,
    parts: usize,
}

impl Count {
    /// Counts the declarations in these bytes without allocating memory for them.
    fn walk(&mut self, mut rest: &[u8], kind: Kind, depth: usize) -> Result<(), ContractError> {
        if depth > NESTING_MAX {
            return Err(too_large("levels of declarations within each other", NESTING_MAX));
        }
        while !rest.is_empty() {
            let (tag, _, body) = next_field(&mut rest).map_err(undecodable)?;
            self.parts += 1;
            let Some(within) = kind.within(tag) else { continue };
            self.messages += usize::from(matches!(within, Kind::Message | Kind::Enum));
            self.methods += usize::from(within == Kind::Method);
            self.walk(body, within, depth + 1)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ContractError> {
        let counts = [
            (self.files, "files", FILES_MAX),
            (self.messages, "messages and enums", MESSAGES_MAX),
            (self.methods, "methods", METHODS_MAX),
            (self.parts, "parts (names, numbers, types and options of what is declared)", PARTS_MAX),
        ];
        let over = counts.into_iter().find(|(found, _, most)| found > most);
        over.map_or(Ok(()), |(_, what, most)| Err(too_large(what, most)))
    }
}

/// Refuses a syntax that the descriptor library does not know. It panics at one, such as that of
/// editions.
///
/// # Errors
/// The file has another syntax than proto2 and proto3.
pub fn check_syntax(file: &FileDescriptorProto) -> Result<(), ContractError> {
    match file.syntax.as_deref() {
        None | Some("proto2" | "proto3") => Ok(()),
        Some(syntax) => {
            let (name, syntax) = (shown(file.name()), shown(syntax));
            let known = "proto2 and proto3 are known";
            Err(ContractError::Undecodable(format!("{name} has the syntax {syntax}; {known}")))
        }
    }
}

/// Refuses names that no compiler accepts. They would end up in paths, logs and metrics.
fn check_names(file: &FileDescriptorProto) -> Result<(), ContractError> {
    let package = file.package();
    let is_package = package.len() <= NAME_BYTES_MAX && package.split('.').all(is_identifier);
    if !is_package && !package.is_empty() {
        return Err(bad_name("package", package));
    }
    for service in &file.service {
        check_name("service", service.name())?;
        service.method.iter().try_for_each(|method| check_name("method", method.name()))?;
    }
    file.enum_type.iter().try_for_each(check_enum)?;
    file.message_type.iter().try_for_each(check_message)
}

fn check_message(message: &DescriptorProto) -> Result<(), ContractError> {
    check_name("message", message.name())?;
    message.field.iter().try_for_each(|field| check_name("field", field.name()))?;
    message.enum_type.iter().try_for_each(check_enum)?;
    message.nested_type.iter().try_for_each(check_message)
}

fn check_enum(declared: &EnumDescriptorProto) -> Result<(), ContractError> {
    check_name("enum", declared.name())
}

fn check_name(what: &'static str, name: &str) -> Result<(), ContractError> {
    if name.len() <= NAME_BYTES_MAX && is_identifier(name) { Ok(()) } else { Err(bad_name(what, name)) }
}

/// Tells whether `name` is an identifier in protobuf's grammar.
fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn bad_name(what: &'static str, name: &str) -> ContractError {
    ContractError::Name { what, name: shown(name), bytes: name.len() }
}

/// Returns the name in a printable form.
fn shown(name: &str) -> String {
    escaped(name, SHOWN_CHARS_MAX)
}

fn escaped(text: &str, chars_max: usize) -> String {
    let mut chars = text.chars();
    let mut escaped = String::new();
    for char in chars.by_ref().take(chars_max) {
        match char {
            '"' | '\'' => escaped.push(char),
            char => escaped.extend(char.escape_debug()),
        }
    }
    if chars.next().is_some() {
        escaped.push('…');
    }
    escaped
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost_types::{FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};

    use super::*;

    fn file() -> FileDescriptorProto {
        FileDescriptorProto { name: Some("a.proto".into()), ..Default::default() }
    }

    fn message(name: &str) -> DescriptorProto {
        DescriptorProto { name: Some(name.into()), ..Default::default() }
    }

    fn service(name: &str, methods: &[&str]) -> ServiceDescriptorProto {
        let method = |name: &&str| MethodDescriptorProto {
            name: Some((*name).into()),
            input_type: Some(".M".into()),
            output_type: Some(".M".into()),
            ..Default::default()
        };
        ServiceDescriptorProto { name: Some(name.into()), method: methods.iter().map(method).collect(), options: None }
    }

    fn refused(file: Vec<FileDescriptorProto>) -> String {
        read(&FileDescriptorSet { file }.encode_to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_too_much_is_refused_by_number() {
        let many = |count: usize| (0..count).map(|n| format!("M{n}")).collect::<Vec<_>>();
        let messages = |count| FileDescriptorProto {
            message_type: many(count).iter().map(|name| message(name)).collect(),
            ..file()
        };
        let within = DescriptorProto { nested_type: messages(MESSAGES_MAX).message_type, ..message("M") };
        let methods = many(METHODS_MAX + 1);
        let methods = methods.iter().map(String::as_str).collect::<Vec<_>>();
        let fields = vec![FieldDescriptorProto::default(); PARTS_MAX];
        let files = (0..=FILES_MAX).map(|n| FileDescriptorProto { name: Some(format!("{n}")), ..file() }).collect();
        let rows = [
            (files, "more than 1024 files"),
            (vec![messages(MESSAGES_MAX + 1)], "more than 16384 messages and enums"),
            (vec![FileDescriptorProto { message_type: vec![within], ..file() }], "more than 16384 messages and enums"),
            (vec![FileDescriptorProto { service: vec![service("S", &methods)], ..file() }], "more than 4096 methods"),
            (
                vec![FileDescriptorProto {
                    message_type: vec![DescriptorProto { field: fields, ..message("M") }],
                    ..file()
                }],
                "more than 524288 parts",
            ),
            (
                vec![FileDescriptorProto { syntax: Some("x".repeat(DESCRIPTOR_BYTES_MAX)), ..file() }],
                "more than 4194304 bytes",
            ),
        ];
        for (files, words) in rows {
            let text = refused(files);
            assert!(text.contains(words) && text.contains("leave out"), "{words}: {text}");
        }
        read(&FileDescriptorSet { file: vec![messages(MESSAGES_MAX)] }.encode_to_vec()).unwrap();
    }

    #[test]
    fn declarations_within_each_other_end_somewhere() {
        let nested = |depth: usize| {
            let within = |inner, _| DescriptorProto { nested_type: vec![inner], ..message("M") };
            FileDescriptorProto { message_type: vec![(1..depth).fold(message("M"), within)], ..file() }
        };
        let text = refused(vec![nested(65)]);
        assert!(text.contains("more than 64 levels"), "{text}");
        read(&FileDescriptorSet { file: vec![nested(64)] }.encode_to_vec()).unwrap();
    }

    /// Each message takes two bytes. A million of them took a gigabyte when decoded.
    #[test]
    fn empty_messages_are_counted_before_they_take_room() {
        let inner = [0x22, 0].repeat(1_000_000);
        let mut set = vec![0x0a];
        encoding::encode_varint(inner.len() as u64, &mut set);
        set.extend(inner);
        assert!(read(&set).unwrap_err().to_string().contains("messages and enums"));
    }

    #[test]
    fn names_are_those_of_the_grammar() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in ["A/B", "{*rest}", "A\nB", "\u{1b}[2J", "", "1A", "a.b", "ä", &long] {
            let rows = [
                (FileDescriptorProto { service: vec![service("S", &[name])], ..file() }, "the method"),
                (FileDescriptorProto { service: vec![service(name, &[])], ..file() }, "the service"),
                (FileDescriptorProto { message_type: vec![message(name)], ..file() }, "the message"),
            ];
            for (file, what) in rows {
                let text = refused(vec![file]);
                assert!(text.contains(what) && text.len() < 300, "{name:?}: {text}");
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
        }
        for package in ["a..b", ".a", "a/b", &long] {
            let text = refused(vec![FileDescriptorProto { package: Some(package.into()), ..file() }]);
            assert!(text.contains("the package"), "{package}: {text}");
        }
        let fine =
            FileDescriptorProto { package: Some("a.b_1".into()), service: vec![service("_S", &["a", "B2"])], ..file() };
        read(&FileDescriptorSet { file: vec![fine] }.encode_to_vec()).unwrap();
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let whole =
            FileDescriptorSet { file: vec![FileDescriptorProto { message_type: vec![message("M")], ..file() }] }
                .encode_to_vec();
        assert!(matches!(read(&whole[..whole.len() - 1]), Err(ContractError::Undecodable(_))));
    }
}
