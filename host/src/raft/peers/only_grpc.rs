//! Stands before the peer service and refuses a request that is not gRPC before it is read. Decides
//! nothing else.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use tonic::body::Body;
use tonic::codegen::Service;

use crate::net::{Remote, media};

/// Wraps the service of one connection so that it gets gRPC requests only, each with the one who
/// sent it.
#[derive(Clone, Debug)]
pub(in crate::raft) struct OnlyGrpc<S> {
    service: S,
    remote: Remote,
}

impl<S> OnlyGrpc<S> {
    pub(super) fn new(service: S, remote: Remote) -> OnlyGrpc<S> {
        OnlyGrpc { service, remote }
    }
}

impl<S, Q> Service<http::Request<Q>> for OnlyGrpc<S>
where
    S: Service<http::Request<Q>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<S::Response, Infallible>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Q>) -> Self::Future {
        let Some((code, text)) = media::refusal(request.method(), request.version(), request.headers()) else {
            request.extensions_mut().insert(self.remote.clone());
            return Either::Right(self.service.call(request));
        };
        let mut response = http::Response::new(Body::new(http_body_util::Full::from(text)));
        *response.status_mut() = code;
        Either::Left(ready(Ok(response)))
    }
}
