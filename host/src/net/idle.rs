//! Knows how many calls of a connection are open, and tells when there was none for a long time. A
//! call is open until its reply is sent or nobody wants it any more. Closes nothing itself.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower_service::Service;

use crate::limit::Many;

/// The calls of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Attendance(Arc<Mutex<Calls>>);

/// Those that are open.
#[derive(Debug)]
pub(super) struct Calls {
    open: usize,
    /// When the last call ended, or the connection began.
    since: Instant,
}

impl Attendance {
    pub(super) fn new() -> Attendance {
        Attendance(Arc::new(Mutex::new(Calls { open: 0, since: Instant::now() })))
    }

    /// Makes one whose open calls are among `all`.
    pub(super) fn among(all: &Many<Mutex<Calls>>) -> Attendance {
        let attendance = Attendance::new();
        all.add(&attendance.0);
        attendance
    }

    /// Has a service answer one call, and counts the call from now on. The future is not boxed: its
    /// caller puts it into the task of the call.
    pub(super) fn attend<S, R, B>(
        &self,
        mut service: S,
        request: Request<R>,
    ) -> impl Future<Output = Result<Response<Reply<B>>, S::Error>> + use<S, R, B>
    where
        S: Service<Request<R>, Response = Response<B>>,
    {
        let open = self.enter();
        async move {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            let reply = service.call(request).await?;
            Ok(reply.map(|body| Reply { body, _open: open }))
        }
    }

    /// Completes when no call was open for that long. Never, if there is no such time.
    pub(super) async fn idle(&self, timeout: Option<Duration>) {
        let Some(timeout) = timeout else { return std::future::pending().await };
        loop {
            // A call that is open now can not have ended that long ago before then.
            let due = self.last_open() + timeout;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn last_open(&self) -> Instant {
        let calls = self.0.lock();
        if calls.open > 0 { Instant::now() } else { calls.since }
    }

    fn enter(&self) -> Open {
        self.0.lock().open += 1;
        Open(self.clone())
    }
}

impl Calls {
    pub(super) fn open(&self) -> u64 {
        self.open as u64
    }
}

/// One open call.
#[derive(Debug)]
struct Open(Attendance);

impl Drop for Open {
    fn drop(&mut self) {
        let mut calls = self.0.0.lock();
        calls.open -= 1;
        calls.since = Instant::now();
    }
}

/// The body of a reply. Its call is open for as long as it lives.
#[derive(Debug)]
pub(super) struct Reply<B> {
    body: B,
    _open: Open,
}

impl<B: Body + Unpin> Body for Reply<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const WHILE: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn it_is_idle_when_its_last_call_is_long_over() {
        let (attendance, begun) = (Attendance::new(), Instant::now());
        let idle = tokio::spawn({
            let attendance = attendance.clone();
            async move { attendance.idle(Some(WHILE)).await }
        });
        let [first, second] = [(); 2].map(|()| attendance.enter());
        tokio::time::sleep(WHILE / 2).await;
        drop(first);
        tokio::time::sleep(WHILE * 2).await;
        assert!(!idle.is_finished());
        drop(second);
        idle.await.expect("it does not panic");
        assert!(begun.elapsed() >= WHILE / 2 + WHILE * 3, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn without_a_timeout_it_is_never_idle() {
        let attendance = Attendance::new();
        assert!(attendance.idle(None).now_or_never().is_none());
        assert!(attendance.idle(Some(Duration::ZERO)).now_or_never().is_some());
    }
}
