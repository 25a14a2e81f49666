//! Why a handshake has failed, in words that an operator can use. Has no secret in it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// Returns why a handshake has failed.
pub fn reason(error: &io::Error) -> String {
    match tls_error(error) {
        Some(error) => tls_reason(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "the other end closed the connection".into(),
        None => error.to_string(),
    }
}

/// Returns whether the other end does not speak TLS, or closed the connection before it said
/// anything. It may speak plain text.
pub fn is_not_tls(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match tls_error(error) {
        Some(error) => matches!(error, Error::InvalidMessage(_)),
        None => matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe),
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

pub(super) fn tls_reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate_reason(error),
        Error::NoCertificatesPresented => "it shows no certificate".into(),
        Error::InvalidMessage(_) => "it does not speak TLS".into(),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it speaks an older TLS than is allowed (--tls_min_version)".into()
        }
        Error::NoApplicationProtocol => "it speaks neither HTTP/2 nor HTTP/1.1".into(),
        Error::AlertReceived(alert) => alert_reason(*alert),
        other => other.to_string(),
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet".into()
        }
        // The latter is a CA of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no trusted CA has signed its certificate".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not for this use (extended key usage serverAuth or clientAuth)".into()
        }
        other => format!("its certificate is refused: {other}"),
    }
}

/// Returns what the other end says about us.
fn alert_reason(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "it does not trust the CA of this end's certificate".into(),
        AlertDescription::CertificateExpired => "it says that this end's certificate has expired".into(),
        AlertDescription::CertificateRequired => "it wants a certificate".into(),
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "it refuses this end's certificate".into()
        }
        other => format!("it refuses the handshake: {other:?}"),
    }
}
