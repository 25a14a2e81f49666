//! The certificates of a node: opened before anything on disk is touched, looked at while the node
//! runs, and a warning before they expire. `tls` says what is wrong with a file; here it gets the
//! flag that named it.

use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::config::{CLIENT_FLAGS, ConfigError, NodeConfig, PEER_FLAGS, PortTls, TlsFlags};
use crate::net::Sockets;
use crate::tls::{Audience, Looked, Mode, OwnCluster, Server, ServerSettings, TlsError};

/// Time between two looks at the files.
const LOOK_PAUSE: Duration = Duration::from_secs(3);
/// A certificate that expires sooner is warned of.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Time between two such warnings.
const WARNING_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// The accepting ends of a node.
pub(super) struct Certificates {
    clients: Kept,
    peers: Kept,
}

/// One use of certificates.
#[derive(Clone)]
struct Kept {
    /// For whom they are.
    used: &'static str,
    flags: TlsFlags,
    server: Server,
}

/// Reads the files that the flags name.
///
/// # Errors
/// A file cannot be used.
pub(super) fn open(config: &NodeConfig) -> Result<Certificates, ConfigError> {
    let clients = Audience::Clients { min_version: config.tls.min_version };
    let peers = Audience::Peers { raft_id: config.name.clone() };
    Ok(Certificates {
        clients: Kept::open("clients", &config.tls.clients, clients, CLIENT_FLAGS)?,
        peers: Kept::open("peers", &config.tls.peers, peers, PEER_FLAGS)?,
    })
}

impl Certificates {
    /// Returns the ports as they are to accept connections. Handshakes of peers run in
    /// `giving_way`, because whoever reaches the port can begin one.
    pub(super) fn on(&self, sockets: Sockets, giving_way: &Handle) -> Sockets {
        Sockets {
            clients: sockets.clients.encrypted_by(self.clients.server.clone()),
            peers: sockets.peers.encrypted_by(self.peers.server.clone()).with_handshakes_on(giving_way.clone()),
            http: sockets.http.encrypted_by(self.clients.server.clone()),
            descriptors: sockets.descriptors,
        }
    }

    /// Returns what names this node's cluster.
    pub(super) fn cluster(&self, raft_id: &str) -> OwnCluster {
        let (peers, clients) = (self.peers.server.clone(), self.clients.server.clone());
        OwnCluster { raft_id: raft_id.to_owned(), peers, clients }
    }

    /// Warns if clients have names here, and peers do not prove theirs.
    pub(super) fn check_names(&self, is_closed: bool) {
        if is_closed && self.peers.server.mode() != Mode::Require {
            tracing::warn!(
                flag = self.peers.flags.mode,
                "commands of named clients that a follower takes will be refused: a node that shows no certificate \
                 forwards them, so the name of the client cannot be believed; give all nodes --peer_tls_cert, \
                 --peer_tls_key and --peer_tls_ca, and require TLS"
            );
        }
    }

    /// Returns the accepting end for peers.
    pub(super) fn of_peers(&self) -> &Server {
        &self.peers.server
    }

    /// Returns which ports are encrypted, for people.
    pub(super) fn describe(&self, has_http: bool) -> String {
        let ports = [("grpc", &self.clients), ("raft", &self.peers), ("http", &self.clients)];
        let words = ports.iter().filter(|(name, _)| has_http || *name != "http").filter_map(|(name, kept)| match kept
            .server
            .mode()
        {
            Mode::Off => None,
            Mode::Prefer => Some(format!("{name} (plain text as well)")),
            Mode::Require => Some((*name).to_owned()),
        });
        let words: Vec<String> = words.collect();
        if words.is_empty() { "nothing".into() } else { words.join(", ") }
    }

    /// Looks at the files for as long as the node lives.
    pub(super) async fn keep(self) {
        tokio::join!(self.clients.keep(), self.peers.keep());
    }
}

impl Kept {
    fn open(used: &'static str, port: &PortTls, audience: Audience, flags: TlsFlags) -> Result<Kept, ConfigError> {
        let server = match port.files() {
            None => Server::plain(),
            Some(files) => {
                let opened = Server::open(ServerSettings { mode: port.mode(), files, audience });
                opened.map_err(|TlsError { part, problem, hint }| ConfigError::new(flags.of(part), problem, hint))?
            }
        };
        Ok(Kept { used, flags, server })
    }

