//! The public keys that tokens are checked with, from a JWKS or from PEM. Checks no token.
//!
//! - Only keys for EdDSA (Ed25519), ES256 and RS256 are kept. A set of an identity provider may
//!   have others, which are left out.
//! - A file with a private key or a secret is refused: it must not lie where it is not needed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde_json::{Map, Value};

/// Most bytes of a file with keys.
pub const KEYS_BYTES_MAX: usize = 1 << 20;
/// Most keys of a file. A token that names no key is tried with each.
const KEYS_MAX: usize = 64;
/// Bytes of an Ed25519 key, and of each coordinate of a P-256 key.
const COORDINATE_BYTES: usize = 32;
/// Bytes of a P-256 key as a point.
const POINT_BYTES: usize = 65;
/// Fewest bytes of an RSA modulus. Shorter keys verify nothing.
const MODULUS_BYTES_MIN: usize = 256;

const PEM_BEGIN: &str = "-----BEGIN ";

/// Identifies a key by its content.
pub(super) type KeyId = [u8; 32];

/// A key for one algorithm.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys of a file.
#[derive(Clone, Debug, Default)]
pub struct Keys(pub(super) Vec<Key>);

impl Keys {
    /// Reads a JWKS, one JWK, or public keys in PEM. An error says why there is none.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let keys = if text.contains(PEM_BEGIN) { from_pem(text)? } else { from_jwks(text)? };
        match keys.len() {
            0 => Err("it has no public key that can be used: Ed25519 for EdDSA, P-256 for ES256, RSA for RS256".into()),
            1..=KEYS_MAX => Ok(Keys(keys)),
            many => Err(format!("it has {many} keys, and {KEYS_MAX} are the most")),
        }
    }

    /// Returns the keys that may have signed a token: those of its `kid`, or else those that have
    /// none.
    pub(super) fn candidates(&self, algorithm: Algorithm, kid: Option<&str>) -> Vec<&Key> {
        let fitting = || self.0.iter().filter(|key| key.algorithm == algorithm);
        let Some(kid) = kid else { return fitting().collect() };
        let named: Vec<&Key> = fitting().filter(|key| key.kid.as_deref() == Some(kid)).collect();
        if named.is_empty() { fitting().filter(|key| key.kid.is_none()).collect() } else { named }
    }

    pub(super) fn has(&self, id: &KeyId) -> bool {
        self.0.iter().any(|key| key.id == *id)
    }
}

impl Key {
    fn new(kid: Option<String>, algorithm: Algorithm, key: DecodingKey) -> Key {
        let mut hash = blake3::Hasher::new();
        hash.update(format!("{algorithm:?}\0").as_bytes());
        match key.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => {
                hash.update(bytes);
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                hash.update(n).update(e);
            }
        }
        Key { id: *hash.finalize().as_bytes(), kid, algorithm, key }
    }
}

fn from_jwks(text: &str) -> Result<Vec<Key>, String> {
    // The library's own words would show a part of the file.
    let json: Value = serde_json::from_str(text)
        .map_err(|error| format!("line {}, column {}: it is neither JSON nor PEM", error.line(), error.column()))?;
    let list = match &json {
        Value::Object(set) if set.contains_key("kty") => std::slice::from_ref(&json),
        Value::Object(set) => match set.get("keys") {
            Some(Value::Array(keys)) => keys,
            _ => return Err("it has no list \"keys\"".into()),
        },
        _ => return Err("it is no JSON object with a list \"keys\"".into()),
    };
    let mut keys = Vec::new();
    for (at, jwk) in list.iter().enumerate() {
        let number = at + 1;
        let jwk = jwk.as_object().ok_or_else(|| format!("key {number} is no JSON object"))?;
        if ["d", "k", "p", "q"].iter().any(|part| jwk.contains_key(*part)) {
            return Err(format!("key {number} is private or a secret; only public keys belong here"));
        }
        keys.extend(from_jwk(jwk).map_err(|problem| format!("key {number}: {problem}"))?);
    }
    Ok(keys)
}

/// Returns the key, or `None` if it is for another use or algorithm.
fn from_jwk(jwk: &Map<String, Value>) -> Result<Option<Key>, String> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return Ok(None);
    }
    let part = |name: &str| {
        let encoded = text(name).ok_or_else(|| format!("it has no text {name:?}"))?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| format!("{name:?} is no base64url"))?;
        Ok::<_, String>(bytes)
    };
    let sized = |name: &str| {
        let bytes = part(name)?;
        let is_right = bytes.len() == COORDINATE_BYTES;
        is_right.then_some(bytes).ok_or_else(|| format!("{name:?} has not {COORDINATE_BYTES} bytes"))
    };
    let (algorithm, key) = match (text("kty"), text("crv")) {
        (Some("OKP"), Some("Ed25519")) => (Algorithm::EdDSA, DecodingKey::from_ed_der(&sized("x")?)),
        (Some("EC"), Some("P-256")) => {
            let point = [&[4], &sized("x")?[..], &sized("y")?[..]].concat();
            (Algorithm::ES256, DecodingKey::from_ec_der(&point))
        }
        (Some("RSA"), _) => {
            let modulus = part("n")?;
            if modulus.len() < MODULUS_BYTES_MIN {
                return Err("an RSA key has at least 2048 bits".into());
            }
            (Algorithm::RS256, DecodingKey::from_rsa_raw_components(&modulus, &part("e")?))
        }
        (Some(_), _) => return Ok(None),
        (None, _) => return Err("it has no text \"kty\"".into()),
    };
    let is_for_another = text("alg").is_some_and(|named| {
        // RFC 9864 gives the curve's own name to what EdDSA means here.
        named.parse().ok() != Some(algorithm) && !(named == "Ed25519" && algorithm == Algorithm::EdDSA)
    });
    Ok((!is_for_another).then(|| Key::new(text("kid").map(str::to_owned), algorithm, key)))
}

