//! Decides about the certificate of a peer that was dialled: a trusted CA has signed it, for a
//! server. Its names are not compared with the address; `connector.rs` checks whom it names.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::Certificate;

/// The verifier of peers as servers.
#[derive(Debug)]
pub(super) struct PeerServer {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl PeerServer {
    pub(super) fn new(roots: Arc<RootCertStore>, provider: Arc<CryptoProvider>) -> PeerServer {
        PeerServer { roots, provider }
    }

    /// Returns whether it still accepts the certificates of an open connection, the other end's own
    /// first.
    pub(super) fn still_accepts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((first, others)) = chain.split_first() else { return false };
        is_signed(first, others, &self.roots, while_valid(first), &self.provider).is_ok()
    }
}

/// Returns the time, or that of the certificate's end if it has expired. An open connection
/// survives that.
pub(super) fn while_valid(certificate: &CertificateDer<'_>) -> UnixTime {
    let not_after = Certificate::read(certificate).map(|certificate| certificate.not_after);
    let last = not_after.and_then(|last| last.duration_since(UNIX_EPOCH).ok()).map(UnixTime::since_unix_epoch);
    last.map_or_else(UnixTime::now, |last| last.min(UnixTime::now()))
}

/// Checks that one of the CAs has signed the certificate, that it may be a server's, and its dates.
pub(super) fn is_signed(
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: UnixTime,
    provider: &CryptoProvider,
) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

impl ServerCertVerifier for PeerServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        is_signed(certificate, intermediates, &self.roots, now, &self.provider)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
