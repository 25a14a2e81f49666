//! Writes Rust: service traits, their dispatch tables, and the file that holds it all. Every path into
//! the SDK is absolute, so that an author depends on `lockstep-guest` alone.

use std::collections::BTreeMap;
use std::fmt::Write;

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_build::{Config, Method, Module, Service, ServiceGenerator};
use prost_reflect::{FileDescriptor, MessageDescriptor};

use crate::Kind;

/// prost as the guests need it: ordered maps, because a hash map's order differs between nodes.
pub(crate) fn prost_config(kinds: BTreeMap<String, Kind>, files: &[FileDescriptor]) -> Config {
    let mut config = Config::new();
    let with_maps = files.iter().flat_map(FileDescriptor::messages).flat_map(|message| with_maps(&message));
    let with_maps: Vec<String> = with_maps.collect();
    for message in &with_maps {
        config.type_attribute(message, "#[derive(Debug)]");
    }
    config
        // prost's own Debug of a map asks for a crate `prost` by that name, which an author does not have.
        .skip_debug(&with_maps)
        .btree_map(["."])
        // A detail of a refusal travels under the name of its message.
        .enable_type_names()
        .prost_path("::lockstep_guest::prost")
        .prost_types_path("::lockstep_guest::prost_types")
        .service_generator(Box::new(Traits { kinds }));
    config
}

struct Traits {
    kinds: BTreeMap<String, Kind>,
}

impl ServiceGenerator for Traits {
    fn generate(&mut self, service: Service, out: &mut String) {
        let full_name = match service.package.as_str() {
            "" => service.proto_name.clone(),
            package => format!("{package}.{}", service.proto_name),
        };
        service.comments.append_with_indent(0, out);
        line(out, &format!("pub trait {}: ::lockstep_guest::State {{", service.name));
        let mut table = String::new();
        for method in &service.methods {
            let name = format!("{full_name}/{}", method.proto_name);
            let kind = self.kinds[&name];
            write_method(method, kind, out);
            write_row(&service.name, &method.name, &name, kind, &mut table);
        }
        line(out, "    #[doc(hidden)]");
        line(out, "    const LOCKSTEP_METHODS: &'static [::lockstep_guest::dispatch::Method<Self>] = &[");
        out.push_str(&table);
        line(out, "    ];");
        line(out, "}");
    }
}

fn write_method(method: &Method, kind: Kind, out: &mut String) {
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
            "    fn {}({receiver}, cx: &::lockstep_guest::{context}, request: {}) -> ::lockstep_guest::Reply<{reply}>;",
            method.name, method.input_type,
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

/// Lets every message of a file be a value in a collection.
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
    let name = identifier(message.name().to_upper_camel_case());
    line(out, &format!("::lockstep_guest::message_value!({path}{name});"));
    let nested = format!("{path}{}::", identifier(message.name().to_snake_case()));
    for child in message.child_messages() {
        write_message_value(&child, &nested, out);
    }
}

/// Names of the outermost messages with map fields: what is said of one holds for all within it.
fn with_maps(message: &MessageDescriptor) -> Vec<String> {
    match message.fields().any(|field| field.is_map()) {
        true => vec![format!(".{}", message.full_name())],
        false => message.child_messages().flat_map(|child| with_maps(&child)).collect(),
    }
}

/// An identifier as prost writes it.
fn identifier(name: String) -> String {
    const KEYWORDS: [&str; 47] = [
        "as", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl", "in", "let", "loop",
        "match", "mod", "move", "mut", "pub", "ref", "return", "static", "struct", "trait", "true", "type", "unsafe",
        "use", "where", "while", "dyn", "abstract", "become", "box", "do", "final", "macro", "override", "priv",
        "typeof", "unsized", "virtual", "yield", "async", "await", "try", "gen",
    ];
    match name.as_str() {
        "super" | "self" | "Self" | "extern" | "crate" => format!("{name}_"),
        keyword if KEYWORDS.contains(&keyword) => format!("r#{name}"),
        _ => name,
    }
}

/// One file: a module tree by package, the author's own packages re-exported at the top, and the
/// descriptor.
pub(crate) fn assemble(modules: BTreeMap<Module, String>, own: &[Module], descriptor_len: usize) -> String {
    let mut tree = Tree::default();
    for (module, source) in modules {
        let parts: Vec<&str> = module.parts().collect();
        tree.insert(&parts, source);
    }
    let mut out = String::from("// Written by lockstep-guest-build. Do not edit.\n");
    line(&mut out, "#[allow(missing_docs, unused_qualifications, unused_imports, clippy::all)]");
    line(&mut out, "pub mod lockstep_proto {");
    tree.write(&mut out);
    line(&mut out, "}");
    line(&mut out, "#[allow(unused_imports)]\npub use lockstep_proto::*;");
    for module in own.iter().filter(|module| !module.is_empty()) {
        let path: Vec<&str> = module.parts().collect();
        line(&mut out, &format!("#[allow(unused_imports)]\npub use lockstep_proto::{}::*;", path.join("::")));
    }
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
    fn insert(&mut self, path: &[&str], source: String) {
        match path.split_first() {
            None => self.source.push_str(&source),
            Some((head, rest)) => {
                let child = self.children.entry((*head).to_owned()).or_default();
                child.insert(rest, source);
            }
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

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a String takes every write");
}
