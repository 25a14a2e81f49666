//! What the files of one use hold: our certificate and key, the CAs, and the two ends of TLS made
//! of them. Everything that can be wrong with them is found here, and said with the file's name. A
//! key is never shown.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::Certificate;
use super::certificate::Details;
use super::pem::pem_problem;
use super::settings::{Audience, Files, MinVersion, Part, TlsError};
use super::verify::{PeerServer, is_signed};

/// Largest file of certificates or keys. A bundle of all public CAs has 200 kB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Most authorities of a file that operators are told of.
const AUTHORITIES_TOLD_MAX: usize = 64;

/// The contents of the files, or why one cannot be read.
pub(super) struct Bytes {
    certificate: Result<Vec<u8>, String>,
    key: Result<Vec<u8>, String>,
    ca: Option<Result<Vec<u8>, String>>,
}

/// What good files hold.
pub(super) struct Material {
    /// Our certificate.
    pub(super) own: Arc<Certificate>,
    /// The first of the CAs that are trusted.
    pub(super) authorities: Arc<[Certificate]>,
    /// The accepting end.
    pub(super) server: Arc<ServerConfig>,
    /// The dialling end, for peers alone.
    pub(super) client: Option<Arc<ClientConfig>>,
    /// Decides about the certificates of those who connect.
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Decides about the certificates of those who were dialled, for peers alone.
    pub(super) dialled: Option<Arc<PeerServer>>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Bytes {
    pub(super) fn read(files: &Files) -> Bytes {
        Bytes { certificate: read(&files.certificate), key: read(&files.key), ca: files.ca.as_deref().map(read) }
    }

    /// Returns what tells these contents from others.
    pub(super) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [Some(&self.certificate), Some(&self.key), self.ca.as_ref()] {
            let (kind, bytes) = match part {
                None => (0, &[][..]),
                Some(Ok(bytes)) => (1, &bytes[..]),
                Some(Err(text)) => (2, text.as_bytes()),
            };
            hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
        hasher.finalize()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    if !size.is_file() {
        return Err(format!("{shown} is no file"));
    }
    if size.len() > FILE_BYTES_MAX {
        return Err(format!("{shown} has {} bytes, which are more than any certificates and keys have", size.len()));
    }
    std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))
}

/// What becomes of a certificate that clients would refuse: it is not valid now, or not for a
/// server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dates {
    /// It is refused.
    Hold,
    /// It is used, and a line in the log says so. Clients refuse it, and peers are served.
    AreTold,
}

impl Material {
    pub(super) fn make(files: &Files, bytes: Bytes, audience: &Audience, dates: Dates) -> Result<Material, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = chain(&files.certificate, bytes.certificate)?;
        let own = own(&files.certificate, &chain, audience, dates)?;
        let key = certified(files, &provider, chain.clone(), bytes.key)?;
        let (roots, authorities) = match (&files.ca, bytes.ca) {
            (Some(path), Some(bytes)) => {
                let (roots, authorities) = roots(path, bytes)?;
                (Some(Arc::new(roots)), authorities)
            }
            _ => (None, Vec::new()),
        };
        if let (Audience::Peers { .. }, Some(roots), Some(path)) = (audience, &roots, &files.ca) {
            check_own_ca(files, path, &chain, roots, &provider)?;
        }
        let verifier = verifier(files, roots.clone(), audience, &provider)?;
        let server = server(&key, verifier.clone(), audience, &provider);
        let dialled = match (audience, roots) {
            (Audience::Peers { .. }, Some(roots)) => Some(Arc::new(PeerServer::new(roots, provider.clone()))),
            _ => None,
        };
        let client = dialled.clone().map(|dialled| client(&key, dialled, &provider));
        Ok(Material { own: Arc::new(own), authorities: authorities.into(), server, client, verifier, dialled })
    }
}

