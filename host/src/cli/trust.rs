//! The flags of `lockstep node` about who may do what.

use std::path::PathBuf;

use clap::ArgAction;
use clap::builder::BoolishValueParser;

use crate::config::TrustConfig;

/// Who may do what. Without any of these and without certificates of clients, everybody who can
/// reach the ports may do everything.
#[derive(Debug, clap::Args)]
pub(crate) struct TrustArgs {
    /// Public keys of the tokens that clients show as `authorization: Bearer ...`: a JWKS, or PEM.
    /// The file is watched
    #[arg(long = "token_jwks", env = "LOCKSTEP_TOKEN_JWKS", value_name = "FILE")]
    token_jwks: Option<PathBuf>,

    /// Issuer that a token must name [default: any]
    #[arg(long = "token_issuer", env = "LOCKSTEP_TOKEN_ISSUER", value_name = "TEXT")]
    token_issuer: Option<String>,

    /// Audience that a token must name [default: none, and a token that names one is refused]
    #[arg(long = "token_audience", env = "LOCKSTEP_TOKEN_AUDIENCE", value_name = "TEXT")]
    token_audience: Option<String>,

    /// Who has which role, for which methods, how often: a TOML file, which is watched
    #[arg(long = "policy", env = "LOCKSTEP_POLICY", value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Serve /metrics and /status to everybody who can reach --http_addr
    #[arg(long = "http_open", env = "LOCKSTEP_HTTP_OPEN", value_name = "true|false",
        default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
        value_parser = BoolishValueParser::new(), action = ArgAction::Set)]
    http_open: bool,

    /// File to which the audit lines are appended as JSON, beside the log
    #[arg(long = "audit_file", env = "LOCKSTEP_AUDIT_FILE", value_name = "FILE")]
    audit_file: Option<PathBuf>,
}

impl TrustArgs {
    pub(crate) fn config(&self) -> TrustConfig {
        TrustConfig {
            token_jwks: self.token_jwks.clone(),
            token_issuer: self.token_issuer.clone(),
            token_audience: self.token_audience.clone(),
            policy: self.policy.clone(),
            http_open: self.http_open,
            audit_file: self.audit_file.clone(),
        }
    }
}
