//! How a command proves its nodes and itself: the flags of TLS and of tokens, which every command
//! that connects has, and what is said when a node and a command do not get on. It shows no secret.

use std::path::{Path, PathBuf};

use lockstep_client::{Options, Tls, Token};

use super::report::Failure;

/// The flags.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "TLS and tokens")]
pub(crate) struct Credentials {
    /// Speak TLS, and trust nodes whose certificates an authority in this file signed
    #[arg(long = "tls_ca", env = "LOCKSTEP_CLIENT_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Certificate that says who calls
    #[arg(long = "tls_cert", env = "LOCKSTEP_CLIENT_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Private key of that certificate
    #[arg(long = "tls_key", env = "LOCKSTEP_CLIENT_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Name that the node's certificate must hold [default: the host of the address]
    #[arg(long = "tls_server_name", env = "LOCKSTEP_CLIENT_TLS_SERVER_NAME", value_name = "NAME")]
    tls_server_name: Option<String>,

    /// Bearer token that says who calls; other users of this machine can see it, so --token_file is
    /// better
    #[arg(long = "token", env = "LOCKSTEP_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = secret)]
    token: Option<Secret>,

    /// File that holds the bearer token
    #[arg(long = "token_file", env = "LOCKSTEP_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A text that is not shown.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

fn secret(text: &str) -> Result<Secret, String> {
    Ok(Secret(text.to_owned()))
}

impl Credentials {
    /// Returns the credentials of a client whose certificate and authorities lie in these files.
    pub(crate) fn of_files(ca: &Path, certificate: &Path, key: &Path) -> Credentials {
        let (tls_cert, tls_key) = (Some(certificate.to_owned()), Some(key.to_owned()));
        Credentials { tls_ca: Some(ca.to_owned()), tls_cert, tls_key, ..Credentials::default() }
    }

    /// Tells whether connections are encrypted.
    pub(crate) fn are_encrypted(&self) -> bool {
        self.tls_ca.is_some()
    }

    /// Tells whether there is a certificate that says who calls.
    pub(crate) fn have_identity(&self) -> bool {
        self.tls_cert.is_some()
    }

    /// Adds them to how a client behaves. Files are looked at now, so that a slip is said before
    /// anything is sent.
    pub(crate) fn add_to(&self, options: Options) -> Result<Options, Failure> {
        Ok(Options { tls: self.tls()?, token: self.bearer()?, ..options })
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let Some(ca) = &self.tls_ca else {
            let needing = [
                ("--tls_cert", self.tls_cert.is_some()),
                ("--tls_key", self.tls_key.is_some()),
                ("--tls_server_name", self.tls_server_name.is_some()),
            ];
            return match needing.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(Failure::usage(format!("{flag} is given, and --tls_ca is not"))
                    .hint("name the file of the authorities that sign the nodes' certificates: --tls_ca ca.pem")),
                None => Ok(None),
            };
        };
        let mut tls = Tls::trusting_file(ca);
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => tls = tls.identity_files(certificate, key),
            (None, None) => {}
            (Some(_), None) => return Err(Failure::usage("--tls_cert is given, and --tls_key is not")),
            (None, Some(_)) => return Err(Failure::usage("--tls_key is given, and --tls_cert is not")),
        }
        if let Some(name) = &self.tls_server_name {
            tls = tls.server_name(name);
        }
        tls.check().map_err(|error| {
            let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            Failure::usage(format!("{error}{source}")).hint("`lockstep tls show <file>` says what is in a file")
        })?;
        Ok(Some(tls))
    }

    fn bearer(&self) -> Result<Option<Token>, Failure> {
        let token = match (&self.token, &self.token_file) {
            (Some(_), Some(_)) => {
                let failure = Failure::usage("both --token and --token_file are given");
                return Err(failure.hint("LOCKSTEP_TOKEN and LOCKSTEP_TOKEN_FILE in the environment count, too"));
            }
            (Some(Secret(text)), None) => {
                Token::fixed(text).map_err(|error| Failure::usage(format!("--token: {error}")))?
            }
            (None, Some(path)) => Token::file(path),
            (None, None) => return Ok(None),
        };
        token.check().map_err(|error| {
            let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            Failure::usage(format!("--token_file: {error}{source}"))
        })?;
        Ok(Some(token))
    }
}

