//! What differs between two contracts, and whether clients that were generated for the old one
//! survive the new one. It compares services, methods and the messages that they use; it looks at
//! no state.
//!
//! A client survives a difference if every request that it sends means what it meant, and every
//! reply that it gets reads as it did. So a new method or a new field is harmless. A field that is
//! gone is not: requests that set it lose it in silence, and replies arrive without it.

use std::collections::BTreeSet;
use std::fmt;

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, EnumValueDescriptor, FieldDescriptor, Kind as FieldKind,
    MessageDescriptor, MethodDescriptor,
};

use crate::method::{Consistency, Freshness, Kind, Method};
use crate::services::Contract;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Whether old clients may fail, or misread what they get.
    pub breaks: bool,
    /// The name of what differs: a service, a method, a field, a value of an enum.
    pub subject: String,
    /// What differs, in words.
    pub words: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.words)
    }
}

/// Returns the differences between two contracts, those first that break old clients, each group by
/// name. Messages that no method of the old contract uses are not compared.
pub fn differences(old: &Contract, new: &Contract) -> Vec<Difference> {
    let (old_pool, new_pool) = (pool(old), pool(new));
    let mut found = Found { differences: BTreeSet::new(), compared: BTreeSet::new() };
    for service in old.services().iter().filter(|service| !new.services().contains(service)) {
        found.broken(service, "the service is gone");
    }
    for service in new.services().iter().filter(|service| !old.services().contains(service)) {
        found.harmless(service, "the service is new");
    }
    for method in old.methods() {
        let gone_with_service = !new.services().iter().any(|service| *service == service_of(method));
        match new.method(&method.name) {
            None if gone_with_service => {}
            None => found.broken(&method.name, "the method is gone"),
            Some(now) => {
                found.methods(method, now);
                let (old, new) = (shape(&old_pool, method), shape(&new_pool, now));
                found.renamed(&method.name, "takes", "took", &old.input(), &new.input());
                found.renamed(&method.name, "returns", "returned", &old.output(), &new.output());
                found.messages(&old.input(), &new.input());
                found.messages(&old.output(), &new.output());
            }
        }
    }
    for method in new.methods().into_iter().filter(|method| old.method(&method.name).is_none()) {
        if old.services().iter().any(|service| *service == service_of(method)) {
            found.harmless(&method.name, &format!("the method is new ({})", method.nature()));
        }
    }
    let mut all: Vec<Difference> = found.differences.into_iter().collect();
    all.sort_by_key(|difference| !difference.breaks);
    all
}

/// A contract was read from its descriptor, so it decodes again.
fn pool(contract: &Contract) -> DescriptorPool {
    DescriptorPool::decode(contract.encoded()).expect("a contract was read from this descriptor")
}

fn service_of(method: &Method) -> &str {
    method.name.split_once('/').map_or(&*method.name, |(service, _)| service)
}

/// Returns a method's declaration.
fn shape(pool: &DescriptorPool, method: &Method) -> MethodDescriptor {
    let declared = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let is_it =
        |found: &MethodDescriptor| *method.name == *format!("{}/{}", found.parent_service().full_name(), found.name());
    declared.into_iter().find(is_it).expect("a contract's methods stand in its descriptor")
}

struct Found {
    differences: BTreeSet<Difference>,
    /// Pairs of message names that were compared, so that messages may contain each other.
    compared: BTreeSet<(String, String)>,
}

impl Found {
    fn broken(&mut self, subject: &str, words: &str) {
        self.add(true, subject, words);
    }

    fn harmless(&mut self, subject: &str, words: &str) {
        self.add(false, subject, words);
    }

    fn add(&mut self, breaks: bool, subject: &str, words: &str) {
        self.differences.insert(Difference { breaks, subject: subject.to_owned(), words: words.to_owned() });
    }

    fn methods(&mut self, old: &Method, new: &Method) {
        if (old.kind == Kind::Watch) != (new.kind == Kind::Watch) {
            let words = match new.kind {
                Kind::Watch => "it has a stream of replies now",
                Kind::Command | Kind::Query => "it has one reply now, and had a stream",
            };
            self.broken(&old.name, words);
        } else if old.kind != new.kind {
            // What a client sends and gets stays the same. A retry means something else.
            let words = format!("it is a {} now, and was a {}", new.kind.name(), old.kind.name());
            self.broken(&old.name, &words);
        } else if old.freshness() != new.freshness() {
            let in_words = |method: &Method| method.freshness().unwrap_or_default();
            let words = format!("it is {} now, and was {}", in_words(new), in_words(old));
            let only_fresher = new.freshness == Freshness::Fixed(Consistency::Linearizable);
            self.add(!only_fresher, &old.name, &words);
        }
    }

