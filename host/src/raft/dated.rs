//! Replies of the peer port on a machine whose clock HTTP has no words for. hyper puts a date on every reply that has none, and panics when
//! the clock stands before 1970 or after 9999; tonic's server cannot tell it to leave that. Changes nothing while the clock may be right.

use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::TryFutureExt;
use futures::future::MapOk;
use http::header::{DATE, HeaderValue};
use tonic::codegen::Service;

/// The end of the last year that an HTTP date can name.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// A service whose replies carry a date of their own when hyper would find none.
#[derive(Clone)]
pub(super) struct Dated<S>(pub(super) S);

impl<S, Q, R> Service<http::Request<Q>> for Dated<S>
where
    S: Service<http::Request<Q>, Response = http::Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(S::Response) -> S::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        self.0.call(request).map_ok(|reply| dated(reply, SystemTime::now()))
    }
}

/// Whether HTTP can name this date.
pub fn is_http_date(now: SystemTime) -> bool {
    now.duration_since(UNIX_EPOCH).is_ok_and(|since| since <= LAST)
}

fn dated<R>(mut reply: http::Response<R>, now: SystemTime) -> http::Response<R> {
    if !is_http_date(now) {
        reply.headers_mut().insert(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_http_has_no_words_for_gets_a_date() {
        let has_date = |now| dated(http::Response::new(()), now).headers().contains_key(DATE);
        assert!(has_date(UNIX_EPOCH - Duration::from_secs(1)));
        assert!(has_date(UNIX_EPOCH + LAST + Duration::from_secs(1)));
        assert!(!has_date(UNIX_EPOCH));
        assert!(!has_date(SystemTime::now()));
    }
}
