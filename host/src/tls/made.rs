//! Certificates made for tests: a CA of their own, in a directory that goes with them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use tempfile::TempDir;

use super::Files;

/// A CA and the files that it has made.
pub(crate) struct Made {
    directory: TempDir,
    ca: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Says<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) uri: Option<&'a str>,
    pub(crate) dns: Option<&'a str>,
    /// It has expired yesterday.
    pub(crate) is_expired: bool,
    /// It is for servers alone.
    pub(crate) is_for_server: bool,
    /// It is for clients alone.
    pub(crate) is_for_client: bool,
}

/// Makes each CA's name its own.
static COUNT: AtomicU32 = AtomicU32::new(0);

const DAY: Duration = Duration::from_secs(24 * 3600);

impl Made {
    pub(crate) fn new() -> Made {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("test CA {}", COUNT.fetch_add(1, Relaxed)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        Made { directory: tempfile::tempdir().unwrap(), ca, issuer: Issuer::new(params, key) }
    }

    /// The CA in PEM.
    pub(crate) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// Returns the path of a file here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Returns a certificate and its key in PEM.
    pub(crate) fn issue(&self, says: Says<'_>) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, says.common_name);
        let uri = says.uri.map(|uri| SanType::URI(uri.try_into().unwrap()));
        let dns = says.dns.map(|name| SanType::DnsName(name.try_into().unwrap()));
        params.subject_alt_names = uri.into_iter().chain(dns).collect();
        let uses = [
            (ExtendedKeyUsagePurpose::ServerAuth, !says.is_for_client),
            (ExtendedKeyUsagePurpose::ClientAuth, !says.is_for_server),
        ];
        params.extended_key_usages =
            uses.into_iter().filter(|(_, is_there)| *is_there).map(|(usage, _)| usage).collect();
        let now = SystemTime::now();
        params.not_before = (now - 30 * DAY).into();
        params.not_after = if says.is_expired { now - DAY } else { now + 100 * DAY }.into();
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Writes a certificate, its key, and this CA.
    pub(crate) fn files(&self, name: &str, says: Says<'_>) -> Files {
        let (certificate, key) = self.issue(says);
        Files {
            certificate: self.write(&format!("{name}.pem"), &certificate),
            key: self.write(&format!("{name}.key"), &key),
            ca: Some(self.write(&format!("{name}-ca.pem"), &self.ca_pem())),
        }
    }

    /// Writes the files of a node of the cluster `prod`.
    pub(crate) fn node(&self, raft_id: &str) -> Files {
        let uri = format!("lockstep://prod/node/{raft_id}");
        self.files(raft_id, Says { common_name: raft_id, uri: Some(&uri), ..Says::default() })
    }

    /// Writes the files of a server for clients that trusts `ca`.
    pub(crate) fn server(&self, name: &str, dns: &str, ca: Option<PathBuf>) -> Files {
        Files { ca, ..self.files(name, Says { dns: Some(dns), ..Says::default() }) }
    }
}
