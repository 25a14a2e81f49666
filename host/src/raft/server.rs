//! The peer port: accepts connections of other nodes and serves [`PeerService`] on them. Knows no method.

use std::future::Future;
use std::net::TcpListener as StdListener;

use futures::StreamExt;
use futures::stream::select_all;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use super::PeerService;

/// Calls that one peer connection may have open at a time.
const CONCURRENT_STREAMS_MAX: u32 = 1_024;

/// Flow control windows: an append of the largest size never waits for a window update.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Serves on every listener until `stop` completes. The future ends then, or with why it could not go on.
pub fn serve(
    service: PeerService,
    listeners: Vec<StdListener>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<impl Future<Output = Result<(), tonic::transport::Error>> + Send> {
    let mut accepting = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        accepting.push(TcpListenerStream::new(TcpListener::from_std(listener)?));
    }
    let incoming = select_all(accepting).map(|accepted| {
        accepted.inspect(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY on a peer's connection");
            }
        })
    });
    Ok(tonic::transport::Server::builder()
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(service.into_server())
        .serve_with_incoming_shutdown(incoming, stop))
}
