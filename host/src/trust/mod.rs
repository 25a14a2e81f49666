//! Who a client is, and what it may do: tokens and their keys, names in client certificates, the
//! policy with its roles and quotas, and the audit. Knows no gRPC service, no Raft and no guest:
//! `api` says which right a method needs, asks here, and tells the client.
//!
//! ```text
//! api ─┬─ identify (token: verified, tokens, keys; or the certificate) ──► Caller
//!      ├─ allow (roles of the token; policy: state, quota) ─────────────► yes, or a Refusal
//!      └─ audit ──► the node's log, and a file
//! files ──► new keys or a new policy ──► state ──► streams whose caller may go on no more
//! ```
//!
//! - Without client certificates, keys or a policy, everything is allowed (`is_closed` is false).
//! - With any of them, what no grant allows is refused.
//! - A token that is shown is checked, whoever else may make the call.

mod audit;
mod bucket;
mod caller;
mod counts;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod issue;
mod keys;
mod policy;
mod quota;
mod refusal;
mod roles;
mod shown;
mod state;
mod tokens;
mod verified;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::limit::Limit;
use crate::tls::{Certificate, OwnCluster};
use counts::Counts;
use files::Watched;
use policy::POLICY_BYTES_MAX;
use state::{Fare, State};
use verified::Verified;

pub use audit::AuditLine;
pub use caller::Caller;
pub use counts::TrustFigures;
pub use issue::{NewKey, NewToken, Shown, new_key, show, with_key, write_new, write_over};
pub use keys::{KEYS_BYTES_MAX, Keys};
pub use policy::{ANONYMOUS, Policy, PolicyError};
pub use refusal::{Reason, Refusal};
pub use roles::{Right, Role, Roles};
pub use shown::Authorization;
pub use tokens::{LEEWAY, SUBJECT_BYTES_MAX, TOKEN_BYTES_MAX, TokenRules};

/// Time between two looks at the files.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Longest sleep until the end of a token or a certificate: the clock may be set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Longest wait for the audit file at the end of a process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What an operator decides about clients.
#[derive(Clone, Debug, Default)]
pub struct TrustSettings {
    /// Name of this node, for the audit file.
    pub node: String,
    /// What names this node's cluster. Clients of others are nobody here.
    pub cluster: OwnCluster,
    /// Whether the client port checks certificates of clients.
    pub client_certificates: bool,
    /// The file with the keys of tokens.
    pub keys: Option<PathBuf>,
    /// What a token must be.
    pub rules: TokenRules,
    /// The file with the policy.
    pub policy: Option<PathBuf>,
    /// Whether the pages of figures are open to everybody.
    pub http_open: bool,
    /// The file of the audit.
    pub audit_file: Option<PathBuf>,
}

/// A file that cannot be used when the node starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError {
    /// The flag that names it.
    pub flag: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub hint: &'static str,
}

/// Decides who may do what. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: TrustSettings,
    state: ArcSwap<State>,
    files: Mutex<Files>,
    /// Counts new states, for those who wait for the end of a right.
    changed: watch::Sender<u64>,
    audit: audit::Audit,
    counts: Counts,
}

#[derive(Debug)]
struct Files {
    policy: Option<Watched>,
    keys: Option<Watched>,
}

/// The watched files, as the counts number them.
const POLICY: usize = 0;
const KEYS: usize = 1;

impl Trust {
    /// Reads the files.
    pub fn open(settings: TrustSettings) -> Result<Trust, OpenError> {
        let hint = "docs/access.md has an example";
        let policy_flag = ("--policy", POLICY_BYTES_MAX, hint);
        let (policy_file, policy) = open(settings.policy.as_deref(), policy_flag, |text| {
            Policy::parse(text).map_err(|error| error.to_string())
        })?;
        let hint = "name a JWKS, or public keys in PEM; `lockstep token keygen` makes one";
        let (keys_file, keys) = open(settings.keys.as_deref(), ("--token_jwks", KEYS_BYTES_MAX, hint), Keys::parse)?;
        let audit = audit::Audit::open(&settings.node, settings.audit_file.as_deref()).map_err(|error| OpenError {
            flag: "--audit_file",
            problem: format!("it cannot be opened: {error}"),
            hint: "name a file in a directory that this user may write to",
        })?;
        if settings.client_certificates && settings.keys.is_none() && settings.policy.is_none() {
            tracing::warn!("clients show certificates, and nothing grants them anything: add --policy");
        }
        if settings.keys.is_some() {
            settings.rules.warn();
        }
        Ok(Trust(Arc::new(Inner {
            state: ArcSwap::from_pointee(State::new(keys, policy)),
            files: Mutex::new(Files { policy: policy_file, keys: keys_file }),
            changed: watch::channel(0).0,
            audit,
            counts: Counts::default(),
            settings,
        })))
    }

