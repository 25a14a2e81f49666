//! Writes Rust code: service traits, their dispatch tables, and the file that contains everything.
//! Every path into the SDK is absolute, so an author depends on `lockstep-guest` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use prost_build::{Config, Method, Service, ServiceGenerator};
use prost_reflect::{FieldDescriptor, FileDescriptor, Kind as FieldKind, MessageDescriptor};

use crate::clashes::Scopes;
use crate::{Kind, names};

/// Lints that an author may have enabled and generated code may violate. An `allow` cannot override
/// lints that an author forbids.
const ALLOWED: &str = "warnings, missing_docs, unused_qualifications, unused_imports, deprecated, non_camel_case_types, non_snake_case, \
                       missing_debug_implementations, missing_copy_implementations, unreachable_pub, rustdoc::all, clippy::all, \
                       clippy::pedantic, clippy::nursery, clippy::restriction";
/// Names that keep their Rust meaning in an author's crate, whatever a `.proto` declares: types
/// that ordinary code uses, and modules that would hide a type or a crate. A declaration of a
/// `.proto` with such a name is found in `lockstep_proto` only.
const NOT_AT_ROOT: [&str; 28] = [
    "Box",
    "Option",
    "Result",
    "String",
    "Vec",
    "alloc",
    "bool",
    "char",
    "core",
    "f32",
    "f64",
    "i128",
    "i16",
    "i32",
    "i64",
    "i8",
    "isize",
    "lockstep_guest",
    "lockstep_proto",
    "lockstep_root",
    "std",
    "str",
    "u128",
    "u16",
    "u32",
    "u64",
    "u8",
    "usize",
];

/// Configures prost for guests.
/// Maps are ordered, because the order of a hash map differs between nodes.
pub(crate) fn prost_config(traits: Traits, files: &[FileDescriptor]) -> Config {
    let mut config = Config::new();
    let messages = || files.iter().flat_map(FileDescriptor::messages);
    let with_other_debug: Vec<String> = messages().flat_map(|message| with_other_debug(&message)).collect();
    for message in &with_other_debug {
        config.type_attribute(message, "#[derive(Debug)]");
    }
    for field in messages().flat_map(|message| endless_groups(&message)) {
        config.boxed(field);
    }
    config
        .skip_debug(&with_other_debug)
        .btree_map(["."])
        // `Status` packs a detail of a refusal under the full name of its message.
        .enable_type_names()
        .prost_path("::lockstep_guest::prost")
        .prost_types_path("::lockstep_guest::prost_types")
        .service_generator(Box::new(traits));
    config
}

/// Writes a trait for each service.
pub(crate) struct Traits {
    /// Kind of each method, by its full name.
    pub(crate) kinds: BTreeMap<String, Kind>,
    /// Rust name of each service and each method, by its full name.
    pub(crate) names: BTreeMap<String, String>,
}

impl ServiceGenerator for Traits {
    fn generate(&mut self, service: Service, out: &mut String) {
        let full_name = match service.package.as_str() {
            "" => service.proto_name.clone(),
            package => format!("{package}.{}", service.proto_name),
        };
        let rust = &self.names[&full_name];
        service.comments.append_with_indent(0, out);
        line(out, &format!("pub trait {rust}: ::lockstep_guest::State {{"));
        let mut table = String::new();
        for method in &service.methods {
            let name = format!("{full_name}/{}", method.proto_name);
            let (kind, called) = (self.kinds[&name], &self.names[&name]);
            write_method(method, called, kind, out);
            write_row(rust, called, &name, kind, &mut table);
        }
        line(out, "    #[doc(hidden)]");
        line(out, "    const LOCKSTEP_METHODS: &'static [::lockstep_guest::dispatch::Method<Self>] = &[");
        out.push_str(&table);
        line(out, "    ];");
        line(out, "}");
    }
}

fn write_method(method: &Method, called: &str, kind: Kind, out: &mut String) {
    method.comments.append_with_indent(1, out);
    let output = &method.output_type;
    let (receiver, context, reply) = match kind {
        Kind::Command => ("&mut self", "Command", output.clone()),
        Kind::Query => ("&self", "Query", output.clone()),
        Kind::Watch => ("&self", "Watch", format!("::lockstep_guest::Step<{output}>")),
    };
    line(
        out,
        &format!(
            "    fn {called}({receiver}, cx: &::lockstep_guest::{context}, request: {}) -> ::lockstep_guest::Reply<{reply}>;",
            method.input_type,
        ),
    );
}

fn write_row(service: &str, method: &str, name: &str, kind: Kind, out: &mut String) {
    let (constructor, serve) = match kind {
        Kind::Command => ("command", "serve"),
        Kind::Query => ("query", "serve"),
        Kind::Watch => ("watch", "serve_step"),
    };
    line(
        out,
        &format!(
            "        ::lockstep_guest::dispatch::Method::{constructor}({name:?}, |state, cx, request| \
         ::lockstep_guest::dispatch::{serve}({name:?}, request, |request| \
         <Self as {service}>::{method}(state, cx, request))),"
        ),
    );
}

/// Writes code that makes every message of a file usable as a value in a collection.
pub(crate) fn message_values(file: &FileDescriptor) -> String {
    let mut out = String::new();
    for message in file.messages() {
        write_message_value(&message, "", &mut out);
    }
    out
}

fn write_message_value(message: &MessageDescriptor, path: &str, out: &mut String) {
    if message.is_map_entry() {
        return;
    }
    let name = names::camel(message.name());
    line(out, &format!("::lockstep_guest::message_value!({path}{name}, {:?});", message.full_name()));
    let nested = format!("{path}{}::", names::snake(message.name()));
    for child in message.child_messages() {
        write_message_value(&child, &nested, out);
    }
}

