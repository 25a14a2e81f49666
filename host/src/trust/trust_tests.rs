//! Tests of the whole room: a node's files, its callers, and what becomes of both.

use super::*;

/// The files of a node, and the key that signs its tokens.
struct Place {
    directory: tempfile::TempDir,
    key: NewKey,
}

const POLICY: &str = r#"
[[grant]]
subject = "reader"
role = "reader"
[[grant]]
subject = "shop-*"
role = "writer"
methods = ["orders.*/Place"]
per_second = 2
[[grant]]
subject = "anonymous"
role = "reader"
methods = ["news.News/Read"]
"#;

impl Place {
    fn new() -> Place {
        let (directory, key) = (tempfile::tempdir().unwrap(), new_key().unwrap());
        let place = Place { directory, key };
        std::fs::write(place.path("policy"), POLICY).unwrap();
        std::fs::write(place.path("jwks"), &place.key.jwks).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn settings(&self) -> TrustSettings {
        TrustSettings {
            node: "nodeA".into(),
            client_certificates: true,
            keys: Some(self.path("jwks")),
            policy: Some(self.path("policy")),
            audit_file: Some(self.path("audit")),
            ..TrustSettings::default()
        }
    }

    fn trust(&self) -> Trust {
        Trust::open(self.settings()).unwrap()
    }

    fn token(&self, subject: &str, roles: &[Role], ttl: Duration) -> String {
        let token =
            NewToken { subject: subject.into(), roles: roles.to_vec(), ttl, issuer: None, audience: None, kid: None };
        token.sign(&self.key.pem, SystemTime::now()).unwrap()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn identify(trust: &Trust, token: &str) -> Result<Caller, Refusal> {
    let value = format!("Bearer {token}");
    trust.identify(Authorization::Value(value.as_bytes()), None, SystemTime::now()).map_err(|(_, refusal)| refusal)
}

fn certificate(common_name: &str, uris: &[&str]) -> Arc<Certificate> {
    Arc::new(Certificate {
        common_name: common_name.into(),
        uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        dns_names: vec!["host.example".into()],
        not_after: SystemTime::now() + HOUR,
        fingerprint: "ab12".into(),
    })
}

fn allow(trust: &Trust, caller: &Caller, method: &str, right: Right) -> Result<(), Reason> {
    trust.allow(caller, method, right, Instant::now()).map_err(|refusal| refusal.reason)
}

#[test]
fn a_client_of_another_cluster_is_nobody() {
    use crate::tls::made::Made;
    use crate::tls::{Audience, Mode, Server, ServerSettings};
    let (place, made) = (Place::new(), Made::new());
    let audience = Audience::Peers { raft_id: "nodeA".into() };
    let peers = Server::open(ServerSettings { mode: Mode::Require, files: made.node("nodeA"), audience }).unwrap();
    let cluster = OwnCluster { raft_id: "nodeA".into(), peers, clients: Server::plain() };
    let trust = Trust::open(TrustSettings { cluster, ..place.settings() }).unwrap();
    let of = |uri| trust.identify(Authorization::Nothing, Some(&certificate("cn", &[uri])), SystemTime::now());
    assert_eq!(of("lockstep://prod/client/alice").unwrap().name().map(|name| &**name), Some("alice"));
    assert!(of("lockstep://test/client/alice").unwrap_err().1.text.contains("of this cluster"));
}

#[test]
fn a_long_method_is_cut_in_a_refusal() {
    let place = Place::new();
    let trust = place.trust();
    let reader = identify(&trust, &place.token("reader", &[], HOUR)).unwrap();
    let refusal = trust.allow(&reader, &"m".repeat(16 << 10), Right::Command, Instant::now()).unwrap_err();
    assert!(refusal.text.len() < 512, "{}", refusal.text.len());
}

/// Looks until a content that stays as it is counts.
fn settled(trust: &Trust) {
    trust.look();
    trust.look();
}

#[test]
fn a_node_without_any_of_it_is_open() {
    let trust = Trust::open(TrustSettings::default()).unwrap();
    let caller = identify(&trust, "no token at all").unwrap();
    assert_eq!(caller.name(), None);
    assert_eq!(allow(&trust, &caller, "RaftManager/Shutdown", Right::Administer), Ok(()));
    assert!(trust.is_http_open() && !trust.is_audited(Right::Operate) && trust.is_audited(Right::Administer));
}

#[test]
fn grants_of_the_policy_and_roles_of_the_token_add_up() {
    let place = Place::new();
    let trust = place.trust();
    let reader = identify(&trust, &place.token("reader", &[], HOUR)).unwrap();
    assert_eq!(allow(&trust, &reader, "a.B/C", Right::Query), Ok(()));
    assert_eq!(allow(&trust, &reader, "a.B/C", Right::Command), Err(Reason::Denied));
    let both = identify(&trust, &place.token("reader", &[Role::Operator], HOUR)).unwrap();
    assert_eq!(allow(&trust, &both, "RaftManager/Stats", Right::Operate), Ok(()));
    assert_eq!(allow(&trust, &both, "a.B/C", Right::Query), Ok(()));
    assert_eq!(allow(&trust, &both, "RaftManager/Shutdown", Right::Administer), Err(Reason::Denied));
    let nobody = Caller::default();
    assert_eq!(allow(&trust, &nobody, "news.News/Read", Right::Query), Ok(()));
    assert_eq!(allow(&trust, &nobody, "a.B/C", Right::Query), Err(Reason::Unauthenticated));
}

#[test]
fn refusals_say_who_what_and_when() {
    let place = Place::new();
    let trust = place.trust();
    let shop = identify(&trust, &place.token("shop-7", &[], HOUR)).unwrap();
    let now = Instant::now();
    let call = |method| trust.allow(&shop, method, Right::Command, now);
    let denied = call("orders.v1.Orders/Cancel").unwrap_err();
    assert_eq!(
        denied.text,
        "shop-7 may not call orders.v1.Orders/Cancel: that needs the role writer or admin, and nothing grants it"
    );
    let place_order = "orders.v1.Orders/Place";
    assert!(call(place_order).is_ok() && call(place_order).is_ok());
    let often = call(place_order).unwrap_err();
    assert_eq!(
        often.text,
        "shop-7 has used its quota of 2 calls a second for orders.v1.Orders/Place; there is room again in 501ms"
    );
    assert_eq!(often.retry_after, Some(Duration::from_millis(501)));
    let nobody = trust.allow(&Caller::default(), place_order, Right::Command, now).unwrap_err();
    assert!(nobody.text.contains("show a client certificate or a token"), "{}", nobody.text);
}

#[test]
fn a_bad_token_is_refused_even_where_nobody_needs_one() {
    let place = Place::new();
    let trust = place.trust();
    let good = place.token("reader", &[], HOUR);
    let many = trust.identify(Authorization::Many, None, SystemTime::now()).unwrap_err().1;
    assert!(many.text.contains("more than one"), "{}", many.text);
    let basic = trust.identify(Authorization::Value(b"Basic c2VjcmV0"), None, SystemTime::now()).unwrap_err().1;
    assert!(basic.text.contains("not `Bearer`") && !basic.text.contains("c2Vj"), "{}", basic.text);
    let (known, refusal) = {
        let value = format!("Bearer {good}x");
        let holder = certificate("bob", &[]);
        trust.identify(Authorization::Value(value.as_bytes()), Some(&holder), SystemTime::now()).unwrap_err()
    };
    assert_eq!((refusal.reason, known.certificate()), (Reason::Unauthenticated, Some(("bob", "ab12"))));
    let policy_only =
        Trust::open(TrustSettings { keys: None, client_certificates: false, ..place.settings() }).unwrap();
    assert!(identify(&policy_only, &good).unwrap_err().text.contains("takes no tokens"));
}

#[test]
fn a_token_counts_more_than_a_certificate() {
    let place = Place::new();
    let trust = place.trust();
    let of = |certificate: &Arc<Certificate>| {
        trust
            .identify(Authorization::Nothing, Some(certificate), SystemTime::now())
            .map_err(|(_, refusal)| refusal.text)
    };
    let named = certificate("cn", &["https://x", "lockstep://db/client/alice"]);
    let caller = of(&named).unwrap();
    assert_eq!((caller.name().map(|name| &**name), caller.proof()), (Some("alice"), "certificate"));
    assert_eq!(of(&certificate("cn", &[])).unwrap().name().map(|name| &**name), Some("cn"));
    assert!(of(&certificate("cn", &["lockstep://db/node/nodeA"])).unwrap_err().contains("a node is no client"));
    assert_eq!(of(&certificate("", &[])).unwrap().name().map(|name| &**name), Some("host.example"));
    let expired = Arc::new(Certificate { not_after: SystemTime::UNIX_EPOCH, ..(*named).clone() });
    assert!(of(&expired).unwrap_err().contains("has expired"));
    assert!(of(&certificate("anonymous", &[])).unwrap_err().contains("no usable name"));
    let value = format!("bearer  {}", place.token("reader", &[], HOUR));
    let both = trust.identify(Authorization::Value(value.as_bytes()), Some(&named), SystemTime::now()).unwrap();
    assert_eq!((both.name().map(|name| &**name), both.proof()), (Some("reader"), "token"));
    assert_eq!(both.certificate(), Some(("alice", "ab12")));
    assert!(allow(&trust, &both, "a.B/C", Right::Query).is_ok());
    assert!(allow(&trust, &Caller::default(), "news.News/Read", Right::Query).is_ok());
    assert!(allow(&trust, &caller, "a.B/C", Right::Query).is_err(), "what is refused is counted elsewhere");
    assert_eq!(trust.figures().admitted, [("nothing", 1), ("token", 1), ("certificate", 0)]);
    for useless in [expired, certificate("anonymous", &[]), certificate("cn", &["lockstep://db/node/nodeA"])] {
        let caller = trust.identify(Authorization::Value(value.as_bytes()), Some(&useless), SystemTime::now()).unwrap();
        assert_eq!((caller.name().map(|name| &**name), caller.certificate()), (Some("reader"), None));
    }
}

#[test]
fn a_bad_new_file_changes_nothing_and_a_good_one_is_taken() {
    let place = Place::new();
    let trust = place.trust();
    let reader = identify(&trust, &place.token("reader", &[], HOUR)).unwrap();
    let may_read = |trust: &Trust| allow(trust, &reader, "a.B/C", Right::Query).is_ok();
    std::fs::write(place.path("policy"), "[[grant]]\nsubject = 7").unwrap();
    settled(&trust);
    trust.look();
    assert!(may_read(&trust));
    assert_eq!(trust.figures().reloads_refused, [("policy", 1), ("keys", 0)]);
    assert!(trust.figures().policy_refused && !trust.figures().keys_refused);
    std::fs::write(place.path("policy"), "").unwrap();
    settled(&trust);
    assert!(may_read(&trust), "a file that was emptied locks nobody out");
    assert_eq!(trust.figures().reloads_refused, [("policy", 2), ("keys", 0)]);
    std::fs::write(place.path("policy"), POLICY.replace("\"reader\"\nrole", "\"writer\"\nrole")).unwrap();
    settled(&trust);
    assert!(!may_read(&trust), "its grant is gone");
    assert!(!trust.figures().policy_refused, "the file was mended");
    std::fs::write(place.path("jwks"), new_key().unwrap().jwks).unwrap();
    settled(&trust);
    assert!(identify(&trust, &place.token("reader", &[], HOUR)).unwrap_err().text.contains("not signed by a key"));
    assert_eq!(trust.figures().reloads, [("policy", 1), ("keys", 1)]);
}

#[test]
fn a_bad_file_at_the_start_names_its_flag_and_its_place() {
    let place = Place::new();
    std::fs::write(place.path("policy"), "[[grant]]\nrolle = 1").unwrap();
    let error = Trust::open(place.settings()).unwrap_err();
    assert_eq!(error.flag, "--policy");
    assert!(error.problem.contains("policy: line 2, column 1: unknown field `rolle`"), "{}", error.problem);
    std::fs::write(place.path("policy"), "# nobody\n").unwrap();
    let error = Trust::open(place.settings()).unwrap_err();
    assert!(error.flag == "--policy" && error.problem.contains("it has no [[grant]]"), "{error:?}");
    std::fs::write(place.path("policy"), POLICY).unwrap();
    std::fs::write(place.path("jwks"), "{}").unwrap();
    assert_eq!(Trust::open(place.settings()).unwrap_err().flag, "--token_jwks");
}

#[tokio::test]
async fn whoever_loses_a_right_is_told_at_once() {
    let place = Place::new();
    let trust = place.trust();
    let start = |token: &str, method: &str| {
        let caller = identify(&trust, token).unwrap();
        tokio::spawn(trust.clone().revoked(caller, method.into(), Right::Query))
    };
    let reader = start(&place.token("reader", &[], HOUR), "a.B/C");
    let by_role = start(&place.token("other", &[Role::Reader], HOUR), "a.B/C");
    tokio::task::yield_now().await;
    std::fs::write(place.path("policy"), POLICY.replace("\"reader\"\nrole", "\"writer\"\nrole")).unwrap();
    settled(&trust);
    let refusal = reader.await.unwrap();
    assert!(refusal.reason == Reason::Denied && refusal.text.contains("reader may not call a.B/C"), "{refusal:?}");
    assert!(!by_role.is_finished());
    std::fs::write(place.path("jwks"), new_key().unwrap().jwks).unwrap();
    settled(&trust);
    let refusal = by_role.await.unwrap();
    assert!(refusal.reason == Reason::Unauthenticated && refusal.text.contains("no longer trusted"), "{refusal:?}");
}

#[tokio::test]
async fn a_right_ends_with_its_certificate() {
    let place = Place::new();
    let trust = place.trust();
    let soon = Certificate {
        not_after: SystemTime::now() + Duration::from_millis(200),
        ..(*certificate("reader", &[])).clone()
    };
    let caller = trust.identify(Authorization::Nothing, Some(&Arc::new(soon)), SystemTime::now()).unwrap();
    let refusal = trust.clone().revoked(caller, "a.B/C".into(), Right::Query).await;
    assert_eq!(refusal.text, "the certificate of this call has expired");
}

#[test]
fn no_token_is_in_what_is_shown_for_debugging_or_written() {
    let place = Place::new();
    let trust = place.trust();
    let token = place.token("reader", &[Role::Admin], HOUR);
    let caller = identify(&trust, &token).unwrap();
    let refusal = identify(&trust, &format!("{token}x")).unwrap_err();
    let line =
        AuditLine { caller: &caller, method: "a.B/C", arguments: &[], from: None, code: "OK", text: &refusal.text };
    trust.audit(&line);
    trust.audit_refused(&line, Reason::Denied);
    trust.flush();
    let written = std::fs::read_to_string(place.path("audit")).unwrap();
    let shown = format!("{trust:?} {caller:?} {refusal:?} {written}");
    assert!(shown.contains("reader") && written.lines().count() == 2);
    for part in token.split('.') {
        assert!(!shown.contains(part), "{part}");
    }
    assert_eq!(trust.figures().refused, [("unauthenticated", 0), ("denied", 1), ("quota", 0)]);
}

#[test]
fn the_audit_tells_what_a_refused_caller_has_shown() {
    let place = Place::new();
    let trust = place.trust();
    let other = new_key().unwrap();
    let token = NewToken {
        subject: "alice".into(),
        roles: Vec::new(),
        ttl: HOUR,
        issuer: None,
        audience: None,
        kid: Some(other.kid.clone()),
    };
    let foreign = format!("Bearer {}", token.sign(&other.pem, SystemTime::now()).unwrap());
    let node = certificate("cn", &["lockstep://db/node/nodeA"]);
    let rows = [
        (Authorization::Value(foreign.as_bytes()), None),
        (Authorization::Nothing, Some(&node)),
        (Authorization::Value(b"Bearer a secret"), None),
    ];
    for (shown, certificate) in rows {
        let (caller, refusal) = trust.identify(shown, certificate, SystemTime::now()).unwrap_err();
        let text = &refusal.text;
        let line = AuditLine { caller: &caller, method: "a.B/C", arguments: &[], from: None, code: "NO", text };
        trust.audit_refused(&line, refusal.reason);
    }
    trust.flush();
    let written = std::fs::read_to_string(place.path("audit")).unwrap();
    let lines: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["who"] == "anonymous" && line["proof"] == "nothing"), "{written}");
    assert_eq!(lines[0]["unproven_subject"], "alice");
    assert_eq!(lines[0]["unproven_kid"], other.kid.as_str());
    assert_eq!(lines[1]["unproven_certificate"], "ab12");
    assert_eq!(lines[1]["unproven_certificate_names"], "lockstep://db/node/nodeA, host.example");
    assert!(lines[2].get("unproven_subject").is_none() && !written.contains("a secret"), "{written}");
}

/// What the gate costs a call. It prints the time; only the reason for it is checked.
#[test]
fn a_token_is_checked_once_and_then_remembered() {
    let place = Place::new();
    let trust = place.trust();
    let token = place.token("shop-7", &[Role::Writer], HOUR);
    let certificate = certificate("alice", &[]);
    let value = format!("Bearer {token}");
    let rounds = 10_000;
    let per_call = |shown: Authorization<'_>, certificate: Option<&Arc<Certificate>>| {
        let start = Instant::now();
        for _ in 0..rounds {
            let caller = trust.identify(shown, certificate, SystemTime::now()).unwrap();
            // Allowed or not, it costs the same.
            let _verdict = trust.allow(&caller, "orders.v1.Orders/List", Right::Query, Instant::now());
        }
        start.elapsed() / rounds
    };
    println!("a call with a token: {:?}", per_call(Authorization::Value(value.as_bytes()), None));
    println!("a call with a certificate: {:?}", per_call(Authorization::Nothing, Some(&certificate)));
    println!("a call with neither: {:?}", per_call(Authorization::Nothing, None));
    assert_eq!(trust.figures().tokens_remembered, 1);
    let start = Instant::now();
    for _ in 0..100 {
        let keys = Keys::parse(&place.key.jwks).unwrap();
        assert_eq!(check_token(&token, &keys, &TokenRules::default(), SystemTime::now()).as_deref(), Ok("shop-7"));
    }
    println!("a token that is not remembered: {:?}", start.elapsed() / 100);
}
