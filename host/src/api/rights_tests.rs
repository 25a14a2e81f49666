//! Compares the table of rights with the descriptors, and prints it.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;

use super::*;
use crate::trust::Role;

/// The services that this port does not serve.
const ELSEWHERE: [&str; 1] = ["lockstep.peer.v1.Peer"];

fn served() -> BTreeSet<String> {
    let sets = [
        lockstep_proto::DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = BTreeSet::new();
    for file in sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file) {
        let package = if file.package().is_empty() { String::new() } else { format!("{}.", file.package()) };
        for service in &file.service {
            let service_name = format!("{package}{}", service.name());
            if !ELSEWHERE.contains(&&*service_name) {
                methods.extend(service.method.iter().map(|method| format!("{service_name}/{}", method.name())));
            }
        }
    }
    methods
}

fn listed() -> BTreeSet<String> {
    let of = |(service, methods): &(&str, &[(&str, Right)])| {
        methods.iter().map(|(method, _)| format!("{service}/{method}")).collect::<Vec<_>>()
    };
    SERVICES.iter().flat_map(of).collect()
}

#[test]
fn the_table_has_every_rpc_of_the_host_and_no_other() {
    assert_eq!(listed(), served());
    println!("{:<62}{:>8}{:>8}{:>10}{:>7}", "method", "reader", "writer", "operator", "admin");
    let row = |method: &str, right: Right| {
        let [reader, writer, operator, admin] = Role::ALL.map(|role| if role.may(right) { "yes" } else { "-" });
        println!("{method:<62}{reader:>8}{writer:>8}{operator:>10}{admin:>7}");
    };
    for method in listed() {
        row(&method, of_host(&method).unwrap());
    }
    for (kind, right) in [("query", Right::Query), ("watch", Right::Query), ("command", Right::Command)] {
        row(&format!("a {kind} of the guest"), right);
    }
}

#[test]
fn the_guests_methods_need_a_right_by_their_kind() {
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler = protox::Compiler::new([protos]).unwrap();
    compiler.include_imports(true).open_file("example.proto").unwrap();
    let guest = Contract::new(Some(&compiler.encode_file_descriptor_set()), true).unwrap();
    let rows = [
        ("Example/Add", Right::Command, false),
        ("Example/Get", Right::Query, false),
        ("Example/Watch", Right::Query, true),
        ("Example/None", Look, false),
        ("RaftManager/None", Look, false),
        ("RaftManager/Shutdown", Administer, true),
        ("", Look, false),
    ];
    for (method, right, is_long) in rows {
        assert_eq!(of(method, Some(&guest)), Known { right, is_long }, "{method}");
    }
    assert_eq!(of("Example/Add", None).right, Look, "without a component nobody serves it");
}
