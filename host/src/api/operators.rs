//! Runs calls of operators on the threads of Raft, which no client can fill, although they come by
//! the port of clients. So many run there at a time; one more is refused, and does nothing. Knows
//! no service, but which calls may be long.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tonic::Status;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::{dynamic, status};
use crate::limit::Limit;
use crate::net::HttpBody;

/// Most calls of operators that run at a time, and most of those that may be long.
const CALLS_MAX: usize = 64;

/// Methods whose calls may be long: they stream, or wait for another call. They have places of
/// their own, so that they keep no other call out.
const LONG: [&str; 9] =
    ["Await", "Backup", "ImportRows", "LogEntries", "PutComponent", "Raise", "Rollback", "SetProfile", "Upgrade"];

/// Where calls of operators run, and how many may. Clones share the places.
#[derive(Clone)]
pub(super) struct Places {
    runtime: Handle,
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(runtime: &Handle) -> Places {
        let places = || Arc::new(Semaphore::new(CALLS_MAX));
        Places { runtime: runtime.clone(), short: places(), long: places() }
    }

    /// Returns how near the limits are.
    pub(super) fn limits(&self) -> [Limit; 2] {
        let taken = |places: &Semaphore| CALLS_MAX - places.available_permits();
        [
            Limit::new("operators_calls", taken(&self.short), CALLS_MAX),
            Limit::new("operators_long_calls", taken(&self.long), CALLS_MAX),
        ]
    }

    /// Returns a place for a call, or why there is none.
    fn place(&self, path: &str) -> Result<Place, String> {
        let method = path.rsplit('/').next().unwrap_or_default();
        let is_long = LONG.contains(&method);
        let (places, kind) =
            if is_long { (&self.long, "operators that may be long") } else { (&self.short, "operators") };
        match places.clone().try_acquire_owned() {
            Ok(permit) => Ok(Place { permit, is_long }),
            Err(_) => Err(format!(
                "{CALLS_MAX} calls of {kind} run on this node, as many as may at a time; \
                 call again when some have ended"
            )),
        }
    }
}

/// The place of one call.
struct Place {
    permit: OwnedSemaphorePermit,
    is_long: bool,
}

impl Place {
    /// Gives the place back, for a long call when its reply was sent. The reply of another one is
    /// small, and a client that does not take it keeps nobody out.
    fn end(self, response: Response) -> Response {
        match self.is_long {
            true => response.map(|body| Body::new(keep(self.permit, body))),
            false => response,
        }
    }
}

fn keep(permit: OwnedSemaphorePermit, body: Body) -> impl HttpBody<Data = Bytes, Error = axum::Error> {
    body.map_frame(move |frame| {
        let _until_the_end = &permit;
        frame
    })
}

/// A service whose calls run on another runtime than its connections.
#[derive(Clone)]
pub(super) struct Apart<S> {
    service: S,
    places: Places,
}

impl<S> Apart<S> {
    /// Makes calls of `service` run in `places`.
    pub(super) fn new(service: S, places: &Places) -> Apart<S> {
        Apart { service, places: places.clone() }
    }
}

impl<S: NamedService> NamedService for Apart<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request> for Apart<S>
where
    S: Service<Request, Error = Infallible> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let place = match self.places.place(request.uri().path()) {
            Ok(place) => place,
            Err(text) => return Box::pin(refuse(request, text)),
        };
        // The service that is ready is used; its clone may not be.
        let clone = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, clone);
        // A set ends its task when it is dropped, as a call ends that its client no longer wants.
        let mut running = JoinSet::new();
        let run = async move {
            let Ok(response) = service.call(request).await;
            place.end(response.into_response())
        };
        running.spawn_on(run, &self.places.runtime);
        Box::pin(async move {
            let ended = running.join_next().await;
            Ok(ended.map_or_else(|| Err(None), |ended| ended.map_err(Some)).unwrap_or_else(broken))
        })
    }
}

async fn refuse(request: Request, text: String) -> Result<Response, Infallible> {
    dynamic::drain(request.into_body()).await;
    Ok(dynamic::into_http(status::no_place(&text)))
}

