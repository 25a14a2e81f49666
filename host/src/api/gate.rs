//! Lets a call in or refuses it, before any service gets it: finds the right that its method needs,
//! asks `trust`, and writes the audit line. A stream of a caller whose right ends is ended here,
//! too. `trust` decides; this file knows where a request shows its caller, and gRPC's and HTTP's
//! words for a refusal.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::http::metrics::code_name;
use super::{Shared, rights, status};
use crate::net::Remote;
use crate::trust::{AuditLine, Authorization, Caller, Reason, Refusal, Right, Trust};

/// A call that was let in.
pub(super) struct Admitted {
    trust: Trust,
    caller: Caller,
    method: String,
    right: Right,
    is_long: bool,
    /// Its audit line, if it gets one.
    audited: Option<Audited>,
}

/// What a request shows of its caller.
pub(super) struct Shown<'a> {
    pub(super) headers: &'a HeaderMap,
    /// The other end of its connection.
    pub(super) remote: Option<&'a Remote>,
}

impl<'a> Shown<'a> {
    fn by(request: &'a Request) -> Shown<'a> {
        Shown { headers: request.headers(), remote: request.extensions().get() }
    }

    fn address(&self) -> Option<SocketAddr> {
        self.remote.map(|remote| remote.address)
    }
}

/// Takes a request apart from its message. What the audit learns can be noted on the rest.
pub(super) fn apart<T>(request: tonic::Request<T>) -> (tonic::Request<()>, T) {
    let (metadata, extensions, message) = request.into_parts();
    (tonic::Request::from_parts(metadata, extensions, ()), message)
}

/// Notes what a call asks for. Never a value of the guest.
pub(super) fn note<T>(request: &tonic::Request<T>, name: &'static str, value: impl ToString) {
    if let Some(Audited(line)) = request.extensions().get::<Audited>() {
        line.arguments.lock().push((name, value.to_string()));
    }
}

/// Returns the name under which the guest knows the caller. Empty if the caller has shown none.
pub(super) fn caller_name(extensions: &http::Extensions) -> String {
    extensions.get().map(name_of).unwrap_or_default()
}

/// Returns the name of a caller, as the guest knows it. See [`caller_name`].
pub(super) fn name_of(caller: &Caller) -> String {
    caller.name().map(|name| name.to_string()).unwrap_or_default()
}

/// Lets a call in, or returns the status that refuses it.
pub(super) fn admit(shared: &Shared, request: &mut Request) -> Result<Admitted, Status> {
    let trust = &shared.parts.trust;
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let rights::Known { right, is_long } = rights::of(&method, shared.routes().as_deref());
    let from = address(request);
    let caller = decide(trust, &Shown::by(request), &method, right).map_err(|refusal| status::not_allowed(&refusal))?;
    if caller.name().is_some() {
        request.extensions_mut().insert(caller.clone());
    }
    let line = || Line {
        trust: trust.clone(),
        caller: caller.clone(),
        method: method.clone(),
        from,
        arguments: Mutex::new(Vec::new()),
        is_written: AtomicBool::new(false),
    };
    let audited = trust.is_audited(right).then(|| Audited(Arc::new(line())));
    if let Some(audited) = &audited {
        request.extensions_mut().insert(audited.clone());
    }
    Ok(Admitted { trust: trust.clone(), caller, method, right, is_long, audited })
}

/// Returns the refusal of a page that needs the right to look, or `None` if it may be shown.
pub(super) fn refused_page(shared: &Shared, request: &Request) -> Option<Response> {
    let trust = &shared.parts.trust;
    if trust.is_http_open() {
        return None;
    }
    let method = format!("http{}", request.uri().path());
    let refusal = decide(trust, &Shown::by(request), &method, Right::Look).err()?;
    let text = format!("{}\n", refusal.text);
    Some(match (refusal.reason, refusal.retry_after) {
        (Reason::Unauthenticated, _) => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer".to_owned())], text).into_response()
        }
        (Reason::Quota, Some(wait)) => {
            let seconds = wait.as_secs().saturating_add(1).to_string();
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds)], text).into_response()
        }
        (Reason::Denied | Reason::Quota, _) => (StatusCode::FORBIDDEN, text).into_response(),
    })
}

/// Lets a unary call of the guest in, or returns the status that refuses it. Such a call is short,
/// and nothing of it is written to the audit but its refusal.
pub(super) fn admit_unary(trust: &Trust, shown: &Shown<'_>, method: &str, right: Right) -> Result<Caller, Status> {
    debug_assert!(!trust.is_audited(right), "{right:?} is a right to a guest's method");
    decide(trust, shown, method, right).map_err(|refusal| status::not_allowed(&refusal))
}

