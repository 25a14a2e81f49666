//! Checks a bearer token: a JWT that one of the known keys has signed, for this node, now. It has
//! no clock and remembers nothing. No word of a refusal comes from the token: it could be a secret.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::keys::{Key, KeyId, Keys};
use super::policy::ANONYMOUS;
use super::roles::{Role, Roles};

/// Most bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Most bytes of the name of a subject.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// By how much the clocks of an issuer and of this node may differ.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// What a token must be, beside signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// The issuer that it must name.
    pub issuer: Option<String>,
    /// The audience that it must name.
    pub audience: Option<String>,
}

impl TokenRules {
    /// Warns of what is not checked.
    pub(super) fn warn(&self) {
        if self.issuer.is_none() {
            tracing::warn!(
                "tokens of any issuer are taken if a key of --token_jwks has signed them: add --token_issuer"
            );
        }
        if self.audience.is_none() {
            tracing::warn!("tokens for an audience are refused, and those for none are taken: add --token_audience");
        }
    }
}

/// Who shows a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) name: Arc<str>,
    /// The roles that the token itself gives.
    pub(super) roles: Roles,
    /// The moment from which on the token is refused.
    pub(super) until: SystemTime,
    /// The key that has signed it.
    pub(super) key: KeyId,
}

/// Why a token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadToken {
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("the token is no JWT: three parts in base64url, the first and second of them JSON")]
    NoJwt,
    #[error("the token's header has `crit`: rules that this node does not know")]
    Critical,
    #[error("the token is signed by {0}; only EdDSA, ES256 and RS256 are taken")]
    Algorithm(&'static str),
    #[error("this node has no key for the token: of its algorithm, and with its `kid` if it names one")]
    NoKey,
    #[error("the token is not signed by a key that this node trusts")]
    Signature,
    #[error(
        "the token's claims are not what they must be: `sub` a text, `exp` and `nbf` numbers, `lockstep_role` a text or a list"
    )]
    Claims,
    #[error("the token has no `exp`, so it would be good for ever")]
    NoExpiry,
    #[error("the token has expired {} ago", whole(.0))]
    Expired(Duration),
    #[error("the token is good only in {}", whole(.0))]
    NotYet(Duration),
    #[error("the token is not of the issuer {0:?}")]
    Issuer(String),
    #[error("the token is not for the audience {0:?}")]
    Audience(String),
    #[error("the token is for an audience (`aud`), and this node was started without --token_audience")]
    AnyAudience,
    #[error("the token has no `sub`, so it names nobody")]
    NoSubject,
    #[error(
        "the token's `sub` is no name: it is longer than {SUBJECT_BYTES_MAX} bytes, has a control character, or is `{ANONYMOUS}`"
    )]
    Subject,
}

fn whole(duration: &Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    #[serde(default, rename = "crit", deserialize_with = "whatever_it_is")]
    is_critical: bool,
}

fn whatever_it_is<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    iss: Option<String>,
    aud: Option<OneOrMore>,
    exp: Option<f64>,
    nbf: Option<f64>,
    lockstep_role: Option<OneOrMore>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn as_slice(&self) -> &[String] {
        match self {
            OneOrMore::One(text) => std::slice::from_ref(text),
            OneOrMore::More(texts) => texts,
        }
    }
}

/// Returns who shows the token, or why it is refused.
pub(super) fn verify(token: &str, keys: &Keys, rules: &TokenRules, now: SystemTime) -> Result<Bearer, BadToken> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(BadToken::TooLong);
    }
    let head = head(token)?;
    if head.is_critical {
        return Err(BadToken::Critical);
    }
    let algorithm = algorithm(&head.alg)?;
    let candidates = keys.candidates(algorithm, head.kid.as_deref());
    if candidates.is_empty() {
        return Err(BadToken::NoKey);
    }
    for key in candidates {
        match signed(token, key) {
            Ok(claims) => return claims.read(rules, now, key.id),
            Err(BadToken::Signature) => {}
            Err(bad) => return Err(bad),
        }
    }
    Err(BadToken::Signature)
}

