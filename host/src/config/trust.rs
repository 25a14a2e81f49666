//! The settings about who may do what: which tokens, which policy, which audit. Their files are
//! looked for here, and read by `trust`.

use std::path::{Path, PathBuf};

use super::ConfigError;

/// What an operator decides about clients, beside certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustConfig {
    /// The file with the keys of tokens: a JWKS or PEM.
    pub token_jwks: Option<PathBuf>,
    /// The issuer that a token must name.
    pub token_issuer: Option<String>,
    /// The audience that a token must name.
    pub token_audience: Option<String>,
    /// The file with the policy.
    pub policy: Option<PathBuf>,
    /// Whether `/metrics` and `/status` are open to everybody.
    pub http_open: bool,
    /// The file of the audit.
    pub audit_file: Option<PathBuf>,
}

impl TrustConfig {
    /// Refuses settings that cannot work.
    pub(super) fn validate(&self, http_addr: Option<&str>) -> Result<(), ConfigError> {
        let claims = [("--token_issuer", &self.token_issuer), ("--token_audience", &self.token_audience)];
        for (flag, text) in claims {
            let Some(text) = text else { continue };
            if text.is_empty() {
                return Err(ConfigError::new(
                    flag,
                    "no token names an empty one",
                    "leave it out to take tokens of any",
                ));
            }
            if self.token_jwks.is_none() {
                let hint = "add --token_jwks with the issuer's public keys, or leave this out";
                return Err(ConfigError::new(flag, "without keys no token is taken at all", hint));
            }
        }
        if self.http_open && http_addr.is_none() {
            let hint = "add --http_addr, or leave this out";
            return Err(ConfigError::new("--http_open", "there is no port that it could open", hint));
        }
        exists("--token_jwks", self.token_jwks.as_deref(), "`lockstep token keygen` makes one")?;
        exists("--policy", self.policy.as_deref(), "docs/access.md has an example")?;
        self.validate_audit_file()
    }

    fn validate_audit_file(&self) -> Result<(), ConfigError> {
        let Some(path) = &self.audit_file else { return Ok(()) };
        let refuse = |problem: String| {
            Err(ConfigError::new("--audit_file", problem, "name a file; it is made if it is not there"))
        };
        if path.is_dir() {
            return refuse(format!("{} is a directory", path.display()));
        }
        match path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.is_dir()) {
            Some(parent) => refuse(format!("there is no directory {}", parent.display())),
            None => Ok(()),
        }
    }
}

fn exists(flag: &'static str, path: Option<&Path>, hint: &str) -> Result<(), ConfigError> {
    match path {
        Some(path) if path.is_dir() => {
            Err(ConfigError::new(flag, format!("{} is a directory", path.display()), "name the file in it"))
        }
        Some(path) if !path.exists() => Err(ConfigError::new(
            flag,
            format!("there is no file {}", path.display()),
            format!("check the path; {hint}"),
        )),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_names_its_flag() {
        let base = TrustConfig::default();
        let text = |text: &str| Some(text.to_owned());
        let rows = [
            ("--token_issuer", "without keys", TrustConfig { token_issuer: text("me"), ..base.clone() }),
            ("--token_audience", "an empty one", TrustConfig { token_audience: text(""), ..base.clone() }),
            ("--token_jwks", "no file", TrustConfig { token_jwks: Some("/nowhere/jwks".into()), ..base.clone() }),
            ("--token_jwks", "is a directory", TrustConfig { token_jwks: Some("/".into()), ..base.clone() }),
            ("--policy", "no file", TrustConfig { policy: Some("/nowhere/policy".into()), ..base.clone() }),
            ("--http_open", "no port", TrustConfig { http_open: true, ..base.clone() }),
            ("--audit_file", "no directory", TrustConfig { audit_file: Some("/nowhere/audit".into()), ..base.clone() }),
            ("--audit_file", "is a directory", TrustConfig { audit_file: Some("/".into()), ..base.clone() }),
        ];
        for (flag, problem, config) in rows {
            let error = config.validate(None).expect_err(problem);
            assert_eq!(error.flag, flag, "{error}");
            assert!(error.problem.contains(problem) && !error.hint.is_empty(), "{error}");
        }
        let open = TrustConfig { http_open: true, audit_file: Some("audit.json".into()), ..base.clone() };
        assert_eq!(open.validate(Some("localhost:0")), Ok(()));
        assert_eq!(base.validate(None), Ok(()));
    }
}
