//! Who makes a call, and how that is proven: by a token, by the certificate of the connection, or
//! not at all.

use std::sync::Arc;
use std::time::SystemTime;

use super::tokens::Bearer;
use crate::tls::Certificate;

/// Who makes a call. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    pub(super) bearer: Option<Arc<Bearer>>,
    pub(super) certified: Option<Certified>,
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
        match (&self.bearer, &self.certified) {
            (Some(_), _) => "token",
            (None, Some(_)) => "certificate",
            (None, None) => "nothing",
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
