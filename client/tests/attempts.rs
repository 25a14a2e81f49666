//! How often a call is sent, and what its caller gets, with servers that refuse, break off or say
//! nothing. Needs no node.
#![allow(clippy::unwrap_used)]

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use lockstep_client::{Client, Options, Outcome, Unanswered, outcome, unanswered};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tower_service::Service;

/// A server that refuses its first calls as a node without a leader does, and then answers.
#[derive(Clone)]
struct Server {
    refusals: u32,
    calls: Arc<AtomicU32>,
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let refused = self.calls.fetch_add(1, SeqCst) < self.refusals;
        let mut response = http::Response::new(Body::empty());
        let said = [("content-type", "application/grpc"), ("grpc-status", if refused { "14" } else { "0" })];
        let of_a_refusal =
            [("lockstep-origin", "host"), ("lockstep-outcome", "not-applied"), ("lockstep-leader", "127.0.0.1:1")];
        for (name, value) in said.into_iter().chain(of_a_refusal.into_iter().filter(|_| refused)) {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        std::future::ready(Ok(response))
    }
}

async fn serve(refusals: u32) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server { refusals, calls: Arc::default() };
    let calls = server.calls.clone();
    let incoming = TcpIncoming::from(listener);
    tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(server, incoming));
    (address, calls)
}

async fn call(client: &Client, body: Body) -> Result<http::Response<Body>, Status> {
    let mut client = client.clone();
    poll_fn(|context| client.poll_ready(context)).await?;
    client.call(http::Request::post("http://node/Example/Add").body(body).unwrap()).await
}

#[tokio::test]
async fn one_node_is_asked_once_and_its_refusal_is_handed_on() {
    let (address, calls) = serve(1).await;
    let client = Options::one_node().connect(&address).await.unwrap();
    let refused = call(&client, Body::empty()).await.unwrap();
    assert_eq!(refused.headers()["lockstep-outcome"], "not-applied");
    assert_eq!(refused.headers()["grpc-status"], "14");
    assert_eq!(calls.load(SeqCst), 1);
    // It named another node as the leader, and still gets the next call.
    assert_eq!(call(&client, Body::empty()).await.unwrap().headers()["grpc-status"], "0");
    assert_eq!(calls.load(SeqCst), 2);
}

#[tokio::test]
async fn a_client_of_a_cluster_sends_a_refused_call_again() {
    let (address, calls) = serve(2).await;
    let client = lockstep_client::connect(&address).await.unwrap();
    assert_eq!(call(&client, Body::empty()).await.unwrap().headers()["grpc-status"], "0");
    assert_eq!(calls.load(SeqCst), 3);
}

/// A request that never ends.
struct Endless;

impl tonic::codegen::Body for Endless {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        Poll::Pending
    }
}

#[tokio::test]
async fn one_node_answers_before_the_request_has_ended() {
    let (address, _) = serve(0).await;
    let client = Options::one_node().connect(&address).await.unwrap();
    assert_eq!(call(&client, Body::new(Endless)).await.unwrap().headers()["grpc-status"], "0");
}

/// Takes connections, and closes each when something was sent.
async fn broken() -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::<AtomicU32>::default();
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            drop(connection.read(&mut [0; 16]).await);
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_broken_connection_is_said_and_made_anew_for_the_next_call() {
    let (address, connections) = broken().await;
    let client = Options::one_node().connect_lazily(&address.to_string()).unwrap();
    for _ in 0..2 {
        let before = connections.load(SeqCst);
        let status = call(&client, Body::empty()).await.unwrap_err();
        assert_eq!(unanswered(&status), Some(Unanswered::Broken), "{status:?}");
        assert_eq!((status.code(), outcome(&status)), (Code::Unknown, Outcome::Unknown));
        assert!(status.message().contains(&address.to_string()), "{status:?}");
        assert!(connections.load(SeqCst) > before);
    }
}

#[tokio::test]
async fn a_closed_address_certainly_ran_nothing() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let client = Options::one_node().connect_lazily(&socket.local_addr().unwrap().to_string()).unwrap();
    let status = call(&client, Body::empty()).await.unwrap_err();
    assert_eq!(unanswered(&status), Some(Unanswered::Unreachable), "{status:?}");
    assert_eq!((status.code(), outcome(&status)), (Code::Unavailable, Outcome::NotApplied));
}

#[tokio::test]
async fn a_node_that_says_nothing_is_late() {
    // The kernel takes the connection; nobody reads from it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = Options { call_timeout: Duration::from_millis(50), ..Options::one_node() };
    let status = call(&options.connect(&address).await.unwrap(), Body::empty()).await.unwrap_err();
    assert_eq!(unanswered(&status), Some(Unanswered::Late), "{status:?}");
    assert_eq!((status.code(), outcome(&status)), (Code::DeadlineExceeded, Outcome::Unknown));
}