    async fn keep(self) {
        if self.server.mode() == Mode::Off {
            return;
        }
        let mut expiry = Expiry::default();
        loop {
            self.warn_of_expiry(&mut expiry);
            sleep(LOOK_PAUSE).await;
            let server = self.server.clone();
            match tokio::task::spawn_blocking(move || server.look()).await {
                Ok(Looked::Same) => {}
                Ok(Looked::Changed) => {
                    self.tell_of_change();
                    expiry = Expiry::default();
                }
                Ok(Looked::Refused(error)) => self.tell_of_refusal(&error),
                Err(error) => tracing::error!(%error, "looking at the files of TLS failed"),
            }
        }
    }

    fn tell_of_change(&self) {
        let Some(own) = self.server.own() else { return };
        let expires = humantime::format_rfc3339_seconds(own.not_after);
        let authorities = self.server.authorities();
        let trusted: Vec<String> =
            authorities.iter().map(|ca| format!("{} ({})", ca.describe(), ca.fingerprint)).collect();
        tracing::info!(used_for = self.used, names = own.describe(), %expires, fingerprint = own.fingerprint,
            authorities = trusted.join(", "), "new connections use the new files of TLS");
    }

    fn tell_of_refusal(&self, error: &TlsError) {
        let flag = self.flags.of(error.part);
        tracing::error!(
            used_for = self.used,
            flag,
            problem = error.problem,
            hint = error.hint,
            "new files of TLS cannot be used: the old ones stay in use"
        );
    }

    /// Warns if that is due.
    fn warn_of_expiry(&self, expiry: &mut Expiry) {
        let Some(own) = self.server.own() else { return };
        let (flag, expires) = (self.flags.cert, humantime::format_rfc3339_seconds(own.not_after));
        match expiry.due(own.not_after, SystemTime::now(), Instant::now()) {
            None => {}
            Some(Warning::Expired) => {
                tracing::error!(flag, %expires, "the certificate has expired, and nobody accepts it: replace the file");
            }
            Some(Warning::Soon(left)) => {
                let left = humantime::format_duration(left);
                tracing::warn!(flag, %expires, %left, "the certificate expires soon: replace the file, which needs no restart");
            }
        }
    }
}

/// The warnings about one certificate.
#[derive(Debug, Default)]
struct Expiry {
    warned: Option<Instant>,
}

/// What is to be said about the end of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Warning {
    /// It ends after this time, in whole seconds.
    Soon(Duration),
    Expired,
}

impl Expiry {
    /// Returns what is to be said at `now`, which is `at` by the clock that nobody sets: something
    /// once a day while the certificate expires soon, and first at once.
    fn due(&mut self, not_after: SystemTime, now: SystemTime, at: Instant) -> Option<Warning> {
        let left = not_after.duration_since(now).unwrap_or_default();
        let is_due = self.warned.is_none_or(|warned| at.saturating_duration_since(warned) >= WARNING_PAUSE);
        if left >= EXPIRES_SOON || !is_due {
            return None;
        }
        self.warned = Some(at);
        Some(if left.is_zero() { Warning::Expired } else { Warning::Soon(Duration::from_secs(left.as_secs())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_is_warned_of_once_a_day_from_14_days_before_its_end() {
        let (not_after, at) = (SystemTime::UNIX_EPOCH + 1_000 * DAY, Instant::now());
        let mut expiry = Expiry::default();
        // Time before the end, hours since the beginning, and what is said.
        let rows = [
            (15 * DAY, 0, None),
            (14 * DAY, 24, None),
            (14 * DAY - HOUR, 25, Some(Warning::Soon(14 * DAY - HOUR))),
            (14 * DAY - 2 * HOUR, 26, None),
            (13 * DAY, 48, None),
            (13 * DAY - HOUR, 49, Some(Warning::Soon(13 * DAY - HOUR))),
            (HOUR, 400, Some(Warning::Soon(HOUR))),
            (Duration::ZERO, 401, None),
            (Duration::ZERO, 424, Some(Warning::Expired)),
            (Duration::ZERO, 447, None),
            (Duration::ZERO, 448, Some(Warning::Expired)),
        ];
        for (left, hours, expected) in rows {
            assert_eq!(expiry.due(not_after, not_after - left, at + hours * HOUR), expected, "{left:?} before");
        }
        assert_eq!(expiry.due(not_after, not_after + DAY, at + 480 * HOUR), Some(Warning::Expired));
        let mut of_new_file = Expiry::default();
        assert_eq!(of_new_file.due(not_after, not_after - DAY, at), Some(Warning::Soon(DAY)), "a new file begins anew");
    }
}