    /// Notes another name of a method's request or reply. Names of messages are not sent.
    fn renamed(&mut self, method: &str, does: &str, did: &str, old: &MessageDescriptor, new: &MessageDescriptor) {
        if old.full_name() != new.full_name() {
            let (old, new) = (old.full_name(), new.full_name());
            self.harmless(method, &format!("it {does} {new} now, and {did} {old}; only generated code notices"));
        }
    }

    fn messages(&mut self, old: &MessageDescriptor, new: &MessageDescriptor) {
        if !self.compared.insert((old.full_name().to_owned(), new.full_name().to_owned())) {
            return;
        }
        for field in old.fields() {
            let subject = format!("{}.{}", old.full_name(), field.name());
            match new.get_field(field.number()) {
                Some(now) => self.fields(&subject, &field, &now),
                None => match new.get_field_by_name(field.name()) {
                    Some(now) => self.renumbered(&subject, field.number(), now.number()),
                    None => self.broken(&subject, &format!("the field (number {}) is gone", field.number())),
                },
            }
        }
        for field in new.fields().filter(|field| old.get_field(field.number()).is_none()) {
            let subject = format!("{}.{}", new.full_name(), field.name());
            let is_renumbered = old.get_field_by_name(field.name()).is_some();
            match field.cardinality() {
                Cardinality::Optional | Cardinality::Repeated if is_renumbered => {}
                Cardinality::Required => self.broken(&subject, "the field is new and required"),
                Cardinality::Optional | Cardinality::Repeated => self.harmless(&subject, "the field is new"),
            }
        }
    }

    fn renumbered(&mut self, subject: &str, old: impl fmt::Display, new: impl fmt::Display) {
        self.broken(subject, &format!("its number is {new} now, and was {old}"));
    }

    fn fields(&mut self, subject: &str, old: &FieldDescriptor, new: &FieldDescriptor) {
        if old.name() != new.name() {
            let words = format!("it is called `{}` now; only clients that speak JSON notice", new.name());
            self.harmless(subject, &words);
        } else if old.json_name() != new.json_name() {
            let words = format!("it is called `{}` in JSON now; only clients that speak JSON notice", new.json_name());
            self.harmless(subject, &words);
        }
        if old.is_list() != new.is_list() || old.is_map() != new.is_map() {
            self.broken(subject, &format!("it is {} now, and was {}", shape_of(new), shape_of(old)));
            return;
        }
        match (old.cardinality(), new.cardinality()) {
            (Cardinality::Required, Cardinality::Optional) => {
                self.broken(subject, "it may be missing now, and old clients require it");
            }
            (Cardinality::Optional, Cardinality::Required) => self.broken(subject, "it is required now"),
            _ => {}
        }
        if one_of(old) != one_of(new) {
            let name = |oneof: Option<String>| oneof.map_or("no oneof".to_owned(), |name| format!("oneof `{name}`"));
            self.broken(subject, &format!("it is in {} now, and was in {}", name(one_of(new)), name(one_of(old))));
        }
        if one_of(old) == one_of(new) && old.supports_presence() && !new.supports_presence() {
            self.broken(subject, "it is not `optional` any more: a default value reads as missing now");
        }
        if old.is_group() != new.is_group() {
            let name = |is_group| if is_group { "a group" } else { "no group" };
            self.broken(subject, &format!("it is {} now, and was {}", name(new.is_group()), name(old.is_group())));
        }
        let default = |field: &FieldDescriptor| field.field_descriptor_proto().default_value.clone();
        if default(old) != default(new) {
            let name = |value: Option<String>| value.map_or("the default of its type".to_owned(), |value| value);
            let (old, new) = (name(default(old)), name(default(new)));
            self.broken(subject, &format!("if it is missing, it reads as {new} now, and did as {old}"));
        }
        self.kinds(subject, &old.kind(), &new.kind());
    }

    fn kinds(&mut self, subject: &str, old: &FieldKind, new: &FieldKind) {
        match (old, new) {
            (FieldKind::Message(old), FieldKind::Message(new)) => self.messages(old, new),
            (FieldKind::Enum(old), FieldKind::Enum(new)) => self.enums(old, new),
            _ if old == new => {}
            _ => self.broken(subject, &format!("its type is {} now, and was {}", type_name(new), type_name(old))),
        }
    }

