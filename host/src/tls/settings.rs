//! How TLS is used on a port, and why that cannot be done. Reads no file.

use std::path::PathBuf;
use std::str::FromStr;

/// Whether connections of a port are encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// No connection is.
    #[default]
    Off,
    /// A connection is if both ends can do it.
    Prefer,
    /// Every connection is. Others are refused.
    Require,
}

impl Mode {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Prefer => "prefer",
            Mode::Require => "require",
        }
    }
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Mode, Self::Err> {
        [Mode::Off, Mode::Prefer, Mode::Require]
            .into_iter()
            .find(|mode| mode.word() == word)
            .ok_or("expected off, prefer or require")
    }
}

/// The oldest TLS that clients may speak. Peers always speak 1.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    #[default]
    Tls13,
}

impl MinVersion {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            MinVersion::Tls12 => "1.2",
            MinVersion::Tls13 => "1.3",
        }
    }
}

impl FromStr for MinVersion {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<MinVersion, Self::Err> {
        [MinVersion::Tls12, MinVersion::Tls13]
            .into_iter()
            .find(|version| version.word() == word)
            .ok_or("expected 1.2 or 1.3; older versions are not supported")
    }
}

/// The files of one use, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and after it those between it and the CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CAs that the other end's certificate must come from.
    pub ca: Option<PathBuf>,
}

/// Who connects to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Clients. They may show a certificate, if there is a CA for it.
    Clients {
        /// The oldest TLS that they may speak.
        min_version: MinVersion,
    },
    /// Other nodes. They must show a certificate. Ours has to name this node.
    Peers {
        /// This node's `--raft_id`.
        raft_id: String,
    },
}

/// What a [`super::Server`] is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// Whether connections are encrypted.
    pub mode: Mode,
    /// The files.
    pub files: Files,
    /// Who connects.
    pub audience: Audience,
}

/// One of [`Files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The certificate.
    Certificate,
    /// The key.
    Key,
    /// The CAs.
    Ca,
}

/// Files that cannot be used: which one, the problem, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct TlsError {
    /// The file.
    pub part: Part,
    /// One sentence without its full stop.
    pub problem: String,
    /// What to do.
    pub hint: String,
}

impl TlsError {
    pub(super) fn new(part: Part, problem: impl Into<String>, hint: impl Into<String>) -> TlsError {
        TlsError { part, problem: problem.into(), hint: hint.into() }
    }
}
