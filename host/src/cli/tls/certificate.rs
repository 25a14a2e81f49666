//! What a certificate says, read for a person: who it is for, who signed it, and how long it holds.
//! It checks no chain; a node does that, with rustls.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::holder::{Holder, Host};

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// One certificate.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    der: Vec<u8>,
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) common_name: String,
    /// The organization. In an authority of `tls init` it is the name of the cluster.
    pub(super) organization: String,
    pub(super) uris: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) is_authority: bool,
    /// Whether it may prove a server, and whether a client.
    pub(super) uses: (bool, bool),
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// Kind and size of its key, in words.
    pub(super) key: String,
    pub(super) public_key: Vec<u8>,
}

impl Certificate {
    /// Reads the bytes of one certificate.
    pub(super) fn of_der(der: &[u8]) -> Result<Certificate, String> {
        let refused = |error: &dyn std::fmt::Display| format!("its section CERTIFICATE is no certificate: {error}");
        let (_, read) = X509Certificate::from_der(der).map_err(|error| refused(&error))?;
        let names = read.subject_alternative_name().map_err(|error| refused(&error))?;
        let names = names.map_or_else(Vec::new, |names| names.value.general_names.clone());
        let uses = read.extended_key_usage().map_err(|error| refused(&error))?;
        let uses = uses.map_or((true, true), |uses| {
            (uses.value.any || uses.value.server_auth, uses.value.any || uses.value.client_auth)
        });
        let text = |name: &GeneralName<'_>, is_uri: bool| match name {
            GeneralName::URI(uri) if is_uri => Some((*uri).to_owned()),
            GeneralName::DNSName(name) if !is_uri => Some((*name).to_owned()),
            _ => None,
        };
        Ok(Certificate {
            der: der.to_vec(),
            subject: read.subject().to_string(),
            issuer: read.issuer().to_string(),
            common_name: first(read.subject().iter_common_name()),
            organization: first(read.subject().iter_organization()),
            uris: names.iter().filter_map(|name| text(name, true)).collect(),
            dns_names: names.iter().filter_map(|name| text(name, false)).collect(),
            addresses: names.iter().filter_map(address).collect(),
            is_authority: read.is_ca(),
            uses,
            not_before: moment(read.validity().not_before.timestamp()),
            not_after: moment(read.validity().not_after.timestamp()),
            key: key(&read),
            public_key: read.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// Returns who it is for, as its first URI of this form says.
    pub(super) fn holder(&self) -> Option<Holder> {
        self.uris.iter().find_map(|uri| Holder::of_uri(uri))
    }

    /// Returns its SHA-256, as nodes tell it.
    pub(super) fn fingerprint(&self) -> String {
        crate::tls::Certificate::read(&self.der).map(|read| read.fingerprint).unwrap_or_default()
    }

    /// Returns the names of machines in it.
    pub(super) fn hosts(&self) -> Vec<Host> {
        let names = self.dns_names.iter().cloned().map(Host::Dns);
        names.chain(self.addresses.iter().copied().map(Host::Ip)).collect()
    }

    /// Tells whether `authority` signed it.
    pub(super) fn is_signed_by(&self, authority: &Certificate) -> bool {
        let (Ok((_, own)), Ok((_, above))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&authority.der))
        else {
            return false;
        };
        own.issuer().as_raw() == above.subject().as_raw() && own.verify_signature(Some(above.public_key())).is_ok()
    }

    /// Says how long it holds, seen from `now`.
    pub(super) fn time_left(&self, now: SystemTime) -> TimeLeft {
        if now < self.not_before {
            return TimeLeft::NotYet;
        }
        match self.not_after.duration_since(now) {
            Ok(left) => TimeLeft::Days(left.as_secs() / DAY),
            Err(past) => TimeLeft::Expired(past.duration().as_secs() / DAY),
        }
    }
}

/// How long a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeLeft {
    NotYet,
    /// Whole days.
    Days(u64),
    /// Whole days since its end.
    Expired(u64),
}

/// Returns the date of a moment, in UTC.
pub(super) fn date(moment: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(moment).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// A moment before 1970 counts as 1970, and one beyond 9999 as the last that can be written.
fn moment(seconds: i64) -> SystemTime {
    const LAST: u64 = 253_402_300_799;
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(LAST))
}

fn first<'a>(mut attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>) -> String {
    attributes.next().and_then(|attribute| attribute.as_str().ok()).unwrap_or_default().to_owned()
}

fn address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(bytes) = name else { return None };
    let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
}

fn key(read: &X509Certificate<'_>) -> String {
    match read.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA, {} bits", key.key_size()),
        // The points of P-521 take 528 bits.
        Ok(PublicKey::EC(key)) => format!("ECDSA P-{}", key.key_size().min(521)),
        Ok(PublicKey::Unknown(_)) if read.public_key().algorithm.algorithm.to_id_string() == "1.3.101.112" => {
            "Ed25519".into()
        }
        _ => format!("of a kind with the number {}", read.public_key().algorithm.algorithm.to_id_string()),
    }
}
