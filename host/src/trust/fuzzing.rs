//! What the readers of policies, tokens and their keys promise, for the fuzz targets. The key that
//! signs here is known to everybody.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};

use super::keys::Keys;
use super::policy::Policy;
use super::roles::Right;
use super::shown::Authorization;
use super::tokens::{BadToken, LEEWAY, TOKEN_BYTES_MAX, TokenRules, is_name, verify};
use crate::pattern::Pattern;

/// An Ed25519 key in PKCS#8, in front of its 32 secret bytes.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Reads a policy, and asks it about each name in it. Names are the texts between quotation marks.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(error) => {
            let words = error.to_string();
            assert!(words.starts_with("line ") && !words.contains('\n'), "{words}");
            return;
        }
    };
    let nobody = Policy::default();
    for name in text.split('"').take(16) {
        for right in [Right::Query, Right::Command, Right::Administer] {
            let allowing = policy.allowing(Some(name), name, right);
            assert!(allowing.is_sorted() && allowing.iter().all(|number| *number < policy.grants.len()));
            assert!(nobody.allowing(Some(name), name, right).is_empty(), "no grant allows something");
        }
        pattern(name);
    }
}

/// A pattern matches the name that is written like it, and `*` matches everything.
fn pattern(name: &str) {
    assert!(Pattern::new(name).matches(name) && Pattern::new("*").matches(name));
    if let Some((before, behind)) = name.split_at_checked(name.len() / 2) {
        assert!(Pattern::new(format!("{before}*")).matches(name) && Pattern::new(format!("*{behind}")).matches(name));
    }
}

/// Reads a file with keys.
pub fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(keys) = Keys::parse(text) {
        assert!(!keys.0.is_empty(), "a set of no keys is no error");
        for key in &keys.0 {
            assert!(
                keys.has(&key.id) && matches!(key.algorithm, Algorithm::EdDSA | Algorithm::ES256 | Algorithm::RS256)
            );
            assert!(!keys.candidates(key.algorithm, key.kid.as_deref()).is_empty(), "a key that no token can name");
        }
    }
}

/// Reads a token, or what shows one. The first byte says which, and whether it is signed.
pub fn token(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, token)) => drop(std::str::from_utf8(token).map(|token| check(token, false))),
        Some((1, parts)) => {
            if let Some(token) = signed(parts) {
                check(&token, true);
            }
        }
        Some((2, value)) => authorization(value),
        _ => {}
    }
}

/// Signs any two parts, a line feed between them.
fn signed(parts: &[u8]) -> Option<String> {
    let at = parts.iter().position(|byte| *byte == b'\n')?;
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", part(&parts[..at]), part(&parts[at + 1..]));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key(), Algorithm::EdDSA);
    Some(format!("{message}.{}", signature.expect("the key can sign")))
}

fn key() -> EncodingKey {
    EncodingKey::from_ed_der(&[&PKCS8[..], &[7; 32]].concat())
}

/// Whoever is let in has a name, and a moment at which that ends.
fn check(token: &str, is_signed: bool) {
    let jwk = Jwk::from_encoding_key(&key(), Algorithm::EdDSA).expect("the key has a public half");
    let keys = serde_json::to_string(&jwk).expect("a key is JSON");
    let keys = Keys::parse(&keys).expect("the key can be used");
    let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let rules = [TokenRules::default(), TokenRules { issuer: Some("i".into()), audience: Some("a".into()) }];
    let [any, strict] = rules.map(|rules| verify(token, &keys, &rules, now));
    let is_for_others = any == Err(BadToken::AnyAudience);
    assert!(any.is_ok() || strict.is_err() || is_for_others, "more rules let more in");
    let Ok(bearer) = any.or(strict) else { return };
    assert!(is_signed || token.ends_with(signature_of(token)), "a token without a signature is taken");
    assert!(token.len() <= TOKEN_BYTES_MAX && is_name(&bearer.name) && bearer.until > now && keys.has(&bearer.key));
    let at = |moment: SystemTime| verify(token, &keys, &TokenRules::default(), moment).is_ok();
    assert!(!at(bearer.until) && !at(bearer.until + LEEWAY), "a token that has ended is taken");
}

/// Returns the signature that belongs to a token.
fn signature_of(token: &str) -> &str {
    let (message, signature) = token.rsplit_once('.').unwrap_or_default();
    let wanted = jsonwebtoken::crypto::sign(message.as_bytes(), &key(), Algorithm::EdDSA).expect("the key can sign");
    if wanted == signature { signature } else { "another signature" }
}

fn authorization(value: &[u8]) {
    if let Ok(token) = Authorization::Value(value).token() {
        let token = token.expect("a value shows a token");
        assert!(token == token.trim() && token.len() < value.len());
    }
}