fn chain(path: &Path, bytes: Result<Vec<u8>, String>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let hint = "name a PEM file with this node's certificate, followed by those between it and the CA";
    certificates(Part::Certificate, path, bytes, hint)
}

/// Reads the certificates of a file, of which there is at least one.
fn certificates(
    part: Part,
    path: &Path,
    bytes: Result<Vec<u8>, String>,
    hint: &str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = bytes.map_err(|problem| TlsError::new(part, problem, hint))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let problem = match read {
        Ok(found) if found.is_empty() => "has no certificate in PEM".into(),
        Ok(found) => return Ok(found),
        Err(error) => format!("is no file of certificates in PEM: {}", pem_problem(&error)),
    };
    Err(TlsError::new(part, format!("{} {problem}", path.display()), hint))
}

/// Returns what our certificate says, if it can be used now and for this.
fn own(
    path: &Path,
    chain: &[CertificateDer<'static>],
    audience: &Audience,
    dates: Dates,
) -> Result<Certificate, TlsError> {
    let shown = path.display();
    let refuse = |problem: String, hint: &str| Err(TlsError::new(Part::Certificate, problem, hint));
    let Some(Details { certificate, not_before, is_for_server, .. }) = Details::read(&chain[0]) else {
        return refuse(format!("the first certificate in {shown} cannot be read"), "issue it again");
    };
    let usable = valid_now(path, &certificate, not_before).and_then(|()| match is_for_server {
        true => Ok(()),
        false => Err(TlsError::new(
            Part::Certificate,
            format!("the certificate in {shown} is for a client alone: it cannot prove a server"),
            "issue one with the extended key usage serverAuth; `lockstep tls init --node` makes one",
        )),
    });
    if let Err(error) = usable {
        match dates {
            Dates::Hold => return Err(error),
            Dates::AreTold => tracing::error!(
                problem = error.problem,
                hint = error.hint,
                "clients do not accept this node's certificate, and the node starts in spite of it"
            ),
        }
    }
    if let Audience::Peers { raft_id } = audience
        && !certificate.is_node("", raft_id)
    {
        return refuse(
            format!("the certificate in {shown} names {} and not this node, {raft_id}", certificate.describe()),
            "issue one with the URI lockstep://<cluster>/node/<raft_id> among its alternative names, or with a DNS name that begins with the raft_id",
        );
    }
    Ok(certificate)
}

/// Refuses a certificate before and after its time.
fn valid_now(path: &Path, certificate: &Certificate, not_before: SystemTime) -> Result<(), TlsError> {
    let (shown, now) = (path.display(), SystemTime::now());
    let refuse = |problem: String, hint: &str| Err(TlsError::new(Part::Certificate, problem, hint));
    if certificate.not_after < now {
        let when = humantime::format_rfc3339_seconds(certificate.not_after);
        return refuse(format!("the certificate in {shown} expired at {when}"), "issue a new one for the same key");
    }
    if not_before > now {
        let when = humantime::format_rfc3339_seconds(not_before);
        let hint = "check this machine's clock, or issue the certificate again";
        return refuse(format!("the certificate in {shown} is not valid before {when}"), hint);
    }
    Ok(())
}

fn certified(
    files: &Files,
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    key: Result<Vec<u8>, String>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let path = files.key.display();
    let hint = "name the PEM file with the certificate's private key (PKCS#8, SEC1 or PKCS#1, not encrypted)";
    let refuse = |problem: String| TlsError::new(Part::Key, problem, hint);
    let bytes = key.map_err(refuse)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        _ if is_encrypted(&bytes) => refuse(format!("the private key in {path} is encrypted with a passphrase")),
        pem::Error::NoItemsFound => refuse(format!("{path} has no private key in PEM")),
        error => refuse(format!("{path} has no private key in PEM: {}", pem_problem(&error))),
    })?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| refuse(format!("the private key in {path} is of no kind that is supported")))?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|_| {
        let certificate = files.certificate.display();
        refuse(format!("the private key in {path} does not belong to the certificate in {certificate}"))
    })?;
    Ok(Arc::new(certified))
}

