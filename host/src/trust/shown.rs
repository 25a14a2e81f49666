//! What a call shows of its caller: an `authorization`, and the certificate of its connection. What
//! it is worth is decided elsewhere.

use std::sync::Arc;
use std::time::SystemTime;

use super::caller::{Certified, Unproven};
use super::tokens::{claimed, is_name};
use crate::tls::Certificate;

/// The `authorization` of a call.
#[derive(Clone, Copy, Debug)]
pub enum Authorization<'a> {
    /// There is none.
    Nothing,
    /// Its value.
    Value(&'a [u8]),
    /// There is more than one.
    Many,
}

impl<'a> Authorization<'a> {
    /// Returns the token, if there is one, or why it cannot be taken for one.
    pub(super) fn token(self) -> Result<Option<&'a str>, &'static str> {
        match self {
            Authorization::Nothing => Ok(None),
            Authorization::Many => Err("there is more than one `authorization`; show one token"),
            Authorization::Value(value) => {
                bearer_token(value).map(Some).ok_or("the `authorization` is not `Bearer`, a space and a token")
            }
        }
    }
}

fn bearer_token(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Returns the holder of a client certificate, or why nobody can be it. `cluster` is the name of
/// this node's own; empty if it has none.
pub(super) fn certified(
    certificate: &Arc<Certificate>,
    cluster: &str,
    now: SystemTime,
) -> Result<Certified, &'static str> {
    if now >= certificate.not_after {
        return Err("the client certificate has expired");
    }
    if certificate.is_of_node() {
        return Err("the certificate is of a node, and a node is no client: show that of a client, or a token");
    }
    let name = certificate.subject(cluster);
    if !is_name(&name) {
        return Err(
            "the client certificate has no usable name: a URI lockstep://<cluster>/client/<name> of this cluster, or, without a URI of lockstep, a common name or a DNS name",
        );
    }
    Ok(Certified { name: name.into(), certificate: certificate.clone() })
}

/// Returns what a refused call has shown, for the audit. `unfit` is a certificate that names no
/// client.
pub(super) fn unproven(authorization: Authorization<'_>, unfit: Option<&Arc<Certificate>>) -> Unproven {
    let token = authorization.token().ok().flatten();
    let (kid, subject) = token.map(claimed).unwrap_or_default();
    let certificate = unfit.map(|unfit| (unfit.describe(), unfit.fingerprint.clone()));
    Unproven { subject, kid, certificate }
}
