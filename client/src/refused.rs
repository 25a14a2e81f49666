//! Tells from the words of an error whether TLS failed. The libraries in between keep the words of
//! the error below, and not the error.

/// What a node says on a connection in plain text, in the GOAWAY with which it ends that. It has
/// taken no call of it.
const WANTS_TLS: &str = "this port speaks TLS alone";

/// What the words of a failed handshake hold: a refusal of the other side's certificate, the other
/// side's refusal, an answer that is no TLS, and a port that speaks nothing else.
const HANDSHAKE: [&str; 7] = [
    "invalid peer certificate",
    "received fatal alert",
    "peer is incompatible",
    "peer misbehaved",
    "received corrupt message",
    "HTTP/2 was not negotiated",
    WANTS_TLS,
];

/// Alerts by which a server refuses a client's certificate. With TLS 1.3 they come when the client
/// has begun to speak. The server has read nothing of it.
const ALERTS: [&str; 9] = [
    "AccessDenied",
    "BadCertificate",
    "CertificateExpired",
    "CertificateRequired",
    "CertificateRevoked",
    "CertificateUnknown",
    "DecryptError",
    "UnknownCA",
    "UnsupportedCertificate",
];

/// Returns whether an error of connecting is a failed handshake.
pub(crate) fn is_refusal(words: &str) -> bool {
    HANDSHAKE.iter().any(|known| words.contains(known))
}

/// Returns whether an error of a connection that was made is a refusal of the client's certificate,
/// or of plain text.
pub(crate) fn is_late_refusal(words: &str) -> bool {
    if words.contains(WANTS_TLS) {
        return true;
    }
    let alert = words.split("received fatal alert: ").nth(1);
    alert.is_some_and(|alert| ALERTS.iter().any(|known| alert.starts_with(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_is_told_from_a_broken_connection() {
        for words in [
            "transport error: invalid peer certificate: UnknownIssuer",
            "connection error: received fatal alert: CertificateRequired",
            "received corrupt message of type InvalidContentType",
        ] {
            assert!(is_refusal(words), "{words}");
        }
        for words in ["connection reset by peer", "tls handshake eof", "Connection refused (os error 111)"] {
            assert!(!is_refusal(words), "{words}");
        }
    }

    #[test]
    fn only_alerts_about_a_certificate_come_before_a_call_is_read() {
        assert!(is_late_refusal("h2: received fatal alert: CertificateRequired"));
        let plain = "connection error received: security properties do not meet minimum requirements \
                     (b\"this port speaks TLS alone: use https\")";
        assert!(is_late_refusal(plain) && is_refusal(plain));
        assert!(!is_late_refusal("h2: received fatal alert: BadRecordMac"));
        assert!(!is_late_refusal("received corrupt message of type InvalidContentType"));
    }
}
