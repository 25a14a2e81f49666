//! Which addresses other machines may reach: those where connections are encrypted and clients say
//! who they are. `--insecure` allows the others. Reads no file.

use super::{Address, ConfigError, NodeConfig};
use crate::tls::Mode;

/// Refuses an address that other machines reach, if plain text is accepted there, or if everybody
/// there may do everything.
pub(super) fn validate(config: &NodeConfig, flag: &'static str, address: &Address) -> Result<(), ConfigError> {
    let (mode, flags) = config.tls.of(flag);
    let is_for_clients = flag != "--raft_addr";
    let (problem, hint) = match mode {
        Mode::Require if is_for_clients && is_open(config) => (
            "nobody who calls has to say who it is: everybody there may do everything",
            format!("say who may call: {WHO_MAY_CALL}; {OTHERWISE}"),
        ),
        Mode::Require => return Ok(()),
        Mode::Prefer => (
            "connections in plain text are accepted",
            format!("add --insecure until every other end speaks TLS, and then {}=require", flags.mode),
        ),
        Mode::Off => {
            let encrypt = format!("encrypt it with {} and {}", flags.cert, flags.key);
            let hint = match is_for_clients {
                true => format!("{encrypt}, and say who may call: {WHO_MAY_CALL}; {OTHERWISE}"),
                false => format!("{encrypt}, and name the CA of the peers with {}; {OTHERWISE}", flags.ca),
            };
            ("the connection is neither encrypted nor authenticated", hint)
        }
    };
    Err(ConfigError::new(flag, format!("{address} can be reached from other machines, and {problem}"), hint))
}

const WHO_MAY_CALL: &str = "--tls_client_ca or --token_jwks, and --policy";
const OTHERWISE: &str = "or add --insecure if the network is trusted, or listen on localhost";

/// Whether clients need not say who they are, as `trust` sees it.
fn is_open(config: &NodeConfig) -> bool {
    config.tls.clients.ca.is_none() && config.trust.token_jwks.is_none() && config.trust.policy.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encrypted(mode: Option<Mode>) -> NodeConfig {
        let mut config = NodeConfig::default();
        (config.tls.clients.cert, config.tls.clients.key) = (Some("x.pem".into()), Some("x.key".into()));
        config.tls.clients.mode = mode;
        config
    }

    fn judged(config: &NodeConfig, flag: &'static str) -> Result<(), ConfigError> {
        let address = Address::parse(flag, "10.0.0.1:1").expect("it is an address");
        validate(config, flag, &address)
    }

    #[test]
    fn encryption_without_names_of_clients_is_not_enough() {
        for flag in ["--grpc_addr", "--http_addr"] {
            let error = judged(&encrypted(None), flag).expect_err("it is open");
            assert!(error.problem.contains("everybody there may do everything"), "{error}");
            for word in ["--tls_client_ca", "--token_jwks", "--policy", "--insecure"] {
                assert!(error.hint.contains(word), "{word}: {error}");
            }
        }
    }

    #[test]
    fn whoever_says_who_may_call_may_be_reached() {
        type Change = fn(&mut NodeConfig);
        let changes: [Change; 3] = [
            |config| config.tls.clients.ca = Some("ca.pem".into()),
            |config| config.trust.token_jwks = Some("jwks".into()),
            |config| config.trust.policy = Some("policy.toml".into()),
        ];
        for change in changes {
            let mut config = encrypted(None);
            change(&mut config);
            assert_eq!(judged(&config, "--grpc_addr"), Ok(()));
            assert_eq!(judged(&config, "--http_addr"), Ok(()));
        }
    }

    #[test]
    fn plain_text_is_refused_whoever_may_call() {
        let mut config = NodeConfig::default();
        config.trust.policy = Some("policy.toml".into());
        let error = judged(&config, "--grpc_addr").expect_err("it is plain");
        assert!(error.problem.contains("neither encrypted") && error.hint.contains("and say who may call"), "{error}");
        let error = judged(&encrypted(Some(Mode::Prefer)), "--grpc_addr").expect_err("it may be plain");
        assert!(error.hint.contains("--tls_mode=require"), "{error}");
        let error = judged(&config, "--raft_addr").expect_err("it is plain");
        assert!(error.hint.contains("--peer_tls_ca"), "{error}");
    }
}
