//! Serves accepted connections in HTTP/2, and in HTTP/1, so that a browser gets a sentence instead
//! of a reset. Every port is served by this code. `port` and `connection` decide who may be
//! connected, and how long a connection may be silent.
//!
//! tonic's own server is not used, for two reasons. It answers `grpc-timeout` itself, with
//! CANCELLED and without telling whether the command was proposed. And it has hyper put a date on
//! each reply. Knows no gRPC method.

use std::error::Error;
use std::future::Future;
use std::net::TcpListener as StdListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower_service::Service;

use super::authority::AnyAuthority;
use super::windows::{WindowLimits, Windows};
use super::{Arrival, Connection, Listener, PENDING_RESETS_MAX, PREFACE_TIMEOUT, Port, RESETS_AT_ONCE_MAX, Remote};
use crate::tls::Stream;

/// Most bytes of request headers, each with 32 more (SETTINGS_MAX_HEADER_LIST_SIZE). Libraries of
/// gRPC take 8 KiB themselves. h2 answers a list that is larger with 431. It ends a connection
/// whose list is four times as large, or whose block has more than five CONTINUATIONs, and decodes
/// none of it beyond that. The head of a request of HTTP/1 has at most so many, or gets 431.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Most bytes of one call that wait in HTTP/2 to be sent, beside what the other side's window lets
/// it take (hyper's default is 400 KiB). A thousand calls of a connection that reads nothing hold
/// so much, each.
const SEND_BYTES_MAX: usize = 64 << 10;

/// Longest time that open calls may take to end once the node stops.
const DRAIN: Duration = Duration::from_secs(2);

/// The end of the last year that an HTTP date can express.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);

/// Limits of the connections of one port, and their keepalive.
#[derive(Clone, Debug)]
pub struct Http2Limits {
    /// Calls that one connection may have open at a time; a client library queues the others. At
    /// most [`RESETS_AT_ONCE_MAX`], because all of them may be reset at one deadline.
    pub streams_max: u32,
    /// Flow control: what a connection may send before it is read.
    pub windows: WindowLimits,
    /// Time after which a silent connection is pinged.
    pub keepalive_interval: Duration,
    /// Longest time that the answer may take.
    pub keepalive_timeout: Duration,
}

/// Serves every listener of `port` until `stop` completes.
///
/// Then it lets open calls end for at most [`DRAIN`]. `service` makes the service of a connection
/// with the one who is at its other end.
///
/// # Errors
/// A listener cannot be handed to the runtime.
pub async fn serve<M, S, B>(
    port: &Port,
    listeners: Vec<StdListener>,
    limits: Http2Limits,
    service: M,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()>
where
    M: Fn(Remote) -> S + Clone + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    debug_assert!(limits.streams_max <= RESETS_AT_ONCE_MAX, "{limits:?}");
    let (stopping, stopped) = watch::channel(false);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(port.listen(listener)?, limits.clone(), service.clone(), stopped.clone()));
    }
    stop.await;
    stopping.send_replace(true);
    // Each acceptor bounds its own drain.
    while accepting.join_next().await.is_some() {}
    Ok(())
}

async fn accept<M, S, B>(listener: Listener, limits: Http2Limits, service: M, mut stopped: watch::Receiver<bool>)
where
    M: Fn(Remote) -> S + Clone + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let port = listener.port().clone();
    let mut incoming = listener.connections();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = until(&mut stopped) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(arrival) = incoming.next() => {
                let (port, service) = (port.clone(), service.clone());
                connections.spawn(serve_arrival(arrival, port, limits.clone(), service, stopped.clone()));
            }
        }
    }
    drop(incoming);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::info!("closing connections with calls that did not end in time");
    }
}

/// Makes the handshake, and serves the connection for as long as its certificate is accepted.
async fn serve_arrival<M, S, B>(
    arrival: Arrival,
    port: Port,
    limits: Http2Limits,
    service: M,
    mut stopped: watch::Receiver<bool>,
) where
    M: Fn(Remote) -> S,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let tls = arrival.tls();
    let opened = tokio::select! {
        opened = arrival.open() => opened,
        () = until(&mut stopped) => None,
    };
    let Some((connection, remote)) = opened else { return };
    let (address, chain) = (remote.address, connection.shown());
    let (windows, _place) = port.windows(&limits.windows, &remote);
    let builder = builder(&limits, windows);
    tokio::select! {
        () = serve_connection(connection, port, builder, service(remote), stopped) => {}
        () = tls.until_refused(chain) => {
            tracing::info!(%address, "a connection is closed: the new CAs do not accept its certificate");
        }
    }
}

