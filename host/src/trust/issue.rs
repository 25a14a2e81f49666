//! Makes keys and tokens, for those who have no identity provider, and shows what stands in a
//! token. A node never does this.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::roles::Role;
use super::tokens::{SUBJECT_BYTES_MAX, is_name};

/// Begin of an Ed25519 key in PKCS#8. Its 32 secret bytes follow (RFC 8410).
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// Characters in a line of PEM.
const PEM_LINE: usize = 64;

/// What stands in a new token.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Whom it names.
    pub subject: String,
    /// The roles that it gives.
    pub roles: Vec<Role>,
    /// How long it is good.
    pub ttl: Duration,
    /// Its issuer.
    pub issuer: Option<String>,
    /// Whom it is for.
    pub audience: Option<String>,
    /// The name of the key.
    pub kid: Option<String>,
}

impl NewToken {
    /// Signs it with a private key in PEM. An error says why that cannot be.
    pub fn sign(&self, pem: &str, now: SystemTime) -> Result<String, String> {
        if !is_name(&self.subject) {
            return Err(format!(
                "{:?} is no name for a subject: 1 to {SUBJECT_BYTES_MAX} bytes, no control character, and not `anonymous`",
                self.subject
            ));
        }
        let (algorithm, key) = private_key(pem)?;
        let header = Header { kid: self.kid.clone(), ..Header::new(algorithm) };
        let token = jsonwebtoken::encode(&header, &self.claims(now), &key);
        token.map_err(|error| {
            format!("the key cannot sign: {error}; it must be Ed25519, P-256, or RSA of at least 2048 bits")
        })
    }

    fn claims(&self, now: SystemTime) -> Value {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut claims = Map::new();
        claims.insert("sub".into(), json!(self.subject));
        claims.insert("iat".into(), json!(now));
        claims.insert("exp".into(), json!(now.saturating_add(self.ttl.as_secs())));
        let texts = [("iss", &self.issuer), ("aud", &self.audience)];
        claims.extend(texts.into_iter().filter_map(|(name, text)| Some((name.into(), json!(text.as_ref()?)))));
        let roles: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        match roles.as_slice() {
            [] => {}
            [one] => drop(claims.insert("lockstep_role".into(), json!(one))),
            more => drop(claims.insert("lockstep_role".into(), json!(more))),
        }
        Value::Object(claims)
    }
}

fn private_key(pem: &str) -> Result<(Algorithm, EncodingKey), String> {
    let bytes = pem.as_bytes();
    if pem.contains("BEGIN EC PRIVATE KEY") {
        return Err(
            "the key is in the older format of EC keys; `openssl pkcs8 -topk8 -nocrypt` turns it into PKCS#8".into()
        );
    }
    if pem.contains("ENCRYPTED") {
        return Err("the key is encrypted; `openssl pkcs8 -nocrypt` turns it into one that is not".into());
    }
    if !pem.contains("PRIVATE KEY-----") {
        return Err("it holds no private key in PEM (`-----BEGIN PRIVATE KEY-----`)".into());
    }
    let ed = EncodingKey::from_ed_pem(bytes).map(|key| (Algorithm::EdDSA, key));
    let ec = || EncodingKey::from_ec_pem(bytes).map(|key| (Algorithm::ES256, key));
    let rsa = || EncodingKey::from_rsa_pem(bytes).map(|key| (Algorithm::RS256, key));
    ed.or_else(|_| ec()).or_else(|_| rsa()).map_err(|_| "it holds no Ed25519, P-256 or RSA key".into())
}

/// A new private key in PEM, and the JWKS with its public key.
pub struct NewKey {
    /// The private key.
    pub pem: String,
    /// The public key.
    pub jwks: String,
    /// The name of the key in the JWKS.
    pub kid: String,
}

/// Makes an Ed25519 key.
pub fn new_key() -> Result<NewKey, String> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| format!("the system gives no random bytes: {error}"))?;
    let pkcs8 = [&ED25519_PKCS8[..], &secret].concat();
    let jwk = Jwk::from_encoding_key(&EncodingKey::from_ed_der(&pkcs8), Algorithm::EdDSA);
    let mut jwk = jwk.map_err(|error| format!("the new key cannot be used: {error}"))?;
    let kid =
        jwk.thumbprint(ThumbprintHash::SHA256).map_err(|error| format!("the new key cannot be named: {error}"))?;
    jwk.common.key_id = Some(kid.clone());
    let jwks = format!("{:#}\n", json!({ "keys": [jwk] }));
    Ok(NewKey { pem: pem("PRIVATE KEY", &pkcs8), jwks, kid })
}

