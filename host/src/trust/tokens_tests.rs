//! The table of tokens: what is taken, and what is refused in which words.

use std::sync::LazyLock;

use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use super::*;

const NOW_S: u64 = 1_790_000_000;

static ED: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate_for(&PKCS_ED25519).unwrap());
static OTHER_ED: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate_for(&PKCS_ED25519).unwrap());
static EC: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
static RSA: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap());

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S)
}

fn rules() -> TokenRules {
    TokenRules { issuer: Some("https://id.example".into()), audience: Some("lockstep".into()) }
}

/// The keys of the node: one of each algorithm.
fn keys() -> Keys {
    let pems = [&ED, &EC, &RSA].map(|key| key.public_key_pem());
    Keys::parse(&pems.concat()).unwrap()
}

fn claims() -> Value {
    json!({ "sub": "alice", "iss": "https://id.example", "aud": ["shop", "lockstep"], "exp": NOW_S + 600,
        "lockstep_role": "writer" })
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn signed_by(key: &KeyPair, algorithm: Algorithm, claims: &Value) -> String {
    let pem = key.serialize_pem();
    let key = match algorithm {
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
        Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
        _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
    };
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key.unwrap()).unwrap()
}

fn signed(claims: &Value) -> String {
    signed_by(&ED, Algorithm::EdDSA, claims)
}

fn unsigned(head: &Value, claims: &Value) -> String {
    let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}.", part(head), part(claims))
}

fn read(token: &str) -> Result<Bearer, BadToken> {
    verify(token, &keys(), &rules(), now())
}

#[test]
fn tokens_of_all_three_algorithms_are_taken() {
    for (key, algorithm) in [(&ED, Algorithm::EdDSA), (&EC, Algorithm::ES256), (&RSA, Algorithm::RS256)] {
        let bearer = read(&signed_by(key, algorithm, &claims())).unwrap();
        assert_eq!((&*bearer.name, bearer.roles), ("alice", Roles::default().with(Role::Writer)));
        assert_eq!(bearer.until, now() + Duration::from_secs(660));
        assert!(keys().has(&bearer.key));
    }
}

#[test]
fn roles_are_a_text_or_a_list_and_unknown_ones_give_nothing() {
    let roles = |value| read(&signed(&changed("lockstep_role", value))).unwrap().roles;
    let both = Roles::default().with(Role::Reader).with(Role::Admin);
    assert_eq!(roles(json!(["reader", "admin", "president"])), both);
    assert_eq!(roles(json!("president")), Roles::default());
    assert_eq!(roles(json!([])), Roles::default());
    assert_eq!(read(&signed(&without("lockstep_role"))).unwrap().roles, Roles::default());
}

#[test]
fn clocks_may_differ_by_a_minute() {
    for (name, value) in [("exp", json!(NOW_S - 59)), ("exp", json!(NOW_S as f64 - 59.5)), ("nbf", json!(NOW_S + 60))] {
        assert!(read(&signed(&changed(name, value.clone()))).is_ok(), "{name} {value}");
    }
    let loose = TokenRules::default();
    let mut claims = without("aud");
    assert!(verify(&signed(&claims), &keys(), &loose, now()).is_ok(), "no audience is asked for");
    claims.as_object_mut().unwrap().remove("iss");
    assert!(verify(&signed(&claims), &keys(), &loose, now()).is_ok(), "no issuer is asked for");
}

#[test]
fn a_token_for_an_audience_is_refused_by_a_node_that_has_none() {
    for audience in [json!("lockstep"), json!(["others"]), json!([])] {
        let token = signed(&changed("aud", audience));
        let refusal = verify(&token, &keys(), &TokenRules::default(), now()).unwrap_err();
        assert_eq!(refusal, BadToken::AnyAudience);
        assert!(refusal.to_string().contains("--token_audience"), "{refusal}");
    }
}