    fn enums(&mut self, old: &EnumDescriptor, new: &EnumDescriptor) {
        if !self.compared.insert((old.full_name().to_owned(), new.full_name().to_owned())) {
            return;
        }
        for value in old.values() {
            let subject = format!("{}.{}", old.full_name(), value.name());
            match new.get_value(value.number()) {
                None => match new.get_value_by_name(value.name()) {
                    Some(now) => self.renumbered(&subject, value.number(), now.number()),
                    None => self.broken(&subject, &format!("the value (number {}) is gone", value.number())),
                },
                Some(_) if new.get_value_by_name(value.name()).is_some_and(|now| now.number() == value.number()) => {}
                Some(now) => {
                    let words = format!("it is called `{}` now; only clients that speak JSON notice", now.name());
                    self.harmless(&subject, &words);
                }
            }
        }
        let (first, now) = (old.default_value(), new.default_value());
        if first.number() != now.number() {
            let words = format!("a missing value reads as `{}` now, and did as `{}`", now.name(), first.name());
            self.broken(old.full_name(), &words);
        }
        let is_new = |value: &EnumValueDescriptor| {
            old.get_value(value.number()).is_none() && old.get_value_by_name(value.name()).is_none()
        };
        for value in new.values().filter(is_new) {
            let subject = format!("{}.{}", new.full_name(), value.name());
            self.harmless(&subject, "the value is new; an old client reads it as a number that it does not know");
        }
    }
}

fn shape_of(field: &FieldDescriptor) -> &'static str {
    if field.is_map() {
        "a map"
    } else if field.is_list() {
        "repeated"
    } else {
        "single"
    }
}

/// Returns the oneof that a field stands in. Protobuf gives each `optional` field of proto3 a oneof
/// of its own, which nobody sees.
fn one_of(field: &FieldDescriptor) -> Option<String> {
    field.containing_oneof().filter(|oneof| !oneof.is_synthetic()).map(|oneof| oneof.name().to_owned())
}