    /// Whether clients must say who they are.
    pub fn is_closed(&self) -> bool {
        let settings = &self.0.settings;
        settings.client_certificates || settings.keys.is_some() || settings.policy.is_some()
    }

    /// Whether the pages of figures are open to everybody.
    pub fn is_http_open(&self) -> bool {
        self.0.settings.http_open || !self.is_closed()
    }

    /// Returns who makes a call. A refusal comes with what is known of the caller in spite of it.
    pub fn identify(
        &self,
        authorization: Authorization<'_>,
        certificate: Option<&Arc<Certificate>>,
        now: SystemTime,
    ) -> Result<Caller, (Caller, Refusal)> {
        if !self.is_closed() {
            return Ok(Caller::default());
        }
        let cluster = certificate.map(|_| self.0.settings.cluster.name()).unwrap_or_default();
        let shown = certificate.map(|certificate| shown::certified(certificate, &cluster, now)).transpose();
        let unfit = certificate.filter(|_| shown.is_err());
        let (certified, problem) = match (self.bearer(authorization, now), shown) {
            // A token needs no certificate, and so not a good one.
            (Ok(Some(bearer)), shown) => {
                return Ok(Caller { bearer: Some(bearer), certified: shown.ok().flatten(), unproven: None });
            }
            (Ok(None), Ok(certified)) => return Ok(Caller { certified, ..Caller::default() }),
            (Ok(None), Err(problem)) => (None, problem.to_owned()),
            (Err(problem), shown) => (shown.ok().flatten(), problem),
        };
        let unproven = Some(Arc::new(shown::unproven(authorization, unfit)));
        Err((Caller { bearer: None, certified, unproven }, Refusal::unauthenticated(problem)))
    }

    fn bearer(&self, authorization: Authorization<'_>, now: SystemTime) -> Result<Option<Arc<tokens::Bearer>>, String> {
        let Some(token) = authorization.token()? else { return Ok(None) };
        if self.0.settings.keys.is_none() {
            return Err("this node takes no tokens: it was started without --token_jwks".into());
        }
        let state = self.0.state.load();
        let hash = Verified::hash(token);
        if let Some(bearer) = state.verified.get(&hash, now) {
            return Ok(Some(bearer));
        }
        let bearer = tokens::verify(token, &state.keys, &self.0.settings.rules, now).map_err(|bad| bad.to_string())?;
        let bearer = Arc::new(bearer);
        state.verified.put(hash, bearer.clone(), now);
        Ok(Some(bearer))
    }

    /// Checks that the caller may call the method, and counts the call.
    pub fn allow(&self, caller: &Caller, method: &str, right: Right, now: Instant) -> Result<(), Refusal> {
        self.judge(caller, method, right, now)?;
        self.0.counts.admitted(caller);
        Ok(())
    }

    fn judge(&self, caller: &Caller, method: &str, right: Right, now: Instant) -> Result<(), Refusal> {
        if !self.is_closed() || has_role(caller, right) {
            return Ok(());
        }
        match self.0.state.load().call(caller.name(), method, right, now) {
            Fare::Allowed => Ok(()),
            Fare::Denied => Err(self.denied(caller, method, right)),
            Fare::TooMany(per_second, wait) => Err(Refusal::too_many(caller.name(), method, per_second, wait)),
        }
    }

    fn denied(&self, caller: &Caller, method: &str, right: Right) -> Refusal {
        let Some(name) = caller.name() else { return Refusal::unauthenticated(self.who_are_you()) };
        Refusal::denied(name, method, right)
    }

    fn who_are_you(&self) -> String {
        let settings = &self.0.settings;
        let token = "a token (`authorization: Bearer <token>`)";
        match (settings.client_certificates, settings.keys.is_some()) {
            (true, true) => format!("nobody may do this without a name: show a client certificate or {token}"),
            (true, false) => "nobody may do this without a name: show a client certificate".into(),
            (false, true) => format!("nobody may do this without a name: show {token}"),
            (false, false) => format!(
                "the policy grants this to nobody without a name, and this node takes no proof of one: it grants only to \
                 `{ANONYMOUS}` until --token_jwks or --tls_client_ca is set"
            ),
        }
    }

