//! Who makes a call, and how that is proven: by a token, by the certificate of the connection, or
//! not at all.

use std::sync::Arc;
use std::time::SystemTime;

use super::tokens::Bearer;
use crate::tls::Certificate;

/// How a name is proven, as [`Caller::proof_number`] numbers them.
pub(super) const PROOFS: [&str; 3] = ["nothing", "token", "certificate"];

/// Who makes a call. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    pub(super) bearer: Option<Arc<Bearer>>,
    pub(super) certified: Option<Certified>,
    /// What was shown and not taken, for the audit alone.
    pub(super) unproven: Option<Arc<Unproven>>,
}

/// What a refused call has shown. Nobody has proven a word of it, and it counts for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unproven {
    /// The `sub` of a token.
    pub(super) subject: Option<String>,
    /// The `kid` of a token.
    pub(super) kid: Option<String>,
    /// The names in a certificate that names no client, and its fingerprint.
    pub(super) certificate: Option<(String, String)>,
}

/// The holder of a client certificate.
#[derive(Clone, Debug)]
pub(super) struct Certified {
    pub(super) name: Arc<str>,
    pub(super) certificate: Arc<Certificate>,
}

impl Caller {
    /// Returns the name of the subject; `None` for whoever showed nothing. A token counts more than
    /// a certificate.
    pub fn name(&self) -> Option<&Arc<str>> {
        let certified = self.certified.as_ref().map(|certified| &certified.name);
        self.bearer.as_ref().map(|bearer| &bearer.name).or(certified)
    }

    /// Returns how the name is proven: `token`, `certificate`, or `nothing`.
    pub fn proof(&self) -> &'static str {
        PROOFS[self.proof_number()]
    }

    /// Returns the number of the proof in [`PROOFS`].
    pub(super) fn proof_number(&self) -> usize {
        match (&self.bearer, &self.certified) {
            (None, None) => 0,
            (Some(_), _) => 1,
            (None, Some(_)) => 2,
        }
    }

    /// Returns the name in the certificate, and the certificate's fingerprint.
    pub fn certificate(&self) -> Option<(&str, &str)> {
        let certified = self.certified.as_ref()?;
        Some((&certified.name, &certified.certificate.fingerprint))
    }

    /// Returns the moment at which the proof of the name ends.
    pub(super) fn until(&self) -> Option<SystemTime> {
        let certificate = self.certified.as_ref().map(|certified| certified.certificate.not_after);
        self.bearer.as_ref().map(|bearer| bearer.until).or(certificate)
    }
}