async fn serve_connection<S, B>(
    stream: Connection<Stream>,
    port: Port,
    builder: Builder<TokioExecutor>,
    service: S,
    mut stopped: watch::Receiver<bool>,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    if !is_http_date(SystemTime::now()) && is_http1(&stream).await {
        return say_that_the_clock_is_wrong(stream).await;
    }
    let calls = port.attendance();
    let attendance = calls.clone();
    let service = service_fn(move |request: Request<Incoming>| attendance.attend(service.clone(), request));
    let connection = builder.serve_connection(TokioIo::new(AnyAuthority::new(stream)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = until(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = calls.idle(port.idle_timeout()) => {
            port.note_idle();
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Returns whether HTTP can express this date.
fn is_http_date(now: SystemTime) -> bool {
    now.duration_since(UNIX_EPOCH).is_ok_and(|since| since <= LAST_DATE)
}

/// Returns whether the client does not begin like one of HTTP/2.
async fn is_http1(stream: &Connection<Stream>) -> bool {
    const PREFACE: &[u8; 4] = b"PRI ";
    let mut first = [0; PREFACE.len()];
    match tokio::time::timeout(PREFACE_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Some(Ok(bytes @ 1..))) => !PREFACE.starts_with(&first[..bytes]),
        Ok(Some(Ok(0) | Err(_)) | None) | Err(_) => true,
    }
}

/// Answers an HTTP/1 client that the clock is wrong.
///
/// hyper reads the date at each turn of an HTTP/1 connection, and panics if HTTP cannot express it.
/// For HTTP/2 that can be switched off.
async fn say_that_the_clock_is_wrong(mut stream: Connection<Stream>) {
    let words = "this machine's clock stands where HTTP has no date, before 1970 or after 9999: set it. gRPC is served meanwhile\n";
    let reply = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{words}",
        words.len()
    );
    let said = async {
        // Reads the request first; otherwise closing would discard the reply.
        let _request = stream.read(&mut [0; 8 << 10]).await?;
        stream.write_all(reply.as_bytes()).await?;
        stream.shutdown().await
    };
    match tokio::time::timeout(PREFACE_TIMEOUT, said).await {
        Ok(Ok(())) => {}
        failed => tracing::debug!(?failed, "a client did not wait for the sentence about the clock"),
    }
}

/// Completes once the flag is set, or once nobody is left who could set it.
async fn until(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Makes the server. Replies carry no date: no client reads it, and hyper panics if HTTP cannot
/// express it.
fn builder(limits: &Http2Limits, windows: Windows) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(PREFACE_TIMEOUT)
        .max_buf_size(HEADERS_BYTES_MAX as usize);
    builder
        .http2()
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        // A connection that resets calls too fast is slowed down. It is not ended after a number of
        // resets.
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(None)
        .initial_stream_window_size(windows.stream_bytes)
        .initial_connection_window_size(windows.connection_bytes)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::net::TcpStream;

    const LIMITS: Http2Limits = Http2Limits {
        streams_max: 16,
        windows: WindowLimits {
            wide: Windows { stream_bytes: 1 << 20, connection_bytes: 1 << 20 },
            wide_max: 16,
            wide_per_address_max: 16,
            proven: None,
        },
        keepalive_interval: Duration::from_secs(20),
        keepalive_timeout: Duration::from_secs(20),
    };

    async fn get_path(addr: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn every_listener_answers_until_the_stop() {
        let listeners: Vec<StdListener> = (0..2).map(|_| StdListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let router = axum::Router::new().route("/", get(|| async { "here" }));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let port = Port::new("test", 16);
        let served = tokio::spawn(async move {
            serve(&port, listeners, LIMITS, move |_| router.clone(), async { stopped.await.unwrap() }).await
        });
        for addr in &addrs {
            let reply = get_path(*addr, "/").await;
            assert!(reply.ends_with("here"), "{reply}");
            assert!(!reply.contains("date:"), "{reply}");
        }
        stop.send(()).unwrap();
        served.await.unwrap().unwrap();
        for addr in addrs {
            assert!(TcpStream::connect(addr).await.is_err(), "the port is closed");
        }
    }

    #[test]
    fn http_names_the_years_from_1970_to_9999() {
        let last = UNIX_EPOCH + LAST_DATE;
        assert!([UNIX_EPOCH, SystemTime::now(), last].into_iter().all(is_http_date));
        assert!(![UNIX_EPOCH - Duration::from_secs(1), last + Duration::from_secs(1)].into_iter().any(is_http_date));
    }

    #[tokio::test]
    async fn without_a_date_http1_gets_a_sentence_and_http2_is_told_apart() {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut accepted = std::pin::pin!(Port::new("test", 16).listen(listener).unwrap().connections());
        for (first, http1) in [("GET / HTTP/1.1\r\n\r\n", true), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false)] {
            let mut client = TcpStream::connect(addr).await.unwrap();
            client.write_all(first.as_bytes()).await.unwrap();
            let (stream, _) = accepted.next().await.unwrap().open().await.unwrap();
            assert_eq!(is_http1(&stream).await, http1, "{first}");
        }
        let client = tokio::spawn(async move { get_path(addr, "/livez").await });
        say_that_the_clock_is_wrong(accepted.next().await.unwrap().open().await.unwrap().0).await;
        let reply = client.await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 503 ") && reply.contains("clock"), "{reply}");
    }

    #[tokio::test]
    async fn an_open_call_may_end_after_the_stop() {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (entered_sender, entered) = watch::channel(false);
        let (release, released) = watch::channel(false);
        let slow = move || {
            let (entered_sender, mut released) = (entered_sender.clone(), released.clone());
            async move {
                entered_sender.send_replace(true);
                until(&mut released).await;
                "done"
            }
        };
        let router = axum::Router::new().route("/", get(slow));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let port = Port::new("test", 16);
        let served = tokio::spawn(async move {
            serve(&port, vec![listener], LIMITS, move |_| router.clone(), async { stopped.await.unwrap() }).await
        });
        let call = tokio::spawn(async move { get_path(addr, "/").await });
        entered.clone().wait_for(|entered| *entered).await.unwrap();
        stop.send(()).unwrap();
        release.send_replace(true);
        assert!(call.await.unwrap().ends_with("done"));
        served.await.unwrap().unwrap();
    }
}
