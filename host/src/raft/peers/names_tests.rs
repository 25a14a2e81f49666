//! Tests which node a certificate may speak for. They need no connection.
#![allow(clippy::unwrap_used)]

use std::time::SystemTime;

use tonic::Code;

use super::*;

/// Makes the certificate of a node, or of whatever `uri` names.
pub(in crate::raft) fn certificate(uri: &str) -> Arc<Certificate> {
    Arc::new(Certificate {
        common_name: String::new(),
        uris: vec![uri.to_owned()],
        dns_names: Vec::new(),
        not_after: SystemTime::now(),
        fingerprint: "ab".repeat(32),
    })
}

fn node(name: &str) -> Arc<Certificate> {
    certificate(&format!("lockstep://lockstep/node/{name}"))
}

fn remote(certificate: Option<Arc<Certificate>>) -> Remote {
    Remote { address: "127.0.0.1:1".parse().unwrap(), is_encrypted: certificate.is_some(), certificate }
}

fn route(from: NodeId, from_name: &str) -> Route {
    Route { from, from_name: from_name.into(), ..Route::default() }
}

/// Makes the names of a node that knows two members.
fn names() -> Names {
    let names = Names::new(Connector::plain(), "nodeC");
    names.set_members(Box::new(|id| match id {
        1 => Some("nodeA".into()),
        2 => Some("nodeB".into()),
        _ => None,
    }));
    names
}

fn refused(names: &Names, route: &Route, by: Arc<Certificate>) -> String {
    let before = names.refused();
    let status = names.admit(route, &remote(Some(by))).unwrap_err();
    assert_eq!((status.code(), names.refused()), (Code::PermissionDenied, before + 1));
    status.message().to_owned()
}

#[test]
fn a_member_speaks_with_its_own_certificate_only() {
    let names = names();
    for claimed in ["nodeA", ""] {
        names.admit(&route(1, claimed), &remote(Some(node("nodeA")))).unwrap();
    }
    let text = refused(&names, &route(1, "nodeA"), node("nodeB"));
    assert!(text.contains("lockstep://lockstep/node/nodeB") && text.contains(r#""nodeA""#), "{text}");
    assert!(text.contains("SHA-256 abababababababab"), "{text}");
    let text = refused(&names, &route(1, "nodeB"), node("nodeB"));
    assert!(text.contains(r#"is "nodeA""#) && text.contains(r#"says that it is "nodeB""#), "{text}");
    refused(&names, &route(1, ""), node("nodeB"));
    refused(&names, &route(1, "nodeA"), certificate("lockstep://lockstep/client/nodeA"));
}

#[test]
fn a_node_that_is_no_member_keeps_the_name_that_it_has_proven() {
    let names = names();
    refused(&names, &route(9, "nodeX"), node("nodeY"));
    names.admit(&route(9, "nodeX"), &remote(Some(node("nodeX")))).unwrap();
    names.admit(&route(9, ""), &remote(Some(node("nodeX")))).unwrap();
    refused(&names, &route(9, "nodeY"), node("nodeY"));
    refused(&names, &route(9, ""), node("nodeY"));
    // An earlier build says no name.
    names.admit(&route(10, ""), &remote(Some(node("nodeY")))).unwrap();
    refused(&names, &route(10, "nodeX"), node("nodeX"));
    refused(&names, &route(11, ""), certificate("lockstep://lockstep/client/alice"));
}

#[test]
fn one_name_never_drives_out_another_one() {
    let names = names();
    names.admit(&route(9, "nodeX"), &remote(Some(node("nodeX")))).unwrap();
    for id in 100..300 {
        names.admit(&route(id, "nodeY"), &remote(Some(node("nodeY")))).unwrap();
    }
    assert_eq!(names.0.proven.lock().len(), 1 + IDS_PER_NAME_MAX);
    refused(&names, &route(9, "nodeY"), node("nodeY"));
}

#[test]
fn without_a_certificate_nothing_is_checked_here() {
    let names = names();
    names.admit(&route(1, "nodeB"), &remote(None)).unwrap();
    names.admit_any(&remote(None)).unwrap();
    assert_eq!(names.refused(), 0);
}

#[test]
fn a_message_without_a_route_takes_a_certificate_of_any_node() {
    let names = names();
    names.admit_any(&remote(Some(node("nodeZ")))).unwrap();
    let status = names.admit_any(&remote(Some(certificate("lockstep://lockstep/client/alice")))).unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("names no node"), "{}", status.message());
    names.admit_as("nodeA", &node("nodeA")).unwrap();
    assert!(names.admit_as("nodeA", &node("nodeB")).is_err());
}
