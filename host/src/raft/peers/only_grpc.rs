//! Stands before the peer service. It refuses a request that is not gRPC before it is read, and
//! bounds the messages of the others before they are decoded. Decides nothing else.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use tonic::body::Body;
use tonic::codegen::Service;

use super::bounded::{Bound, Bounded, HALF_RECEIVED_BYTES_OF_ONE_MAX, SMALL_MESSAGE_BYTES_MAX, Share};
use super::dial::PEER_MESSAGE_BYTES_MAX;
use super::groups::Door;
use crate::net::{Remote, media};

/// The calls whose messages may be large, once their route was accepted, and how deep the route is
/// in their first message: it is the first field of so many first fields.
const LARGE: [(&str, usize); 3] = [
    ("/lockstep.peer.v1.Peer/Append", 1),
    ("/lockstep.peer.v1.Peer/Forward", 1),
    ("/lockstep.peer.v1.Peer/Snapshot", 2),
];

// Or a large message would wait for ever.
const _: () = assert!(PEER_MESSAGE_BYTES_MAX <= HALF_RECEIVED_BYTES_OF_ONE_MAX);

/// Wraps the service of one connection so that it gets gRPC requests only, each with the one who
/// sent it, and with messages that it may have.
#[derive(Clone)]
pub(in crate::raft) struct OnlyGrpc<S> {
    service: S,
    door: Door,
    share: Share,
    remote: Remote,
}

impl<S> OnlyGrpc<S> {
    pub(super) fn new(service: S, door: Door, share: Share, remote: Remote) -> OnlyGrpc<S> {
        OnlyGrpc { service, door, share, remote }
    }

    fn bound<Q>(&self, request: &http::Request<Q>) -> Bound {
        let path = request.uri().path();
        let Some((_, depth)) = LARGE.into_iter().find(|(large, _)| *large == path) else {
            return small("its messages are small".to_owned());
        };
        match self.door.admit_metadata(request.headers(), &self.remote) {
            Some(admitted) => judged(admitted),
            None => {
                let (door, remote) = (self.door.clone(), self.remote.clone());
                let judge = move |message: &[u8]| judged(door.admit_first(message, depth, &remote));
                Bound { judge: Some(Box::new(judge)), ..small("it has no route".to_owned()) }
            }
        }
    }
}

fn small(why: String) -> Bound {
    Bound { bytes: SMALL_MESSAGE_BYTES_MAX, why, judge: None }
}

fn judged(admitted: Result<(), String>) -> Bound {
    let large =
        || Bound { bytes: PEER_MESSAGE_BYTES_MAX, why: "no entry and no frame is larger".to_owned(), judge: None };
    admitted.map_or_else(small, |()| large())
}

impl<S, Q> Service<http::Request<Q>> for OnlyGrpc<S>
where
    S: Service<http::Request<Bounded<Q>>, Response = http::Response<Body>, Error = Infallible>,
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
            let bound = self.bound(&request);
            return Either::Right(self.service.call(request.map(|body| self.share.bound(body, bound))));
        };
        let mut response = http::Response::new(Body::new(http_body_util::Full::from(text)));
        *response.status_mut() = code;
        Either::Left(ready(Ok(response)))
    }
}
