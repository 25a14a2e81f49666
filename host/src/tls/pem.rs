//! What is wrong with a file in PEM, in words. No byte of the file is in them: it may be a key.

use rustls::pki_types::pem::Error;

/// Longest label that is shown. It comes from the file.
const LABEL_CHARS_MAX: usize = 40;

/// Returns what is wrong with a file that cannot be read as PEM.
pub fn pem_problem(error: &Error) -> String {
    match error {
        Error::MissingSectionEnd { end_marker } => {
            let label: String = String::from_utf8_lossy(end_marker).chars().take(LABEL_CHARS_MAX).collect();
            let label = label.escape_default();
            format!("the file ends before -----END {label}-----: it is cut off")
        }
        Error::IllegalSectionStart { .. } => "a line that begins with -----BEGIN does not end with -----".into(),
        Error::Base64Decode(_) => "what stands between a BEGIN and its END is no base64".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_broken_file_is_explained_in_words() {
        for (text, expected) in [
            ("-----BEGIN CERTIFICATE-----\nMAA", "the file ends before -----END CERTIFICATE-----: it is cut off"),
            ("-----BEGIN CERTIFICATE--\nMAA", "does not end with -----"),
            ("-----BEGIN CERTIFICATE-----\n?!\n-----END CERTIFICATE-----\n", "is no base64"),
        ] {
            let error = CertificateDer::from_pem_slice(text.as_bytes()).expect_err(expected);
            let problem = pem_problem(&error);
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
