//! Computes the Rust name that prost gives to a protobuf name, letter for letter. prost writes the
//! declarations, and the code that this crate writes must use the same names. This file decides
//! nothing; `clashes` decides which names cannot stand together.

use heck::{ToSnakeCase, ToUpperCamelCase};

/// Keywords that Rust code can use as names when it writes them `r#keyword`.
const RAW: [&str; 47] = [
    "as", "break", "const", "continue", "else", "enum", "false", "fn", "for", "if", "impl", "in", "let", "loop",
    "match", "mod", "move", "mut", "pub", "ref", "return", "static", "struct", "trait", "true", "type", "unsafe",
    "use", "where", "while", "dyn", "abstract", "become", "box", "do", "final", "macro", "override", "priv", "typeof",
    "unsized", "virtual", "yield", "async", "await", "try", "gen",
];

/// Returns the name of a field, a method, or the module of a message or of a part of a package.
/// It is empty when `name` has neither a letter nor a digit.
pub(crate) fn snake(name: &str) -> String {
    sanitized(name.to_snake_case())
}

/// Returns the name of a message, an enum, a service or a variant.
/// It is empty when `name` has neither a letter nor a digit.
pub(crate) fn camel(name: &str) -> String {
    sanitized(name.to_upper_camel_case())
}

/// Returns the name as it stands in the `.proto`.
/// Only a keyword, and a name that begins with a digit, are changed.
pub(crate) fn exact(name: &str) -> String {
    sanitized(name.to_owned())
}

/// Returns the name of a value of an enum, without the prefix that repeats the enum's name.
pub(crate) fn value(enum_name: &str, name: &str) -> String {
    let (prefix, name) = (camel(enum_name), camel(name));
    match name.strip_prefix(&prefix) {
        Some(rest) if rest.starts_with(char::is_uppercase) => sanitized(rest.to_owned()),
        _ => name,
    }
}

/// Returns the module path of a package.
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