/// Returns who makes the call, if it may be made. A refusal is counted and gets its audit line.
fn decide(trust: &Trust, shown: &Shown<'_>, method: &str, right: Right) -> Result<Caller, Refusal> {
    let (certificate, from) = (shown.remote.and_then(|remote| remote.certificate.as_ref()), shown.address());
    let identified = trust.identify(authorization(shown.headers), certificate, SystemTime::now());
    let decided = identified.and_then(|caller| match trust.allow(&caller, method, right, Instant::now()) {
        Ok(()) => Ok(caller),
        Err(refusal) => Err((caller, refusal)),
    });
    decided.map_err(|(caller, refusal)| {
        let code = code_name(status::refusal_code(refusal.reason));
        let line = AuditLine { caller: &caller, method, arguments: &[], from, code, text: &refusal.text };
        trust.audit_refused(&line, refusal.reason);
        refusal
    })
}

fn authorization(headers: &HeaderMap) -> Authorization<'_> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Authorization::Nothing,
        (Some(value), None) => Authorization::Value(value.as_bytes()),
        (Some(_), Some(_)) => Authorization::Many,
    }
}

fn address(request: &Request) -> Option<SocketAddr> {
    Shown::by(request).address()
}

impl Admitted {
    /// Accompanies the response to its end: a caller whose right ends gets no more of it, and the
    /// audit learns how it ended.
    pub(super) fn accompany(self, response: Response) -> Response {
        let ends_at_once = response.headers().contains_key("grpc-status");
        let response = match self.is_long && !ends_at_once && self.trust.is_closed() {
            true => self.until_revoked(response),
            false => response,
        };
        match self.audited {
            Some(audited) => audited.watch(response),
            None => response,
        }
    }

    /// Notes that no service got the call.
    pub(super) fn refused(self, refusal: &Status) {
        if let Some(Audited(line)) = self.audited {
            line.ended(refusal.code(), refusal.message());
        }
    }

    fn until_revoked(&self, response: Response) -> Response {
        let revoked = self.trust.clone().revoked(self.caller.clone(), self.method.clone(), self.right);
        let refusal = Arc::new(OnceLock::new());
        let refused = refusal.clone();
        let end = async move {
            // It is set once, here.
            let _first = refused.set(revoked.await);
        };
        response.map(|body| {
            let frames = BodyStream::new(body).take_until(Box::pin(end));
            let trailers = async move { refusal.get().map(|refusal| Ok(trailers(refusal))) };
            Body::new(StreamBody::new(frames).with_trailers(Box::pin(trailers)))
        })
    }
}

fn trailers(refusal: &Refusal) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if let Err(error) = status::not_allowed(refusal).add_header(&mut trailers) {
        tracing::error!(%error, "the end of a stream cannot be told");
    }
    trailers
}

/// The audit line of a call that was let in. It is written when the call ends. If its caller leaves
/// before, it is written when nothing works on the call any more: a change that was proposed goes
/// on, and notes its end. Requests carry it.
#[derive(Clone)]
struct Audited(Arc<Line>);

struct Line {
    trust: Trust,
    caller: Caller,
    method: String,
    from: Option<SocketAddr>,
    /// What the call asks for, as its service notes it.
    arguments: Mutex<Vec<(&'static str, String)>>,
    is_written: AtomicBool,
}

impl Audited {
    fn watch(self, response: Response) -> Response {
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.0.ended(status.code(), status.message());
            return response;
        }
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.0.ended(status.code(), status.message());
                }
                frame
            }))
        })
    }
}

impl Line {
    fn ended(&self, code: Code, text: &str) {
        if self.is_written.swap(true, Relaxed) {
            return;
        }
        let arguments = self.arguments.lock();
        let (caller, method, code) = (&self.caller, &self.method, code_name(code));
        self.trust.audit(&AuditLine { caller, method, arguments: &arguments, from: self.from, code, text });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.ended(Code::Cancelled, "the caller left before the end");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::trust::TrustSettings;

    /// Returns the lines that `work` leads to.
    fn lines(work: impl FnOnce(Audited)) -> Vec<serde_json::Value> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("audit");
        let trust = Trust::open(TrustSettings { audit_file: Some(path.clone()), ..TrustSettings::default() }).unwrap();
        let line = Line {
            trust: trust.clone(),
            caller: Caller::default(),
            method: "lockstep.v1.Admin/Upgrade".to_owned(),
            from: None,
            arguments: Mutex::new(Vec::new()),
            is_written: AtomicBool::new(false),
        };
        work(Audited(Arc::new(line)));
        trust.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_call_whose_caller_left_before_the_response_has_a_line() {
        let lines = lines(drop);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["code"], "CANCELLED");
        assert_eq!(lines[0]["text"], "the caller left before the end");
    }

    #[test]
    fn what_goes_on_without_its_caller_notes_its_end() {
        let lines = lines(|audited| {
            let mut call = tonic::Request::new(());
            call.extensions_mut().insert(audited.clone());
            drop(audited);
            note(&call, "end", "changed at entry 7");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].to_string().contains("changed at entry 7"), "{lines:?}");
    }

    #[test]
    fn a_call_that_ended_has_one_line() {
        let lines = lines(|audited| {
            let response = audited.clone().watch(Status::not_found("no").into_http::<Body>());
            drop((response, audited));
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["code"], "NOT_FOUND");
    }
}
