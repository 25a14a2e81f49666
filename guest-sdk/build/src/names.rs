//! What prost calls in Rust what a `.proto` names, letter for letter: prost writes the declarations, and what stands beside them must name
//! them alike. Decides nothing; which names cannot stand together is `clashes`'s.

use heck::{ToSnakeCase, ToUpperCamelCase};

/// Keywords that stand in code as `r#keyword`.
const RAW: [&str; 47] = [
    "as", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl", "in", "let", "loop",
    "match", "mod", "move", "mut", "pub", "ref", "return", "static", "struct", "trait", "true", "type", "unsafe",
    "use", "where", "while", "dyn", "abstract", "become", "box", "do", "final", "macro", "override", "priv", "typeof",
    "unsized", "virtual", "yield", "async", "await", "try", "gen",
];

/// A field, a method, or the module of a message or of a part of a package. Empty when the name has neither letter nor digit.
pub(crate) fn snake(name: &str) -> String {
    sanitized(name.to_snake_case())
}

/// A message, an enum, a service, or a variant. Empty when the name has neither letter nor digit.
pub(crate) fn camel(name: &str) -> String {
    sanitized(name.to_upper_camel_case())
}

/// As it stands in the `.proto`.
pub(crate) fn exact(name: &str) -> String {
    sanitized(name.to_owned())
}

/// A value of an enum: the enum's own name in front of it is left out.
pub(crate) fn value(enum_name: &str, name: &str) -> String {
    let (prefix, name) = (camel(enum_name), camel(name));
    match name.strip_prefix(&prefix) {
        Some(rest) if rest.starts_with(char::is_uppercase) => sanitized(rest.to_owned()),
        _ => name,
    }
}

/// The module of a package, by its parts.
pub(crate) fn package(name: &str) -> Vec<String> {
    name.split('.').filter(|part| !part.is_empty()).map(snake).collect()
}

fn sanitized(name: String) -> String {
    match name.as_str() {
        "_" | "super" | "self" | "Self" | "extern" | "crate" => format!("{name}_"),
        keyword if RAW.contains(&keyword) => format!("r#{name}"),
        _ if name.starts_with(|first: char| first.is_numeric()) => format!("_{name}"),
        _ => name,
    }
}
