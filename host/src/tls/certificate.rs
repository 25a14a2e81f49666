//! What a certificate says about its holder. It is read after rustls has verified the certificate.
//! `identity.rs` says whom it names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// A verified certificate of the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of the subject. Empty if there is none.
    pub common_name: String,
    /// The URIs among the alternative names, such as `lockstep://lockstep/node/nodeA`.
    pub uris: Vec<String>,
    /// The DNS names among the alternative names.
    pub dns_names: Vec<String>,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
    /// SHA-256 of the whole certificate, in hexadecimal.
    pub fingerprint: String,
}

/// More that a certificate says, which matters when it comes from a file.
#[derive(Clone, Debug)]
pub(super) struct Details {
    pub(super) certificate: Certificate,
    /// The first moment at which it is valid.
    pub(super) not_before: SystemTime,
    /// Whether it may sign other certificates.
    pub(super) is_ca: bool,
    /// Whether it may prove a server.
    pub(super) is_for_server: bool,
}

impl Certificate {
    /// Reads a certificate in DER. `None` if it is none.
    pub fn read(der: &[u8]) -> Option<Certificate> {
        Details::read(der).map(|details| details.certificate)
    }
}

impl Details {
    pub(super) fn read(der: &[u8]) -> Option<Details> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        let (uris, dns_names) = alternative_names(&parsed)?;
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let certificate = Certificate {
            common_name: common_name.unwrap_or_default().to_owned(),
            uris,
            dns_names,
            not_after: moment(parsed.validity().not_after.timestamp()),
            fingerprint: fingerprint(der),
        };
        let not_before = moment(parsed.validity().not_before.timestamp());
        Some(Details { certificate, not_before, is_ca: parsed.is_ca(), is_for_server: is_for_server(&parsed) })
    }
}

/// A certificate without extended key usages is for all of them.
fn is_for_server(parsed: &X509Certificate<'_>) -> bool {
    let uses = parsed.extended_key_usage().ok().flatten();
    uses.is_none_or(|uses| uses.value.any || uses.value.server_auth)
}

/// Returns the URIs and the DNS names. `None` if they cannot be read.
fn alternative_names(parsed: &X509Certificate<'_>) -> Option<(Vec<String>, Vec<String>)> {
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    let names = parsed.subject_alternative_name().ok()?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            _ => {}
        }
    }
    Some((uris, dns_names))
}

fn moment(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moment.unwrap_or(UNIX_EPOCH)
}

fn fingerprint(der: &[u8]) -> String {
    let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else { return String::new() };
    let digest = suite.common.hash_provider.hash(der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