fn type_name(kind: &FieldKind) -> String {
    match kind {
        FieldKind::Message(message) => format!("message {}", message.full_name()),
        FieldKind::Enum(declared) => format!("enum {}", declared.full_name()),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn contract_in(syntax: &str, body: &str) -> Contract {
        let directory = tempfile::tempdir().unwrap();
        let source = format!("syntax = \"{syntax}\";\nimport \"lockstep/options.proto\";\n{body}");
        std::fs::write(directory.path().join("app.proto"), source).unwrap();
        let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
        let mut compiler = protox::Compiler::new([directory.path(), protos.as_ref()]).unwrap();
        compiler.include_imports(true).open_file("app.proto").unwrap();
        Contract::new(Some(&compiler.encode_file_descriptor_set()), true).unwrap()
    }

    /// Lines `! subject: words` for what breaks old clients, `  subject: words` for the rest.
    fn compared(old: &str, new: &str) -> Vec<String> {
        compared_in("proto3", old, new)
    }

    fn compared_in(syntax: &str, old: &str, new: &str) -> Vec<String> {
        let line = |difference: &Difference| format!("{} {difference}", if difference.breaks { "!" } else { " " });
        differences(&contract_in(syntax, old), &contract_in(syntax, new)).iter().map(line).collect()
    }

    const SERVICE: &str = "service S { rpc Put(M) returns (R); } message R { string text = 1; }";

    #[test]
    fn a_contract_does_not_differ_from_itself() {
        let body = format!("{SERVICE} message M {{ M within = 1; map<string, M> more = 2; optional int32 n = 3; }}");
        assert_eq!(compared(&body, &body), Vec::<String>::new());
    }

    #[test]
    fn what_comes_is_harmless_and_what_goes_is_not() {
        let old = format!(
            "{SERVICE} service Gone {{ rpc A(M) returns (R); }} message M {{ string a = 1; E e = 2; }} enum E {{ X = 0; Y = 1; }}"
        );
        let new = "service S { rpc Put(M) returns (R); rpc More(M) returns (stream R); } service New { rpc A(M) returns (R); }
                   message R {} message M { E e = 2; string b = 3; } enum E { X = 0; Z = 2; }";
        assert_eq!(
            compared(&old, new),
            [
                "! E.Y: the value (number 1) is gone",
                "! Gone: the service is gone",
                "! M.a: the field (number 1) is gone",
                "! R.text: the field (number 1) is gone",
                "  E.Z: the value is new; an old client reads it as a number that it does not know",
                "  M.b: the field is new",
                "  New: the service is new",
                "  S/More: the method is new (watch, local)",
            ]
        );
    }

    #[test]
    fn fields_that_change_are_named_with_both_sides() {
        let message = |fields: &str| format!("{SERVICE} message M {{ {fields} }}");
        let rows = [
            ("string a = 1;", "bytes a = 1;", "! M.a: its type is bytes now, and was string"),
            ("int32 a = 1;", "repeated int32 a = 1;", "! M.a: it is repeated now, and was single"),
            ("int32 a = 1;", "int32 b = 1;", "  M.a: it is called `b` now; only clients that speak JSON notice"),
            ("int32 a = 1;", "oneof o { int32 a = 1; }", "! M.a: it is in oneof `o` now, and was in no oneof"),
            (
                "optional int32 a = 1;",
                "int32 a = 1;",
                "! M.a: it is not `optional` any more: a default value reads as missing now",
            ),
            ("R a = 1;", "map<string, R> a = 1;", "! M.a: it is a map now, and was single"),
            ("map<string, R> a = 1;", "map<int32, R> a = 1;", "! M.AEntry.key: its type is int32 now, and was string"),
            ("int32 a = 1;", "int32 a = 2;", "! M.a: its number is 2 now, and was 1"),
            (
                "int32 a = 1;",
                "int32 a = 1 [json_name = \"b\"];",
                "  M.a: it is called `b` in JSON now; only clients that speak JSON notice",
            ),
        ];
        for (old, new, words) in rows {
            assert_eq!(compared(&message(old), &message(new)), [words]);
        }
        assert!(compared(&message("int32 a = 1;"), &message("optional int32 a = 1;")).is_empty());
    }

    #[test]
    fn what_a_missing_field_means_is_part_of_the_contract() {
        let message = |fields: &str, values: &str| {
            let message = "service S { rpc Put(M) returns (M); } message M";
            format!("{message} {{ {fields} }} enum E {{ {values} }}")
        };
        let rows = [
            (
                ("optional int32 a = 1;", "X = 0;"),
                ("optional int32 a = 1 [default = 7];", "X = 0;"),
                "! M.a: if it is missing, it reads as 7 now, and did as the default of its type",
            ),
            (
                ("optional E a = 1;", "X = 0; Y = 1;"),
                ("optional E a = 1;", "Y = 1; X = 0;"),
                "! E: a missing value reads as `Y` now, and did as `X`",
            ),
            (
                ("optional E a = 1;", "X = 0; Y = 1;"),
                ("optional E a = 1;", "X = 0; Y = 2;"),
                "! E.Y: its number is 2 now, and was 1",
            ),
            (
                ("required int32 a = 1;", "X = 0;"),
                ("optional int32 a = 1;", "X = 0;"),
                "! M.a: it may be missing now, and old clients require it",
            ),
        ];
        for (old, new, words) in rows {
            assert_eq!(compared_in("proto2", &message(old.0, old.1), &message(new.0, new.1)), [words]);
        }
    }

    #[test]
    fn names_of_messages_are_not_sent() {
        let service = |name: &str| {
            format!("service S {{ rpc Put({name}) returns (R); }} message {name} {{ string a = 1; }} message R {{}}")
        };
        let words = "  S/Put: it takes N now, and took M; only generated code notices";
        assert_eq!(compared(&service("M"), &service("N")), [words]);
    }

    #[test]
    fn kinds_and_consistency_are_part_of_the_contract() {
        let service = |rpc: &str| format!("service S {{ rpc A(M) returns {rpc} }} message M {{ bool fresh = 1; }}");
        let query = |rules: &str| service(&format!("(M) {{ option (lockstep.method) = {{ kind: QUERY {rules} }}; }}"));
        let rows = [
            (service("(M);"), service("(stream M);"), "! S/A: it has a stream of replies now"),
            (service("(M);"), query(""), "! S/A: it is a query now, and was a command"),
            (query(""), query("consistency: LOCAL"), "! S/A: it is local now, and was linearizable"),
            (query("consistency: LOCAL"), query(""), "  S/A: it is linearizable now, and was local"),
            (
                query("consistency_field: \"fresh\""),
                query("consistency: LOCAL"),
                "! S/A: it is local now, and was as field 1 says",
            ),
        ];
        for (old, new, words) in rows {
            assert_eq!(compared(&old, &new), [words]);
        }
    }
}
