//! The short way of a guest's unary call, from the connection to its reply. A call takes it whose
//! headers and message are plain; every other one goes through the router, or, if only its message
//! is odd, through `dynamic`. The short way leaves out no check: `gate` admits the call, `bodies`
//! counts its bytes, its deadline ends it. It leaves out boxes, copies and tables. Decides nothing
//! about a call.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http::request::Parts;
use http::{HeaderValue, Request, Response, header};
use lockstep_contract::Kind;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::bodies::{self, Held, Incoming, Outgoing};
use super::message::{self, Read};
use super::routes::Unary;
use super::{Api, Shared, call_router, dynamic, gate, status, trailers};
use crate::calls::budget::Lease;
use crate::calls::{self, Connection, DEADLINE_DEFAULT};
use crate::guest::StatusSource;
use crate::net::{Frame, Remote, RequestBody, SizeHint, media};
use crate::trust::Caller;

/// Who is at the other end of one connection, and what its calls need.
pub(super) struct Client {
    api: Api,
    connection: Connection,
    remote: Remote,
    status: StatusSource,
}

/// One call, as long as it is on the short way.
struct Call {
    client: Arc<Client>,
    route: Arc<Unary>,
    caller: Caller,
    started: Instant,
    deadline: Instant,
}

/// Answers one request.
pub(super) async fn answer(
    client: Arc<Client>,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Infallible> {
    let Some((route, timeout)) = client.plain(&request) else {
        // In a box, so that the task of a plain call has no room for this.
        return Ok(Box::pin(client.by_router(request)).await.map(ResponseBody::Other));
    };
    let (parts, body) = request.into_parts();
    let shown = gate::Shown { headers: &parts.headers, remote: Some(&client.remote) };
    let caller = match gate::admit_unary(&client.shared().parts.trust, &shown, &route.method.name, route.right) {
        Ok(caller) => caller,
        Err(refusal) => return Ok(Box::pin(refused(body, refusal)).await),
    };
    let (incoming, held) = match bodies::unary(body, &parts.headers, client.connection.share()) {
        Ok(counted) => counted,
        Err((body, refusal)) => return Ok(Box::pin(refused(body, refusal)).await),
    };
    let started = Instant::now();
    let deadline = calls::deadline(route.method.kind, timeout, started).unwrap_or(started + DEADLINE_DEFAULT);
    Ok(Call { client, route, caller, started, deadline }.serve(parts, incoming, held).await)
}

/// Refuses a call that nobody has seen yet.
async fn refused(body: RequestBody, refusal: Status) -> Response<ResponseBody> {
    dynamic::drain(Body::new(body)).await;
    trailers::fitted(dynamic::into_http(refusal)).map(ResponseBody::Other)
}

impl Client {
    pub(super) fn new(api: Api, remote: Remote) -> Client {
        let connection = api.shared.parts.calls.connection(remote.address.ip());
        let status = api.shared.node_status();
        Client { api, connection, remote, status }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.api.shared
    }

    /// Returns the method of a plain call, and how long its client waits.
    fn plain(&self, request: &Request<RequestBody>) -> Option<(Arc<Unary>, Option<Duration>)> {
        let headers = request.headers();
        let encoding = headers.get("grpc-encoding");
        let is_plain = encoding.is_none_or(|encoding| encoding == "identity")
            && media::is_grpc(request.method(), request.version(), headers);
        let timeout = dynamic::client_timeout(headers).ok().filter(|_| is_plain)?;
        Some((self.shared().unary(request.uri().path())?, timeout))
    }

    async fn by_router(&self, request: Request<RequestBody>) -> Response<Body> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.connection.clone());
        request.extensions_mut().insert(self.remote.clone());
        call_router(&self.api, request).await
    }
}

impl Call {
    async fn serve(self, parts: Parts, mut incoming: Incoming<RequestBody>, held: Held) -> Response<ResponseBody> {
        let kind = self.route.method.kind;
        let mut overdue = pin!(dynamic::overdue(self.deadline));
        let read = tokio::select! {
            biased;
            read = message::read(&mut incoming) => read,
            () = overdue.as_mut() => Read::Failed(status::overdue(kind, false)),
        };
        let request = match read {
            Read::Whole(request) => request,
            Read::Failed(status) => {
                let response = dynamic::explain_unread(dynamic::into_http(status));
                let code = dynamic::response_code(&response);
                return self.ended(code, trailers::fitted(response).map(ResponseBody::Other));
            }
            Read::Odd(first) => return Box::pin(self.odd(parts, message::resumed(first, incoming), held)).await,
        };
        drop((parts, incoming));
        let lease = bodies::taken(&held);
        drop(held);
        let shared = self.client.shared();
        let ran = tokio::select! {
            biased;
            ran = dynamic::run(shared, self.with(request), || self.client.status.clone()) => ran,
            () = overdue => Err(status::overdue(kind, true)),
        };
        match ran.and_then(|reply| self.reply(reply, lease)) {
            Ok(response) => self.ended(Code::Ok, response),
            Err(status) => {
                let code = status.code();
                self.ended(code, trailers::fitted(dynamic::into_http(status)).map(ResponseBody::Other))
            }
        }
    }

    /// Hands over a call whose body is not one plain message. Nothing of it has run.
    async fn odd(self, parts: Parts, body: Body, held: Held) -> Response<ResponseBody> {
        let (shared, connection) = (self.client.shared().clone(), self.client.connection.clone());
        let found = (self.route.method.clone(), self.route.contract.clone());
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(connection.clone());
        request.extensions_mut().insert(self.caller);
        let response = dynamic::serve_found(shared.clone(), found, self.started, self.deadline, request).await;
        shared.bodies.sent(trailers::fitted(response), &connection, held).map(ResponseBody::Other)
    }

    /// Returns the call without its transport.
    fn with(&self, request: Bytes) -> calls::Call {
        calls::Call {
            method: self.route.method.clone(),
            request,
            caller: gate::name_of(&self.caller),
            deadline: Some(self.deadline),
            share: self.client.connection.share().clone(),
        }
    }

    /// Makes the response of a call that has a reply. `lease` has what the call holds.
    fn reply(&self, reply: tonic::Response<Bytes>, mut lease: Lease) -> Result<Response<ResponseBody>, Status> {
        let (metadata, reply, _) = reply.into_parts();
        let bytes = message::bytes_of(&reply) as u64;
        match self.route.method.kind {
            // The command was applied. Its client must learn that, so the reply is counted although
            // there may be no room.
            Kind::Command => lease.grow_by_force(bytes),
            Kind::Query | Kind::Watch => lease.grow(bytes).map_err(|short| status::ended(&short.into()))?,
        }
        let (framed, trailers) = message::written(&reply);
        let body = self.client.shared().bodies.whole(framed, trailers, lease);
        let mut response = Response::new(ResponseBody::Unary(body));
        let headers = response.headers_mut();
        *headers = metadata.into_headers();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Ok(response)
    }

    /// Counts the call.
    fn ended(&self, code: Code, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let Unary { method, found, .. } = &*self.route;
        self.client.shared().metrics.unary_ended(method, found, code, self.started.elapsed());
        response
    }
}

/// The body of a response of this port.
pub(super) enum ResponseBody {
    /// A reply that is whole.
    Unary(Outgoing),
    /// Any other.
    Other(Body),
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            ResponseBody::Unary(body) => Pin::new(body).poll_frame(cx),
            ResponseBody::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Unary(body) => body.is_end_stream(),
            ResponseBody::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Unary(body) => body.size_hint(),
            ResponseBody::Other(body) => body.size_hint(),
        }
    }
}