/// Returns the outermost messages whose `Debug` prost cannot write. The setting for a message also
/// covers the messages within it.
fn with_other_debug(message: &MessageDescriptor) -> Vec<String> {
    /// Names that prost declares inside a `Debug` implementation, where they hide an enum of that
    /// name.
    const HIDING: [&str; 5] = ["Inner", "KeyWrapper", "MapWrapper", "ScalarWrapper", "ValueWrapper"];
    let is_hidden = |field: &FieldDescriptor| match field.kind() {
        FieldKind::Enum(declared) => HIDING.contains(&names::camel(declared.name()).as_str()),
        _ => false,
    };
    // The `Debug` of a map names the crate `prost`, on which an author's crate does not depend.
    match message.fields().any(|field| field.is_map() || is_hidden(&field)) {
        true => vec![format!(".{}", message.full_name())],
        false => message.child_messages().flat_map(|child| with_other_debug(&child)).collect(),
    }
}

/// Returns the paths of the fields that lead back to their message through a group. prost does not
/// follow groups.
fn endless_groups(message: &MessageDescriptor) -> Vec<String> {
    let mut paths = Vec::new();
    for field in message.fields().filter(|field| !field.is_list() && !field.is_map()) {
        if let FieldKind::Message(next) = field.kind()
            && leads_to(&next, message, field.is_group(), &mut BTreeSet::new())
        {
            let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
            let oneof = oneof.map(|oneof| format!("{}.", oneof.name())).unwrap_or_default();
            paths.push(format!(".{}.{oneof}{}", message.full_name(), field.name()));
        }
    }
    paths.extend(message.child_messages().flat_map(|child| endless_groups(&child)));
    paths
}

fn leads_to(
    from: &MessageDescriptor,
    to: &MessageDescriptor,
    by_group: bool,
    seen: &mut BTreeSet<(String, bool)>,
) -> bool {
    if from == to && by_group {
        return true;
    }
    seen.insert((from.full_name().to_owned(), by_group))
        && from.fields().filter(|field| !field.is_list() && !field.is_map()).any(|field| match field.kind() {
            FieldKind::Message(next) => leads_to(&next, to, by_group || field.is_group(), seen),
            _ => false,
        })
}

/// Returns the paths under `lockstep_proto` that are re-exported at the root of an author's crate.
/// These are packages, and the declarations of the author's own files. A name that occurs more than
/// once is left out.
pub(crate) fn names_at_root(scopes: &Scopes, own: &BTreeSet<Vec<String>>) -> Vec<String> {
    let root = Vec::new();
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for module in own.iter().filter(|module| !module.is_empty()).chain([&root]) {
        for name in scopes.names(module) {
            let path: Vec<&str> = module.iter().map(String::as_str).chain([name]).collect();
            found.entry(name).or_default().push(path.join("::"));
        }
    }
    let kept = found.into_iter().filter(|(name, paths)| paths.len() == 1 && !NOT_AT_ROOT.contains(name));
    kept.flat_map(|(_, paths)| paths).collect()
}

/// Writes the whole file.
///
/// It has a module tree by package, the re-exports of the author's own packages at the top, and the
/// descriptor.
pub(crate) fn assemble(modules: BTreeMap<Vec<String>, String>, at_root: &[String], descriptor_len: usize) -> String {
    let mut tree = Tree::default();
    for (module, source) in &modules {
        tree.insert(module, source);
    }
    let mut out = String::from("// Written by lockstep-guest-build. Do not edit.\n");
    line(&mut out, &format!("#[allow({ALLOWED})]"));
    line(&mut out, "pub mod lockstep_proto {");
    tree.write(&mut out);
    line(&mut out, "}");
    // The re-exports are in a module of their own, so what an author declares or imports takes
    // precedence.
    line(&mut out, "#[doc(hidden)]\n#[allow(unused_imports)]\npub mod lockstep_root {");
    line(&mut out, &format!("pub use super::lockstep_proto::{{{}}};", at_root.join(", ")));
    line(&mut out, "}\n#[allow(unused_imports)]\npub use lockstep_root::*;");
    line(
        &mut out,
        &format!(
            "::lockstep_guest::descriptor_section!({descriptor_len}, \
         include_bytes!(concat!(env!(\"OUT_DIR\"), \"/lockstep.bin\")));"
        ),
    );
    out
}

#[derive(Default)]
struct Tree {
    source: String,
    children: BTreeMap<String, Tree>,
}

impl Tree {
    fn insert(&mut self, path: &[String], source: &str) {
        match path.split_first() {
            None => self.source.push_str(&without_doctests(source)),
            Some((head, rest)) => self.children.entry(head.clone()).or_default().insert(rest, source),
        }
    }

    fn write(&self, out: &mut String) {
        out.push_str(&self.source);
        for (name, child) in &self.children {
            line(out, &format!("pub mod {name} {{"));
            child.write(out);
            line(out, "}");
        }
    }
}

/// Turns doc comments into `doc` attributes that rustdoc does not see when it collects tests. A
/// comment of a `.proto` is documentation, and no code in it is to be compiled or run.
fn without_doctests(source: &str) -> String {
    let mut out = String::new();
    for text in source.lines() {
        match text.trim_start().strip_prefix("///") {
            Some(doc) => line(&mut out, &format!("#[cfg_attr(not(doctest), doc = {doc:?})]")),
            None => line(&mut out, text),
        }
    }
    out
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a String takes every write");
}
