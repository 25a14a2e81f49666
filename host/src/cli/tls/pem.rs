//! Reads the PEM files that an operator names: which certificates and keys they hold, and in plain
//! words what they hold instead. It never keeps or prints a key's bytes longer than needed.

use std::io::Read;
use std::path::Path;

use rcgen::KeyPair;
use rustls::pki_types::pem::{PemObject, SectionKind};

use super::certificate::Certificate;
use crate::cli::report::Failure;
use crate::tls::pem_problem;

/// Largest file that is read. A bundle of a hundred authorities is far smaller.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What one file holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) certificates: Vec<Certificate>,
    pub(super) keys: Vec<KeyPair>,
    /// Other sections, in words.
    pub(super) others: Vec<&'static str>,
}

/// Reads a file that holds at least one certificate or key.
pub(super) fn read(path: &Path) -> Result<Contents, Failure> {
    let bytes = bytes(path)?;
    contents(&bytes).map_err(|problem| Failure::new(format!("{}: {problem}", path.display())))
}

fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let refused = |problem: &dyn std::fmt::Display| Failure::new(format!("cannot read {}: {problem}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| refused(&error))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| refused(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refused(&format_args!("it has more than {FILE_BYTES_MAX} bytes, which no certificate file has")));
    }
    Ok(bytes)
}

fn contents(bytes: &[u8]) -> Result<Contents, String> {
    let mut contents = Contents::default();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|error| format!("it is damaged: {}", pem_problem(&error)))?;
        match kind {
            SectionKind::Certificate => contents.certificates.push(Certificate::of_der(&der)?),
            SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey => {
                contents.keys.push(key(&der)?);
            }
            other => contents.others.push(words(other)),
        }
    }
    match contents.certificates.is_empty() && contents.keys.is_empty() {
        true => Err(instead(bytes, &contents.others)),
        false => Ok(contents),
    }
}

fn key(der: &[u8]) -> Result<KeyPair, String> {
    KeyPair::try_from(der).map_err(|error| format!("its private key is of a kind that nodes cannot use: {error}"))
}

fn words(kind: SectionKind) -> &'static str {
    match kind {
        SectionKind::PublicKey => "a public key",
        SectionKind::Crl => "a revocation list",
        SectionKind::Csr => "a request for a certificate, which an authority has yet to sign",
        _ => "something else",
    }
}

/// Says what a file holds that has neither certificate nor key.
fn instead(bytes: &[u8], others: &[&str]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let found = match bytes {
        [] => "is empty",
        _ if !others.is_empty() => {
            return format!("it holds {}, and neither a certificate nor a key", others.join(", "));
        }
        _ if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") => {
            "holds a key that a passphrase protects; nodes ask for none: decrypt it with `openssl pkey -in … -out …`"
        }
        _ if text.contains("BEGIN OPENSSH") => "holds a key of ssh; make one with `lockstep tls init` or openssl",
        [0x30, 0x80..=0x84, ..] => {
            "is DER, the binary form; convert a certificate with `openssl x509 -inform der -in … -out …`"
        }
        _ if text.trim_start().starts_with(['{', '[']) => "looks like JSON or TOML, not like PEM",
        _ => "is no PEM: no line says -----BEGIN CERTIFICATE----- or -----BEGIN PRIVATE KEY-----",
    };
    format!("it {found}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn wrong_files_are_named_for_what_they_are() {
        let request = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
        for (bytes, expected) in [
            (&b""[..], "is empty"),
            (b"hello", "no line says"),
            (b"{\"keys\": []}", "JSON"),
            (b"\x30\x82\x01\x00", "DER"),
            (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n", "passphrase"),
            (request.as_bytes(), "an authority has yet to sign"),
            (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "no certificate"),
            (b"-----BEGIN CERTIFICATE-----\nMAA", "the file ends before -----END CERTIFICATE-----: it is cut off"),
        ] {
            let problem = contents(bytes).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
