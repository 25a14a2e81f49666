//! Lets a call in or refuses it, before any service gets it: finds the right that its method needs,
//! asks `trust`, and writes the audit line. A stream of a caller whose right ends is ended here,
//! too. `trust` decides; this file knows where a request shows its caller, and gRPC's and HTTP's
//! words for a refusal.

use std::net::SocketAddr;
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
    from: Option<SocketAddr>,
    is_long: bool,
    /// What the call asked for, if it gets an audit line.
    arguments: Option<Arguments>,
}

/// What a call of an operator asks for, as its service notes it for the audit. Requests carry it.
#[derive(Clone, Debug, Default)]
struct Arguments(Arc<Mutex<Vec<(&'static str, String)>>>);

/// Notes what a call asks for. Never a value of the guest.
pub(super) fn note<T>(request: &tonic::Request<T>, name: &'static str, value: impl ToString) {
    if let Some(Arguments(noted)) = request.extensions().get::<Arguments>() {
        noted.lock().push((name, value.to_string()));
    }
}

/// Returns the name under which the guest knows the caller. Empty if the caller has shown none.
pub(super) fn caller_name(extensions: &http::Extensions) -> String {
    extensions.get::<Caller>().and_then(Caller::name).map(|name| name.to_string()).unwrap_or_default()
}

/// Lets a call in, or returns the status that refuses it.
pub(super) fn admit(shared: &Shared, request: &mut Request) -> Result<Admitted, Status> {
    let trust = &shared.parts.trust;
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let rights::Known { right, is_long } = rights::of(&method, shared.routes().as_deref());
    let from = address(request);
    let caller = decide(trust, request, &method, right, from).map_err(|refusal| status::not_allowed(&refusal))?;
    if caller.name().is_some() {
        request.extensions_mut().insert(caller.clone());
    }
    let arguments = trust.is_audited(right).then(Arguments::default);
    if let Some(arguments) = &arguments {
        request.extensions_mut().insert(arguments.clone());
    }
    Ok(Admitted { trust: trust.clone(), caller, method, right, from, is_long, arguments })
}

/// Returns the refusal of a page that needs the right to look, or `None` if it may be shown.
pub(super) fn refused_page(shared: &Shared, request: &Request) -> Option<Response> {
    let trust = &shared.parts.trust;
    if trust.is_http_open() {
        return None;
    }
    let method = format!("http{}", request.uri().path());
    let refusal = decide(trust, request, &method, Right::Look, address(request)).err()?;
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

/// Returns who makes the call, if it may be made. A refusal is counted and gets its audit line.
fn decide(
    trust: &Trust,
    request: &Request,
    method: &str,
    right: Right,
    from: Option<SocketAddr>,
) -> Result<Caller, Refusal> {
    let certificate = request.extensions().get::<Remote>().and_then(|remote| remote.certificate.as_ref());
    let identified = trust.identify(authorization(request.headers()), certificate, SystemTime::now());
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
    request.extensions().get::<Remote>().map(|remote| remote.address)
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
        match &self.arguments {
            Some(arguments) => Audited::new(&self, arguments.clone()).watch(response),
            None => response,
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

/// The audit line of a call that was let in. It is written when the call ends, and when its caller
/// leaves before.
struct Audited {
    trust: Trust,
    caller: Caller,
    method: String,
    from: Option<SocketAddr>,
    arguments: Arguments,
    is_written: bool,
}

impl Audited {
    fn new(call: &Admitted, arguments: Arguments) -> Audited {
        let Admitted { trust, caller, method, from, .. } = call;
        Audited {
            trust: trust.clone(),
            caller: caller.clone(),
            method: method.clone(),
            from: *from,
            arguments,
            is_written: false,
        }
    }

    fn watch(mut self, response: Response) -> Response {
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.ended(status.code(), status.message());
            return response;
        }
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.ended(status.code(), status.message());
                }
                frame
            }))
        })
    }

    fn ended(&mut self, code: Code, text: &str) {
        self.is_written = true;
        let arguments = self.arguments.0.lock();
        let (caller, method, code) = (&self.caller, &self.method, code_name(code));
        self.trust.audit(&AuditLine { caller, method, arguments: &arguments, from: self.from, code, text });
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        if !self.is_written {
            self.ended(Code::Cancelled, "the caller left before the end");
        }
    }
}