/// Returns `kid` and `sub` of a token that is refused, as far as it is a JWT. Nobody has checked
/// them.
pub(super) fn claimed(token: &str) -> (Option<String>, Option<String>) {
    #[derive(Deserialize)]
    struct Named {
        sub: Option<String>,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return (None, None);
    }
    // Where the header is none, the second part may be a secret.
    let Ok(head) = head(token) else { return (None, None) };
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let named = claims.and_then(|claims| serde_json::from_slice::<Named>(&claims).ok());
    (head.kid, named.and_then(|named| named.sub))
}

/// Returns whether a text can be the name of a subject.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= SUBJECT_BYTES_MAX && !name.chars().any(char::is_control) && name != ANONYMOUS
}

fn head(token: &str) -> Result<Head, BadToken> {
    let mut parts = token.split('.');
    let (Some(head), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(BadToken::NoJwt);
    };
    let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| BadToken::NoJwt)?;
    serde_json::from_slice(&head).map_err(|_| BadToken::NoJwt)
}

fn algorithm(name: &str) -> Result<Algorithm, BadToken> {
    match name {
        "EdDSA" => Ok(Algorithm::EdDSA),
        "ES256" => Ok(Algorithm::ES256),
        "RS256" => Ok(Algorithm::RS256),
        "HS256" | "HS384" | "HS512" => Err(BadToken::Algorithm("a shared secret (HS256, HS384, HS512)")),
        none if none.eq_ignore_ascii_case("none") => Err(BadToken::Algorithm("nobody (`none`)")),
        _ => Err(BadToken::Algorithm("another algorithm")),
    }
}

/// Returns the claims if this key has signed them. Their meaning is checked by [`Claims::read`].
fn signed(token: &str, key: &Key) -> Result<Claims, BadToken> {
    let mut validation = Validation::new(key.algorithm);
    validation.algorithms = vec![key.algorithm];
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
        Ok(decoded) => Ok(decoded.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::InvalidSignature | ErrorKind::Base64(_) => BadToken::Signature,
            ErrorKind::Json(_) | ErrorKind::InvalidClaimFormat(_) => BadToken::Claims,
            _ => BadToken::NoJwt,
        }),
    }
}

impl Claims {
    fn read(self, rules: &TokenRules, now: SystemTime, key: KeyId) -> Result<Bearer, BadToken> {
        if let Some(issuer) = rules.issuer.as_ref().filter(|issuer| self.iss.as_ref() != Some(issuer)) {
            return Err(BadToken::Issuer(issuer.clone()));
        }
        let names = |audience: &String| self.aud.as_ref().is_some_and(|named| named.as_slice().contains(audience));
        if let Some(audience) = rules.audience.as_ref().filter(|audience| !names(audience)) {
            return Err(BadToken::Audience(audience.clone()));
        }
        // RFC 7519, 4.1.3: whoever is not among them must refuse it.
        if rules.audience.is_none() && self.aud.is_some() {
            return Err(BadToken::AnyAudience);
        }
        let until = moment(self.exp.ok_or(BadToken::NoExpiry)?)? + LEEWAY;
        if now >= until {
            return Err(BadToken::Expired(now.duration_since(until).unwrap_or_default() + LEEWAY));
        }
        if let Some(begin) = self.nbf.map(moment).transpose()?
            && begin > now + LEEWAY
        {
            return Err(BadToken::NotYet(begin.duration_since(now).unwrap_or_default()));
        }
        let name = self.sub.filter(|name| !name.is_empty()).ok_or(BadToken::NoSubject)?;
        if !is_name(&name) {
            return Err(BadToken::Subject);
        }
        let named = self.lockstep_role.iter().flat_map(|roles| roles.as_slice());
        let roles = named.filter_map(|name| Role::named(name)).fold(Roles::default(), Roles::with);
        Ok(Bearer { name: name.into(), roles, until, key })
    }
}

/// Last second of a claim that is read as it stands. Far enough from where clocks overflow.
const SECONDS_MAX: f64 = 1e11;

fn moment(seconds: f64) -> Result<SystemTime, BadToken> {
    let since_1970 = Duration::try_from_secs_f64(seconds.clamp(0.0, SECONDS_MAX)).map_err(|_| BadToken::Claims)?;
    Ok(SystemTime::UNIX_EPOCH + since_1970)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tokens_tests.rs"]
mod tests;