/// Returns the JWKS with one more public key, behind those that it has. An error says why that is
/// none that a node would take.
pub fn with_key(jwks: &str, key: &NewKey) -> Result<String, String> {
    Keys::parse(jwks)?;
    let mut set: Value = serde_json::from_str(jwks).map_err(|_| "it is no JWKS; keys in PEM cannot be added to")?;
    let added: Value = serde_json::from_str(&key.jwks).map_err(|error| format!("the new key is no JSON: {error}"))?;
    let added = added["keys"].as_array().cloned().unwrap_or_default();
    if set.get("keys").is_none() {
        // A single JWK is a set, too.
        set = json!({ "keys": [set] });
    }
    if let Some(keys) = set["keys"].as_array_mut() {
        keys.extend(added);
    }
    let text = format!("{set:#}\n");
    Keys::parse(&text)?;
    Ok(text)
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..encoded.len()).step_by(PEM_LINE).map(|at| &encoded[at..encoded.len().min(at + PEM_LINE)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Writes a file that is not there yet, with these rights from the first moment on.
pub fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes a file in one step, in place of the one that is there. Whoever reads it never finds half
/// of it.
pub fn write_over(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside: PathBuf = path.with_file_name(format!(".{name}.new"));
    match std::fs::remove_file(&beside) {
        // What an interrupted run has left may have other rights.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(&beside, text, mode)?;
    std::fs::rename(&beside, path)
}

/// What stands in a token. Nobody has checked it.
#[derive(Debug)]
pub struct Shown {
    /// The header and the claims.
    pub json: Value,
    /// When it expires, if it says so.
    pub expires: Option<SystemTime>,
}

/// Reads a token without checking it.
pub fn show(token: &str) -> Result<Shown, String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, _] = parts.as_slice() else {
        return Err("it is no JWT: that has three parts with dots between them".into());
    };
    let read = |what: &str, part: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| format!("the {what} is no base64url"))?;
        serde_json::from_slice::<Value>(&bytes).map_err(|_| format!("the {what} is no JSON"))
    };
    let (head, claims) = (read("header", head)?, read("second part", claims)?);
    let seconds = claims.get("exp").and_then(Value::as_f64).filter(|seconds| (0.0..1e11).contains(seconds));
    let expires = seconds.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds));
    Ok(Shown { json: json!({ "header": head, "claims": claims }), expires })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::keys::Keys;
    use super::super::tokens::{TokenRules, verify};
    use super::*;

    fn token() -> NewToken {
        NewToken {
            subject: "alice".into(),
            roles: vec![Role::Writer, Role::Operator],
            ttl: Duration::from_secs(3600),
            issuer: Some("me".into()),
            audience: Some("shop".into()),
            kid: None,
        }
    }

    #[test]
    fn what_one_signs_with_a_new_key_the_other_takes() {
        let (key, now) = (new_key().unwrap(), SystemTime::now());
        let keys = Keys::parse(&key.jwks).unwrap();
        let rules = TokenRules { issuer: Some("me".into()), audience: Some("shop".into()) };
        for kid in [None, Some(key.kid.clone())] {
            let signed = NewToken { kid, ..token() }.sign(&key.pem, now).unwrap();
            let bearer = verify(&signed, &keys, &rules, now).unwrap();
            assert_eq!(&*bearer.name, "alice");
            assert_eq!(bearer.roles, Roles::default().with(Role::Writer).with(Role::Operator));
            let shown = show(&signed).unwrap();
            assert_eq!(shown.json["claims"]["sub"], "alice");
            assert!(shown.expires.unwrap() > now);
        }
    }

    #[test]
    fn what_cannot_be_signed_says_why() {
        let key = new_key().unwrap();
        let error = NewToken { subject: "a\nb".into(), ..token() }.sign(&key.pem, SystemTime::now()).unwrap_err();
        assert!(error.contains("no name"), "{error}");
        let rows = [
            ("", "no private key in PEM"),
            ("-----BEGIN EC PRIVATE KEY-----", "openssl pkcs8 -topk8"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "encrypted"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "no Ed25519, P-256 or RSA key"),
        ];
        for (pem, expected) in rows {
            let error = token().sign(pem, SystemTime::now()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(show("a.b").is_err() && show("a.b.c").is_err());
    }

    #[test]
    fn a_key_is_added_behind_those_that_are_there() {
        let (first, second, now) = (new_key().unwrap(), new_key().unwrap(), SystemTime::now());
        let one: Value = serde_json::from_str(&first.jwks).unwrap();
        for before in [first.jwks.clone(), one["keys"][0].to_string()] {
            let keys = Keys::parse(&with_key(&before, &second).unwrap()).unwrap();
            for key in [&first, &second] {
                let token = NewToken { issuer: None, audience: None, ..token() }.sign(&key.pem, now).unwrap();
                assert!(verify(&token, &keys, &TokenRules::default(), now).is_ok());
            }
        }
        for text in ["", "{\"keys\":[]}", "-----BEGIN PUBLIC KEY-----"] {
            assert!(with_key(text, &second).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_is_replaced_with_its_rights() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("token");
        write_new(&path, "one", 0o644).unwrap();
        write_over(&path, "two", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_is_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        write_new(&path, "one", 0o600).unwrap();
        assert_eq!(write_new(&path, "two", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
    }

    use super::super::roles::Roles;
}