/// Returns what to do about an error of a connection, if its words say that TLS failed.
pub(crate) fn advice(words: &str, has_identity: bool) -> Option<&'static str> {
    let says = |part: &str| words.contains(part);
    let is_about_the_node = says("invalid peer certificate");
    // Two authorities of one name differ in their keys alone.
    let advice = if says("UnknownIssuer") || (is_about_the_node && says("BadSignature")) {
        "no authority in --tls_ca signed the node's certificate; give the file of the cluster's own authority"
    } else if is_about_the_node && (says("NotValidForName") || says("not valid for name")) {
        "the node's certificate does not name this address: use an address that it names, or give one of its names \
         with --tls_server_name"
    } else if is_about_the_node && (says("xpired") || says("NotValidYet") || says("not valid yet")) {
        "the node's certificate does not hold today: renew it, or set the clock of this machine right"
    } else if is_about_the_node {
        "the node's certificate is refused; `lockstep tls show <file>` says what it is"
    } else if says("CertificateRequired") || (says("received fatal alert") && !has_identity) {
        "the node wants a certificate of its callers: give --tls_cert and --tls_key"
    } else if says("received fatal alert") {
        "the node refuses the certificate in --tls_cert; `lockstep tls show <file>` says what it is"
    } else if says("received corrupt message") || says("handshake eof") {
        "the node does not speak TLS at this address: leave --tls_ca out if that is meant to be so"
    } else {
        return None;
    };
    Some(advice)
}

/// Returns what to do about a node that does not know who calls.
pub(crate) fn missing(has_identity: bool, has_token: bool) -> &'static str {
    match (has_identity, has_token) {
        (_, true) => "the token was not taken; `lockstep token show` says what is in one",
        (true, false) => "the certificate was not taken; `lockstep tls show <file>` says what it is",
        (false, false) => {
            "say who calls: --tls_cert and --tls_key with the certificate of a client, or --token_file with a token"
        }
    }
}

/// A record that every TLS server answers with an alert. It is a handshake message of a length that
/// no hello has.
const PROBE: [u8; 10] = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];

/// Tells whether a TLS server listens at an address, by what it answers to a broken hello.
pub(crate) async fn speaks_tls(address: &str, limit: std::time::Duration) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let answer = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(&PROBE).await?;
        stream.read_u8().await
    };
    // An alert, or a part of a handshake.
    matches!(tokio::time::timeout(limit, answer).await, Ok(Ok(0x15 | 0x16)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn problem(credentials: &Credentials) -> String {
        format!("{:?}", credentials.add_to(Options::default()).unwrap_err())
    }

    #[test]
    fn each_slip_is_said_before_anything_is_sent() {
        let file = |text: &str| Some(PathBuf::from(text));
        let none = Credentials::default();
        assert!(none.add_to(Options::default()).unwrap().tls.is_none());
        for (credentials, expected) in [
            (Credentials { tls_cert: file("a.pem"), ..none.clone() }, "--tls_cert is given, and --tls_ca is not"),
            (
                Credentials { tls_ca: file("/nowhere/ca.pem"), ..none.clone() },
                "/nowhere/ca.pem cannot be read: No such file",
            ),
            (Credentials { tls_ca: file("ca.pem"), tls_cert: file("a.pem"), ..none.clone() }, "--tls_key is not"),
            (
                Credentials { token_file: file("/nowhere/token"), ..none.clone() },
                "the token in /nowhere/token cannot be read",
            ),
            (Credentials { token: Some(Secret("top secret".into())), ..none.clone() }, "--token: the text is no token"),
            (
                Credentials { token: Some(Secret("a".into())), token_file: file("token"), ..none.clone() },
                "both --token and --token_file",
            ),
        ] {
            let problem = problem(&credentials);
            assert!(problem.contains(expected) && !problem.contains("top secret"), "{problem}");
            assert!(!format!("{credentials:?}").contains("top secret"));
        }
    }

    #[test]
    fn what_tls_libraries_say_is_told_with_what_to_do() {
        for (has_identity, words, expected) in [
            (true, "invalid peer certificate: UnknownIssuer", "no authority in --tls_ca"),
            (true, "invalid peer certificate: BadSignature", "no authority in --tls_ca"),
            (true, "invalid peer certificate: certificate not valid for name \"x\"", "--tls_server_name"),
            (true, "invalid peer certificate: certificate expired: verification time 1 (UNIX)", "renew it"),
            (true, "received fatal alert: UnknownCA", "refuses the certificate in --tls_cert"),
            (false, "received fatal alert: CertificateRequired", "--tls_cert and --tls_key"),
            (true, "received corrupt message of type InvalidContentType", "leave --tls_ca out"),
        ] {
            let advice = advice(words, has_identity).unwrap();
            assert!(advice.contains(expected), "{words}: {advice}");
        }
        assert_eq!(advice("connection reset by peer", true), None);
    }
}