#[test]
fn bad_tokens_are_refused_in_words_that_have_nothing_of_the_token() {
    let good = signed(&claims());
    let [head, body, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let other_body = URL_SAFE_NO_PAD.encode(changed("sub", json!("root")).to_string());
    let secret = EncodingKey::from_secret(ED.public_key_pem().as_bytes()).unwrap();
    let raw_secret = EncodingKey::from_secret(ED.public_key_raw()).unwrap();
    let hs256 = |key| jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), key).unwrap();
    let with_kid = |kid: &str| {
        let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(
            &header,
            &claims(),
            &EncodingKey::from_ed_pem(OTHER_ED.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap()
    };
    let rows: Vec<(&str, String, &str)> = vec![
        ("forged signature", format!("{head}.{body}.{}", signature.replace('A', "B") + "AA"), "not signed by a key"),
        ("no signature", format!("{head}.{body}."), "not signed by a key"),
        ("other claims", format!("{head}.{other_body}.{signature}"), "not signed by a key"),
        ("another key", signed_by(&OTHER_ED, Algorithm::EdDSA, &claims()), "not signed by a key"),
        ("another key, named", with_kid("one"), "not signed by a key"),
        ("alg none", unsigned(&json!({"alg": "none"}), &claims()), "signed by nobody"),
        ("alg nOnE", unsigned(&json!({"alg": "nOnE"}), &claims()), "signed by nobody"),
        (
            "alg none, signed",
            format!("{}{signature}", unsigned(&json!({"alg": "none"}), &claims())),
            "signed by nobody",
        ),
        ("the public key as a secret", hs256(&secret), "a shared secret"),
        ("its bytes as a secret", hs256(&raw_secret), "a shared secret"),
        ("PS256", unsigned(&json!({"alg": "PS256"}), &claims()), "another algorithm"),
        ("the key of another algorithm", unsigned(&json!({"alg": "RS256"}), &claims()) + signature, "not signed by"),
        ("expired", signed(&changed("exp", json!(NOW_S - 61))), "has expired 1m 1s ago"),
        ("not yet", signed(&changed("nbf", json!(NOW_S + 120))), "good only in 2m"),
        ("no exp", signed(&without("exp")), "has no `exp`"),
        ("exp as a text", signed(&changed("exp", json!("tomorrow"))), "claims are not what they must be"),
        ("exp below zero", signed(&changed("exp", json!(-1e300))), "has expired"),
        ("another audience", signed(&changed("aud", json!("others"))), "not for the audience \"lockstep\""),
        ("no audience", signed(&without("aud")), "not for the audience"),
        (
            "another issuer",
            signed(&changed("iss", json!("https://evil.example"))),
            "not of the issuer \"https://id.example\"",
        ),
        ("no issuer", signed(&without("iss")), "not of the issuer"),
        ("no sub", signed(&without("sub")), "has no `sub`"),
        ("empty sub", signed(&changed("sub", json!(""))), "has no `sub`"),
        ("sub as a number", signed(&changed("sub", json!(7))), "claims are not what they must be"),
        ("long sub", signed(&changed("sub", json!("a".repeat(257)))), "`sub` is no name"),
        ("sub with a line break", signed(&changed("sub", json!("a\nb"))), "`sub` is no name"),
        ("sub anonymous", signed(&changed("sub", json!("anonymous"))), "`sub` is no name"),
        ("oversize", signed(&changed("padding", json!("x".repeat(TOKEN_BYTES_MAX)))), "longer than 8192 bytes"),
        ("two parts", format!("{head}.{body}"), "is no JWT"),
        ("four parts", format!("{good}.x"), "is no JWT"),
        ("empty", String::new(), "is no JWT"),
        ("no base64", format!("!{good}"), "is no JWT"),
        (
            "a critical extension",
            unsigned(&json!({"alg": "EdDSA", "crit": ["x"]}), &claims()) + signature,
            "has `crit`",
        ),
        ("a critical nothing", unsigned(&json!({"alg": "EdDSA", "crit": null}), &claims()) + signature, "has `crit`"),
    ];
    for (what, token, expected) in rows {
        let text = read(&token).expect_err(what).to_string();
        println!("{what}: {text}");
        assert!(text.contains(expected), "{what}: {text}");
        let parts = token.split('.').filter(|part| part.len() > 8);
        assert!(parts.into_iter().all(|part| !text.contains(part)), "{what}: {text}");
        assert!(!text.contains("evil") && !text.contains("others"), "{what}: {text}");
    }
}

#[test]
fn a_node_without_a_key_of_the_algorithm_says_so() {
    let keys = Keys::parse(&EC.public_key_pem()).unwrap();
    assert_eq!(verify(&signed(&claims()), &keys, &rules(), now()), Err(BadToken::NoKey));
}

proptest! {
    #[test]
    fn foreign_tokens_never_panic(token in ".{0,200}", head in ".{0,60}", body in ".{0,60}") {
        prop_assert!(read(&token).is_err());
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.{}", part(&head), part(&body), part(&head));
        prop_assert!(read(&token).is_err());
    }
}
