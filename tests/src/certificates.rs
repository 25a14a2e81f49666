//! Certificates of a test: a directory that `lockstep tls init` made, copies of its files for each
//! node, and certificates and tokens that it never makes, such as expired ones. Starts no node.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lockstep_client::Tls;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, SigningKey,
};
use tempfile::TempDir;

use crate::lockstep;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A directory of certificates.
pub struct Certificates {
    directory: TempDir,
}

/// Whether a certificate still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It holds for a day.
    Tomorrow,
    /// It held until yesterday.
    Yesterday,
}

impl Certificates {
    /// Makes an authority, certificates for nodes and clients, and a policy. A client is written
    /// `alice:admin`.
    pub fn made(nodes: &[&str], clients: &[&str]) -> Result<Certificates> {
        let certificates = Certificates { directory: tempfile::tempdir()? };
        let mut words = Vec::new();
        nodes.iter().for_each(|node| words.extend(["--node", node]));
        clients.iter().for_each(|client| words.extend(["--client", client]));
        certificates.init(&words)?;
        Ok(certificates)
    }

    /// Runs `lockstep tls init` on the directory, and returns what it printed.
    pub fn init(&self, words: &[&str]) -> Result<String> {
        let directory = self.directory.path().display().to_string();
        let out = lockstep(&[&["tls", "init", &directory], words].concat())?;
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        ensure!(out.status.success(), "tls init {words:?}: {text}");
        Ok(text)
    }

    /// Returns the path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the path of a file as a word of a command line.
    pub fn word(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes a directory with the files of a node: `node.pem`, `node.key` and `ca.pem`. They can be
    /// replaced there, as an operator does it, without a word to others.
    pub fn deployed(&self, node: &str) -> Result<Deployed> {
        let directory = self.path(&format!("at-{node}"));
        std::fs::create_dir(&directory)?;
        let deployed = Deployed { directory };
        deployed.replace("ca.pem", &self.path("ca.pem"))?;
        deployed.replace("node.key", &self.path(&format!("{node}.key")))?;
        deployed.replace("node.pem", &self.path(&format!("{node}.pem")))?;
        Ok(deployed)
    }

    /// Returns how a client speaks TLS that trusts `ca.pem` and has no certificate.
    pub fn anonymous(&self) -> Tls {
        Tls::trusting_file(self.path("ca.pem"))
    }

    /// Returns how the client of this name speaks TLS.
    pub fn client(&self, name: &str) -> Tls {
        self.anonymous().identity_files(self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")))
    }

    /// Makes a certificate of a client by the authority of the directory, as files of this name.
    pub fn sign(&self, file: &str, client: &str, expiry: Expiry) -> Result<()> {
        self.sign_as(file, "client", client, expiry)
    }

    /// Makes a certificate of a node by the authority of the directory, as files of this name. It
    /// names no host, so peers take it of one that dials.
    pub fn sign_node(&self, file: &str, node: &str, expiry: Expiry) -> Result<()> {
        self.sign_as(file, "node", node, expiry)
    }

    /// Copies a certificate and its key, so that they outlast their renewal.
    pub fn keep(&self, name: &str, copy: &str) -> Result<()> {
        for kind in ["pem", "key"] {
            std::fs::copy(self.path(&format!("{name}.{kind}")), self.path(&format!("{copy}.{kind}")))?;
        }
        Ok(())
    }

    fn sign_as(&self, file: &str, kind: &str, name: &str, expiry: Expiry) -> Result<()> {
        let authority = std::fs::read_to_string(self.path("ca.pem"))?;
        let key = KeyPair::from_pem(&std::fs::read_to_string(self.path("ca.key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&authority, key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(format!("lockstep://lockstep/{kind}/{name}").try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let end = if expiry == Expiry::Tomorrow { today + DAY } else { today - DAY };
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + (end - 3 * DAY);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
        let key = KeyPair::generate()?;
        std::fs::write(self.path(&format!("{file}.pem")), params.signed_by(&key, &issuer)?.pem())?;
        Ok(std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem())?)
    }
}

/// Makes a token of these claims with the header of another, signed by the same key.
pub fn token_of(claims: &str, like: &str, key: &Path) -> Result<String> {
    let (header, _) = like.split_once('.').context("a token has dots")?;
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = KeyPair::from_pem(&std::fs::read_to_string(key)?)?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?)))
}

/// Makes a token of these claims that nobody has signed.
pub fn unsigned_token(claims: &str) -> String {
    format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#), URL_SAFE_NO_PAD.encode(claims))
}

/// The files of one node.
pub struct Deployed {
    directory: PathBuf,
}

impl Deployed {
    /// Puts a file in place of another one, in one step.
    pub fn replace(&self, name: &str, with: &Path) -> Result<()> {
        let beside = self.directory.join(format!("{name}.new"));
        std::fs::copy(with, &beside).with_context(|| format!("no {}", with.display()))?;
        Ok(std::fs::rename(beside, self.directory.join(name))?)
    }

    /// Returns the path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the flags with which a node speaks TLS with its peers.
    pub fn peer_flags(&self, mode: &str) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        vec![
            format!("--peer_tls_cert={}", file("node.pem")),
            format!("--peer_tls_key={}", file("node.key")),
            format!("--peer_tls_ca={}", file("ca.pem")),
            format!("--peer_tls_mode={mode}"),
        ]
    }

    /// Returns the flags with which a node speaks TLS with clients and knows them by certificates.
    pub fn client_flags(&self, mode: &str) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        vec![
            format!("--tls_cert={}", file("node.pem")),
            format!("--tls_key={}", file("node.key")),
            format!("--tls_client_ca={}", file("ca.pem")),
            format!("--tls_mode={mode}"),
        ]
    }
}