fn is_encrypted(pem: &[u8]) -> bool {
    pem.windows(9).any(|window| window == b"ENCRYPTED")
}

/// Reads a bundle of CAs. Returns what the first of them say, too.
fn roots(path: &Path, bytes: Result<Vec<u8>, String>) -> Result<(RootCertStore, Vec<Certificate>), TlsError> {
    let hint = "name a PEM file with the certificates of the CAs that are trusted, and nothing else";
    let refuse = |problem: String| TlsError::new(Part::Ca, problem, hint);
    let (mut roots, mut told) = (RootCertStore::empty(), Vec::new());
    for der in certificates(Part::Ca, path, bytes, hint)? {
        let shown = path.display();
        match Details::read(&der) {
            None => return Err(refuse(format!("a certificate in {shown} cannot be read"))),
            Some(found) if !found.is_ca => {
                let named = found.certificate.describe();
                return Err(refuse(format!("the certificate of {named} in {shown} is not that of a CA")));
            }
            Some(found) => {
                roots.add(der).map_err(|error| refuse(format!("a CA in {shown} cannot be used: {error}")))?;
                told.push(found.certificate);
            }
        }
    }
    told.truncate(AUTHORITIES_TOLD_MAX);
    Ok((roots, told))
}

/// Refuses a certificate that no peer with the same CAs would accept.
fn check_own_ca(
    files: &Files,
    ca: &Path,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<(), TlsError> {
    is_signed(&chain[0], &chain[1..], roots, UnixTime::now(), provider).map_err(|error| {
        let (certificate, ca) = (files.certificate.display(), ca.display());
        TlsError::new(
            Part::Certificate,
            format!("no peer would accept the certificate in {certificate} by the CAs in {ca}: {}", super::reason::tls_reason(&error)),
            "give the CA that has signed it; a certificate of a node needs the extended key usages serverAuth and clientAuth",
        )
    })
}

fn verifier(
    files: &Files,
    roots: Option<Arc<RootCertStore>>,
    audience: &Audience,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(roots) = roots else { return Ok(Arc::new(NoClientAuth)) };
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let builder = match audience {
        // A client may have a token instead.
        Audience::Clients { .. } => builder.allow_unauthenticated(),
        Audience::Peers { .. } => builder,
    };
    builder.build().map_err(|error| {
        let ca = files.ca.as_deref().unwrap_or(Path::new("")).display();
        TlsError::new(Part::Ca, format!("the CAs in {ca} cannot be used: {error}"), "check the file")
    })
}

/// The versions that peers speak.
static NEWEST: &[&SupportedProtocolVersion] = &[&TLS13];
/// The versions that clients may speak if they are allowed to.
static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

fn versions(audience: &Audience) -> &'static [&'static SupportedProtocolVersion] {
    match audience {
        Audience::Clients { min_version: MinVersion::Tls12 } => BOTH,
        Audience::Clients { .. } | Audience::Peers { .. } => NEWEST,
    }
}

fn server(
    key: &Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
    audience: &Audience,
    provider: &Arc<CryptoProvider>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(audience))
        .expect("the provider knows these versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    match audience {
        Audience::Clients { .. } => config.alpn_protocols.push(b"http/1.1".to_vec()),
        Audience::Peers { .. } => {
            // Peers seldom connect, and each handshake verifies the certificate anew.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
    }
    Arc::new(config)
}

fn client(key: &Arc<CertifiedKey>, dialled: Arc<PeerServer>, provider: &Arc<CryptoProvider>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider knows this version")
        .dangerous()
        .with_custom_certificate_verifier(dialled)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key.clone())));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    // The name of a peer stands in its certificate, and not in the address.
    config.enable_sni = false;
    Arc::new(config)
}