    /// Completes when a caller that was let in may go on no more: the policy or the keys have
    /// changed, or its token or certificate has expired.
    pub async fn revoked(self, caller: Caller, method: String, right: Right) -> Refusal {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let now = SystemTime::now();
            if let Err(refusal) = self.still(&caller, &method, right, now) {
                return refusal;
            }
            let left = caller.until().map(|until| until.duration_since(now).unwrap_or_default().min(SLEEP_MAX));
            let expiry = async {
                match left {
                    // The clock may be a little behind the timer.
                    Some(left) => tokio::time::sleep(left + Duration::from_millis(1)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives as long as `self`.
                Ok(()) = changed.changed() => {}
                () = expiry => {}
            }
        }
    }

    fn still(&self, caller: &Caller, method: &str, right: Right, now: SystemTime) -> Result<(), Refusal> {
        if !self.is_closed() {
            return Ok(());
        }
        let state = self.0.state.load();
        if caller.until().is_some_and(|until| now >= until) {
            return Err(Refusal::unauthenticated(format!("the {} of this call has expired", caller.proof())));
        }
        if caller.bearer.as_ref().is_some_and(|bearer| !state.keys.has(&bearer.key)) {
            return Err(Refusal::unauthenticated("the key that signed the token of this call is no longer trusted"));
        }
        if has_role(caller, right) || state.allows(caller.name(), method, right) {
            return Ok(());
        }
        Err(self.denied(caller, method, right))
    }

    /// Looks at the files for as long as the node lives.
    pub async fn watch_files(self) {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            let trust = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || trust.look()).await {
                tracing::error!(%error, "looking at the policy and the keys of tokens failed");
            }
        }
    }

    /// Looks once, and takes what has changed and is the same as at the look before.
    fn look(&self) {
        let mut files = self.0.files.lock();
        let state = self.0.state.load_full();
        let policy =
            self.changed(files.policy.as_mut(), POLICY, |text| Policy::parse(text).map_err(|error| error.to_string()));
        let keys = self.changed(files.keys.as_mut(), KEYS, Keys::parse);
        if policy.is_none() && keys.is_none() {
            return;
        }
        let policy = policy.unwrap_or_else(|| state.policy.clone());
        let keys = keys.unwrap_or_else(|| state.keys.clone());
        self.0.state.store(Arc::new(State::new(keys, policy)));
        self.0.changed.send_modify(|version| *version += 1);
    }

    fn changed<T>(
        &self,
        file: Option<&mut Watched>,
        number: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let file = file?;
        let parsed = file.look()?.and_then(|text| parse(&text));
        let (flag, path) = (file.flag, file.path().display());
        self.0.counts.is_refused[number].store(parsed.is_err(), Relaxed);
        match parsed {
            Ok(parsed) => {
                self.0.counts.reloads[number].fetch_add(1, Relaxed);
                tracing::info!(flag, %path, "a new file is in force");
                Some(parsed)
            }
            Err(problem) => {
                self.0.counts.reloads_refused[number].fetch_add(1, Relaxed);
                tracing::error!(flag, %path, problem, "the new file cannot be used; what was in force stays in force");
                None
            }
        }
    }

    /// Whether a call that was let in gets an audit line.
    pub fn is_audited(&self, right: Right) -> bool {
        match right {
            Right::Administer => true,
            Right::Operate => self.is_closed() || self.0.audit.has_file(),
            Right::Look | Right::Query | Right::Command => false,
        }
    }

    /// Writes the audit line of a call that was let in.
    pub fn audit(&self, line: &AuditLine<'_>) {
        self.0.audit.write(line);
    }

    /// Counts a refused call, and writes its audit line.
    pub fn audit_refused(&self, line: &AuditLine<'_>, reason: Reason) {
        self.0.counts.refused(reason);
        self.0.audit.write_refused(line, reason, Instant::now());
    }

    /// Waits a moment until all audit lines are in their file. It blocks the thread.
    pub fn flush(&self) {
        self.0.audit.flush(FLUSH_TIMEOUT);
    }

    /// Returns how near the limits are of what it remembers, and of audit lines that wait.
    pub fn limits(&self) -> Vec<Limit> {
        self.0.state.load().limits().into_iter().chain(self.0.audit.limit()).collect()
    }

    /// Returns figures for operators.
    pub fn figures(&self) -> TrustFigures {
        let remembered = self.0.state.load().verified.len() as u64;
        self.0.counts.figures(self.0.audit.dropped(), remembered)
    }
}

fn has_role(caller: &Caller, right: Right) -> bool {
    caller.bearer.as_ref().is_some_and(|bearer| bearer.roles.may(right))
}

/// Returns the subject of a token, or why it is refused. A node does this with [`Trust::identify`].
pub fn check_token(token: &str, keys: &Keys, rules: &TokenRules, now: SystemTime) -> Result<String, String> {
    let bearer = tokens::verify(token, keys, rules, now).map_err(|bad| bad.to_string())?;
    Ok(bearer.name.to_string())
}

/// Opens a watched file, if there is to be one, and reads what stands in it.
fn open<T: Default>(
    path: Option<&Path>,
    (flag, bytes_max, hint): (&'static str, usize, &'static str),
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<(Option<Watched>, T), OpenError> {
    let Some(path) = path else { return Ok((None, T::default())) };
    let refuse = |problem: String| OpenError { flag, problem: format!("{}: {problem}", path.display()), hint };
    let (file, text) = Watched::open(flag, path, bytes_max).map_err(refuse)?;
    Ok((Some(file), parse(&text).map_err(refuse)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "trust_tests.rs"]
mod tests;