fn from_pem(text: &str) -> Result<Vec<Key>, String> {
    let begins = text.match_indices(PEM_BEGIN).map(|(at, _)| at);
    let ends = begins.clone().skip(1).chain([text.len()]);
    begins.zip(ends).enumerate().map(|(at, (begin, end))| from_block(at + 1, &text[begin..end])).collect()
}

fn from_block(number: usize, pem: &str) -> Result<Key, String> {
    let label = pem[PEM_BEGIN.len()..].split("-----").next().unwrap_or_default();
    if label.contains("PRIVATE") {
        return Err(format!("key {number} is private; only public keys belong here"));
    }
    if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY") {
        return Err(format!("part {number} of the PEM is no PUBLIC KEY"));
    }
    if let Ok(key) = DecodingKey::from_ed_pem(pem.as_bytes()) {
        return Ok(Key::new(None, Algorithm::EdDSA, key));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem.as_bytes()) {
        let is_p256 = key.try_get_as_bytes().is_ok_and(|point| point.len() == POINT_BYTES);
        let refusal = || format!("key {number} is of another curve than P-256");
        return is_p256.then(|| Key::new(None, Algorithm::ES256, key)).ok_or_else(refusal);
    }
    match DecodingKey::from_rsa_pem(pem.as_bytes()) {
        Ok(key) => Ok(Key::new(None, Algorithm::RS256, key)),
        Err(_) => Err(format!("key {number} cannot be read as an Ed25519, P-256 or RSA key")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"one","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn set(keys: &[&str]) -> String {
        format!("{{\"keys\":[{}]}}", keys.join(","))
    }

    #[test]
    fn keys_of_other_kinds_are_left_out() {
        let encryption = ED.replace("\"kid\"", "\"use\":\"enc\",\"kid\"");
        let another = r#"{"kty":"EC","crv":"P-384","x":"","y":""}"#;
        let pss = ED.replace("\"kid\"", "\"alg\":\"PS256\",\"kid\"");
        let keys = Keys::parse(&set(&[&encryption, another, ED, &pss])).unwrap();
        assert_eq!(keys.0.len(), 1);
        assert_eq!(keys.0[0].kid.as_deref(), Some("one"));
        let new_name = ED.replace("\"kid\"", "\"alg\":\"Ed25519\",\"kid\"");
        assert!(Keys::parse(&new_name).unwrap().has(&keys.0[0].id), "one JWK is a set, too");
    }

    #[test]
    fn a_token_that_names_a_key_is_tried_with_that_key() {
        let other = ED.replace("one", "two").replace("11q", "12q");
        let keys = Keys::parse(&set(&[ED, &other])).unwrap();
        let kids =
            |kid| keys.candidates(Algorithm::EdDSA, kid).into_iter().map(|key| key.kid.clone()).collect::<Vec<_>>();
        assert_eq!(kids(Some("two")), [Some("two".to_owned())]);
        assert_eq!(kids(None).len(), 2);
        assert!(kids(Some("three")).is_empty());
        assert!(keys.candidates(Algorithm::ES256, None).is_empty());
    }

    #[test]
    fn what_is_no_set_of_public_keys_is_refused_in_words() {
        let private = ED.replace("\"kid\"", "\"d\":\"AAAA\",\"kid\"");
        let short = ED.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "11qY");
        let odd = ED.replace("11qY", "1 qY");
        let rows = [
            ("", "line 1, column 0: it is neither JSON nor PEM"),
            ("{}", "it has no list \"keys\""),
            ("[]", "it is no JSON object"),
            ("{\"keys\":[]}", "it has no public key that can be used"),
            ("{\"keys\":[1]}", "key 1 is no JSON object"),
            ("{\"keys\":[{}]}", "key 1: it has no text \"kty\""),
            (&set(&[ED, &private]), "key 2 is private or a secret"),
            (&set(&[r#"{"kty":"oct","k":"c2VjcmV0"}"#]), "key 1 is private or a secret"),
            (&set(&[&short]), "key 1: \"x\" has not 32 bytes"),
            (&set(&[&odd]), "key 1: \"x\" is no base64url"),
            (&set(&[r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#]), "key 1: an RSA key has at least 2048 bits"),
            ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----", "key 1 is private"),
            ("-----BEGIN CERTIFICATE-----", "part 1 of the PEM is no PUBLIC KEY"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "key 1 cannot be read"),
        ];
        for (text, expected) in rows {
            let error = Keys::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text in ".{0,200}", part in "[A-Za-z0-9_-]{0,60}") {
            drop(Keys::parse(&text));
            drop(Keys::parse(&ED.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", &part)));
            drop(Keys::parse(&format!("-----BEGIN PUBLIC KEY-----\n{part}\n-----END PUBLIC KEY-----")));
        }
    }
}
