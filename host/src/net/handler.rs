//! A function as the service of a connection. Its future is taken as it is, in no box, so a call
//! costs no allocation before its handler begins. Knows no request and no reply.

use std::future::Future;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use tower_service::Service;

/// See [`handler`].
#[derive(Clone, Copy, Debug)]
pub struct Handler<F>(F);

/// Makes the service of a connection from the function that answers its requests.
pub fn handler<F, A, B, E>(answer: F) -> Handler<F>
where
    F: FnMut(Request<Incoming>) -> A,
    A: Future<Output = Result<Response<B>, E>>,
{
    Handler(answer)
}

impl<F, A, B, E> Service<Request<Incoming>> for Handler<F>
where
    F: FnMut(Request<Incoming>) -> A,
    A: Future<Output = Result<Response<B>, E>>,
{
    type Response = Response<B>;
    type Error = E;
    type Future = A;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> A {
        (self.0)(request)
    }
}