/// Returns the response of a call whose task did not end by itself.
fn broken(error: Option<JoinError>) -> Response {
    dynamic::into_http(match error.is_some_and(|error| error.is_panic()) {
        true => status::panicked(),
        false => Status::unavailable("this node is stopping"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::runtime::{Builder, Runtime};

    fn runtime(name: &str) -> Runtime {
        Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_time().build().unwrap()
    }

    async fn name_of_thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    async fn body(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 10).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_call_runs_on_the_other_runtime_and_ends_with_whoever_wants_it() {
        let (main, clients) = (runtime("first"), runtime("second"));
        let (gone, mut is_gone) = tokio::sync::mpsc::channel::<()>(1);
        let endless = move || {
            let gone = gone.clone();
            async move {
                std::future::pending::<()>().await;
                drop(gone);
            }
        };
        let router = Router::new().route("/name", get(name_of_thread)).route("/endless", get(endless));
        let mut apart = Apart::new(router, &Places::new(main.handle()));
        let call = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
        let named = apart.call(call("/name"));
        assert_eq!(clients.block_on(async { body(tokio::spawn(named).await.unwrap().unwrap()).await }), "first");
        let endless = apart.call(call("/endless"));
        drop(apart);
        drop(endless);
        assert!(clients.block_on(is_gone.recv()).is_none());
        drop(main);
    }

    #[test]
    fn a_runtime_that_has_ended_is_a_node_that_stops() {
        let (main, clients) = (runtime("first"), runtime("second"));
        let mut apart = Apart::new(Router::new().route("/", get(name_of_thread)), &Places::new(main.handle()));
        main.shutdown_background();
        let response = clients.block_on(apart.call(Request::new(Body::empty()))).unwrap();
        assert_eq!(response.headers()["grpc-status"], "14");
    }

    #[test]
    fn one_call_too_many_is_refused_and_long_ones_take_no_place_of_others() {
        let (main, clients) = (runtime("first"), runtime("second"));
        let endless = || std::future::pending::<()>();
        let router = Router::new().route("/Admin/Backup", get(endless)).route("/endless", get(endless));
        let router = router.route("/name", get(name_of_thread));
        let mut apart = Apart::new(router, &Places::new(main.handle()));
        let call = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
        let mut long: Vec<_> = (0..CALLS_MAX).map(|_| apart.call(call("/Admin/Backup"))).collect();
        let refused = clients.block_on(apart.call(call("/Admin/Backup"))).unwrap();
        assert_eq!(refused.headers()["grpc-status"], "8");
        assert_eq!(refused.headers()[status::OUTCOME], "not-applied");
        let short: Vec<_> = (0..CALLS_MAX).map(|_| apart.call(call("/endless"))).collect();
        let refused = clients.block_on(apart.call(call("/name"))).unwrap();
        assert_eq!(refused.headers()["grpc-status"], "8");
        drop(short);
        is_free(&clients, &apart.places.short);
        assert_eq!(clients.block_on(async { body(apart.call(call("/name")).await.unwrap()).await }), "first");
        long.pop();
        is_free(&clients, &apart.places.long);
    }

    /// Waits for a free place.
    fn is_free(clients: &Runtime, places: &Arc<Semaphore>) {
        let place = clients.block_on(places.clone().acquire_owned());
        assert!(place.is_ok());
    }

    #[test]
    fn a_long_call_keeps_its_place_until_its_reply_is_taken() {
        let (main, clients) = (runtime("first"), runtime("second"));
        let router = Router::new().route("/Admin/Backup", get(name_of_thread));
        let mut apart = Apart::new(router, &Places::new(main.handle()));
        let request = Request::builder().uri("/Admin/Backup").body(Body::empty()).unwrap();
        let response = clients.block_on(apart.call(request)).unwrap();
        assert_eq!(apart.places.long.available_permits(), CALLS_MAX - 1);
        assert_eq!(clients.block_on(body(response)), "first");
        assert_eq!(apart.places.long.available_permits(), CALLS_MAX);
    }

    #[test]
    fn a_panic_of_a_call_is_told_and_its_outcome_is_unknown() {
        let (main, clients) = (runtime("first"), runtime("second"));
        let router = Router::new().route("/", get(|| async { assert_eq!(1, 2) }));
        let mut apart = Apart::new(router, &Places::new(main.handle()));
        let response = clients.block_on(apart.call(Request::new(Body::empty()))).unwrap();
        assert_eq!(response.headers()["grpc-status"], "13");
        assert_eq!(response.headers()[status::OUTCOME], "unknown");
        assert_eq!(apart.places.short.available_permits(), CALLS_MAX);
    }
}
