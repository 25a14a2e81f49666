//! Runs calls of operators on the threads of Raft, which no client can fill, although they come by
//! the port of clients. Knows no service.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// A service whose calls run on another runtime than its connections.
#[derive(Clone)]
pub(super) struct Apart<S> {
    service: S,
    runtime: Handle,
}

impl<S> Apart<S> {
    /// Makes calls of `service` run on `runtime`.
    pub(super) fn new(service: S, runtime: &Handle) -> Apart<S> {
        Apart { service, runtime: runtime.clone() }
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
        // The service that is ready is used; its clone may not be.
        let clone = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, clone);
        // A set ends its task when it is dropped, as a call ends that its client no longer wants.
        let mut running = JoinSet::new();
        let run = async move { service.call(request).await.map(IntoResponse::into_response) };
        running.spawn_on(run, &self.runtime);
        Box::pin(async move {
            match running.join_next().await {
                Some(Ok(response)) => response,
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Err(_)) | None => Ok(Status::unavailable("this node is stopping").into_http()),
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::runtime::{Builder, Runtime};

    fn runtime(name: &str) -> Runtime {
        Builder::new_multi_thread().worker_threads(1).thread_name(name).build().unwrap()
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
        let mut apart = Apart::new(router, main.handle());
        let call = |path: &str| Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
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
        let mut apart = Apart::new(Router::new().route("/", get(name_of_thread)), main.handle());
        main.shutdown_background();
        let response = clients.block_on(apart.call(Request::new(axum::body::Body::empty()))).unwrap();
        assert_eq!(response.headers()["grpc-status"], "14");
    }
}
