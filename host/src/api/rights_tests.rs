//! Compares the rights with the table in `rights.txt`, that with the descriptors and with the page
//! that users read, and prints it. The scenarios make each call of the table.

use std::collections::{BTreeMap, BTreeSet};

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

/// What each role may do, in words of its own: `yes` or `-` for each role behind each method.
const EXPECTED: &str = include_str!("rights.txt");
/// The page with the same table for users.
const PAGE: &str = include_str!("../../../docs/access.md");

/// The methods of a table, and which of the roles may call each.
type Table = BTreeMap<String, [bool; 4]>;

fn cells<'a>(words: impl Iterator<Item = &'a str>) -> [bool; 4] {
    let read = |word: &str| match word {
        "yes" => true,
        "-" => false,
        other => panic!("{other:?} is no cell"),
    };
    words.map(read).collect::<Vec<_>>().try_into().unwrap()
}

fn expected() -> Table {
    let mut lines = EXPECTED.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head[1..], Role::ALL.map(Role::name));
    let row = |line: &'static str| {
        let mut words = line.split_whitespace();
        (words.next().unwrap().to_owned(), cells(words))
    };
    let table: Table = lines.map(row).collect();
    assert_eq!(table.len(), EXPECTED.lines().count() - 1, "a method stands there twice");
    table
}

/// The rights by the rules of this build.
fn ruled() -> Table {
    let mut rights: BTreeMap<String, Right> = BTreeMap::new();
    for method in listed() {
        rights.insert(method.clone(), of_host(&method).unwrap());
    }
    for (name, method) in [("command", "Example/Add"), ("query", "Example/Get"), ("watch", "Example/Watch")] {
        rights.insert(format!("guest/{name}"), of(method, Some(&crate::api::example_contract())).right);
    }
    // The scenarios ask for the pages.
    rights.extend(["http/metrics", "http/status"].map(|page| (page.to_owned(), Look)));
    rights.into_iter().map(|(method, right)| (method, Role::ALL.map(|role| role.may(right)))).collect()
}

/// The methods of a row of the page, by what stands in its first cell.
fn methods_of(label: &str, all: &Table) -> Vec<String> {
    let of_kind = |names: &[&str]| -> Vec<String> { names.iter().map(|name| format!("guest/{name}")).collect() };
    match label {
        "reflection, health, `/metrics`, `/status`" => {
            all.keys().filter(|method| method.starts_with("grpc.") || method.starts_with("http/")).cloned().collect()
        }
        "queries and watches of the guest" => of_kind(&["query", "watch"]),
        "commands of the guest" => of_kind(&["command"]),
        label => {
            let mut words = label.split('`').skip(1).step_by(2);
            let service = words.next().unwrap_or_else(|| panic!("{label:?} names no service"));
            // The page says that the older name has the same rows.
            let services = if service == "RaftManager" { vec![service, "RaftAdmin"] } else { vec![service] };
            words
                .flat_map(|method| {
                    services.iter().map(move |service| format!("{service}/{method}")).collect::<Vec<_>>()
                })
                .collect()
        }
    }
}

fn of_page(all: &Table) -> Table {
    let (_, section) = PAGE.split_once("\n## Roles\n").unwrap();
    let rows = section.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2);
    let mut table = Table::new();
    for row in rows {
        let mut row = row.trim_matches('|').split('|').map(str::trim);
        let methods = methods_of(row.next().unwrap(), all);
        let roles = cells(row);
        for method in methods {
            assert_eq!(table.insert(method.clone(), roles), None, "{method} stands on the page twice");
        }
    }
    table
}

#[test]
fn the_rules_have_every_rpc_of_the_host_and_no_other() {
    assert_eq!(listed(), served());
}

#[test]
fn each_role_may_do_what_the_table_says_and_the_page_says_the_same() {
    println!("{EXPECTED}");
    let expected = expected();
    assert_eq!(ruled(), expected, "the rules");
    assert_eq!(of_page(&expected), expected, "docs/access.md");
}

#[test]
fn the_guests_methods_need_a_right_by_their_kind() {
    let guest = crate::api::example_contract();
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
