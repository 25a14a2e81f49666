//! Who a client trusts and what it shows, with servers that want certificates or tokens. Needs no
//! node.
#![allow(clippy::unwrap_used)]

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use lockstep_client::{Client, ConnectError, Options, Outcome, Tls, Token, Unanswered, outcome, unanswered};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use tonic::{Code, Status};
use tower_service::Service;

/// An authority and what it signs.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// Returns a certificate for this name, and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A server that answers `UNAUTHENTICATED` to a call without this token.
#[derive(Clone)]
struct Server {
    token: Option<&'static str>,
    calls: Arc<AtomicU32>,
}

impl Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, SeqCst);
        let shown = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let is_known = self.token.is_none() || shown == self.token.map(|token| format!("Bearer {token}"));
        let mut response = http::Response::new(Body::empty());
        let code = if is_known { "0" } else { "16" };
        for (name, value) in [("content-type", "application/grpc"), ("grpc-status", code)] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        std::future::ready(Ok(response))
    }
}

/// Serves at a port of its own. Without an authority for clients it wants no certificate of them.
async fn serve(
    token: Option<&'static str>,
    certificate: Option<(String, String)>,
    clients: Option<&Authority>,
) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server { token, calls: Arc::default() };
    let calls = server.calls.clone();
    let mut builder = tonic::transport::Server::builder();
    if let Some((certificate, key)) = certificate {
        let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        if let Some(authority) = clients {
            tls = tls.client_ca_root(Certificate::from_pem(&authority.pem));
        }
        builder = builder.tls_config(tls).unwrap();
    }
    tokio::spawn(builder.serve_with_incoming(server, TcpIncoming::from(listener)));
    (address, calls)
}

async fn call(client: &Client) -> Result<http::Response<Body>, Status> {
    let mut client = client.clone();
    poll_fn(|context| client.poll_ready(context)).await?;
    client.call(http::Request::post("http://node/Example/Add").body(Body::empty()).unwrap()).await
}

fn with(tls: Tls) -> Options {
    Options { tls: Some(tls), ..Options::default() }
}

#[tokio::test]
async fn a_node_is_trusted_by_its_authority_and_its_name() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, _) = serve(None, Some(authority.sign("nodeA")), None).await;
    let client = with(Tls::trusting(&*authority.pem).server_name("nodeA")).connect(&address).await.unwrap();
    assert_eq!(call(&client).await.unwrap().headers()["grpc-status"], "0");
    for tls in [Tls::trusting(&*authority.pem), Tls::trusting(&*other.pem).server_name("nodeA")] {
        let error = with(tls).connect(&address).await.unwrap_err();
        let ConnectError::Unreachable(nodes) = error else { panic!("{error}") };
        assert!(nodes[0].is_tls() && nodes[0].to_string().contains("invalid peer certificate"), "{nodes:?}");
    }
    // Two authorities in one text are both trusted, as in the middle of a change.
    let both = Tls::trusting(format!("{}{}", other.pem, authority.pem)).server_name("nodeA");
    with(both).connect(&address).await.unwrap();
}

#[tokio::test]
async fn a_node_that_wants_a_certificate_refuses_at_once_and_nothing_ran() {
    let authority = Authority::new();
    let (address, calls) = serve(None, Some(authority.sign("127.0.0.1")), Some(&authority)).await;
    let tls = Tls::trusting(&*authority.pem);
    let client = with(tls.clone()).connect_lazily(&address).unwrap();
    let began = std::time::Instant::now();
    let status = call(&client).await.unwrap_err();
    assert_eq!((status.code(), outcome(&status)), (Code::Unauthenticated, Outcome::NotApplied), "{status}");
    assert_eq!(unanswered(&status), Some(Unanswered::Refused));
    assert!(began.elapsed() < Duration::from_secs(9), "it went on until the deadline");
    let (certificate, key) = authority.sign("alice");
    let client = with(tls.identity(certificate, key)).connect(&address).await.unwrap();
    assert_eq!(call(&client).await.unwrap().headers()["grpc-status"], "0");
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test]
async fn a_renewed_file_counts_from_the_next_connection() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, _) = serve(None, Some(authority.sign("127.0.0.1")), None).await;
    let file = std::env::temp_dir().join(format!("lockstep-client-{}.pem", std::process::id()));
    std::fs::write(&file, &other.pem).unwrap();
    let client = with(Tls::trusting_file(&file)).connect_lazily(&address).unwrap();
    assert_eq!(call(&client).await.unwrap_err().code(), Code::Unauthenticated);
    std::fs::write(&file, &authority.pem).unwrap();
    assert_eq!(call(&client).await.unwrap().headers()["grpc-status"], "0");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_token_is_shown_and_a_refusal_is_not_tried_elsewhere() {
    let (first, first_calls) = serve(Some("abc"), None, None).await;
    let (second, second_calls) = serve(Some("abc"), None, None).await;
    let both = format!("{first},{second}");
    let token = |text| Options { token: Some(Token::fixed(text).unwrap()), ..Options::default() };
    let client = token("abc").connect(&both).await.unwrap();
    assert_eq!(call(&client).await.unwrap().headers()["grpc-status"], "0");
    let client = token("xyz").connect(&both).await.unwrap();
    assert_eq!(call(&client).await.unwrap().headers()["grpc-status"], "16");
    assert_eq!(first_calls.load(SeqCst) + second_calls.load(SeqCst), 2);
    // One that is to be fetched, and cannot be.
    let none = Token::provider(|| Err("the vault is closed".into()));
    let client = Options { token: Some(none), ..Options::default() }.connect(&both).await.unwrap();
    let status = call(&client).await.unwrap_err();
    assert!(status.message().contains("the vault is closed"), "{status}");
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_does_not_leave_this_machine_without_tls() {
    let options = Options { token: Some(Token::fixed("abc").unwrap()), ..Options::default() };
    // Nothing is asked there: the address is for documents.
    let client = options.connect_lazily("192.0.2.1:20051").unwrap();
    let status = call(&client).await.unwrap_err();
    assert!(status.message().contains("not encrypted"), "{status}");
}

#[tokio::test]
async fn a_side_that_speaks_no_tls_is_told_from_one_that_is_not_there() {
    let authority = Authority::new();
    let (plain, _) = serve(None, None, None).await;
    let error = with(Tls::trusting(&*authority.pem)).connect(&plain).await.unwrap_err();
    assert!(!error.to_string().contains("refused"), "{error}");
    let (encrypted, _) = serve(None, Some(authority.sign("127.0.0.1")), None).await;
    let client = Options::one_node().connect(&encrypted).await.unwrap();
    assert!(call(&client).await.is_err());
}
