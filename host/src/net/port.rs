//! One port of a node: accepts as many connections as it has places for, and refuses the others.
//! Never ends while it has a socket, and never spins: when the system cannot give a connection now,
//! it tries again after a pause.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use futures::stream;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::arrival::{Arrival, Encryption};
use super::connection::Resets;
use super::counts::Counts;
use super::handshakes::Handshakes;
use super::idle::{Attendance, Calls};
use super::refusal;
use super::remote::Remote;
use super::slots::{Count, Evicted, Full, Origin, Slots};
use super::windows::{NARROW, Wide, WidePlace, WindowLimits, Windows};
use crate::limit::Many;
use crate::logs::Sparse;
use crate::source::Source;
use crate::tls::{Certificate, Mode, Server};

/// Time to wait after a connection could not be accepted (usually because no descriptor is left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Most connections beyond the port's places that are told why they are closed. Any others are
/// closed without a reason.
pub const REFUSED_IN_WORDS_MAX: usize = 16;

/// Limits of the connections of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLimits {
    /// Connections that may be open at a time.
    pub connections_max: usize,
    /// Those of one address (IPv6: of one network of 64 bits) among them.
    pub per_address_max: usize,
    /// Those that only programs on this node's machine get.
    pub reserved: usize,
    /// Time without an open call after which a connection is closed; `None` for never.
    pub idle_timeout: Option<Duration>,
    /// Calls that a connection may reset.
    pub resets: Resets,
}

impl PortLimits {
    /// At most `max` connections, all of which may come from one address and stay as long as they
    /// like.
    pub(super) fn new(max: usize) -> PortLimits {
        PortLimits {
            connections_max: max,
            per_address_max: max,
            reserved: 0,
            idle_timeout: None,
            resets: Resets::OF_CLIENTS,
        }
    }
}

/// A port and its connections. Cheap to clone; several listeners may share its places.
#[derive(Clone, Debug)]
pub struct Port(Arc<Inner>, Encryption);

#[derive(Debug)]
struct Inner {
    slots: Slots,
    wide: Wide,
    calls: Many<Mutex<Calls>>,
    idle_timeout: Option<Duration>,
    resets: Resets,
    counts: Arc<Counts>,
    refusing: Arc<Semaphore>,
    failures: Sparse,
    full: Sparse,
    address_full: Sparse,
    made_room: Sparse,
    narrow: Sparse,
}

/// What an operator hears of a connection that is slow without TLS.
const NARROW_CONNECTION: &str = "a connection without a certificate may send 64 KiB only before it is read: \
     all wide ones are taken, so it is slow. Use TLS between nodes";

/// Figures of one port for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortStatus {
    /// `grpc`, `raft` or `http`.
    pub name: &'static str,
    /// Connections that may be open at a time.
    pub max: usize,
    /// Connections that are open.
    pub open: usize,
    /// Open connections that have not finished their preface.
    pub silent: usize,
    /// Connections of one address that may be open at a time.
    pub per_address_max: usize,
    /// Connections of the address that has most of them open.
    pub of_one_address: usize,
    /// Open connections that may send more than the least before it is read.
    pub wide: usize,
    /// Open calls of the connection that has most.
    pub calls_of_one: u64,
    /// Connections that got a place. This and the following are counted since the process began.
    pub accepted: u64,
    /// Connections that were closed at once, because all places were in use, or all of an address.
    pub refused: u64,
    /// Of these, those whose address had all that it may have.
    pub refused_address: u64,
    /// Silent connections that were closed after a while, or made room for new ones.
    pub silent_closed: u64,
    /// Connections that the system failed to hand over.
    pub accept_failures: u64,
    /// Calls that were reset, by the other side or because of what it sent.
    pub resets: u64,
    /// How often a connection was slowed down because it reset calls too fast.
    pub slowed: u64,
    /// How often a connection was slowed down because it sent control frames too fast.
    pub control_slowed: u64,
    /// Connections that were closed because they went on with that.
    pub control_closed: u64,
    /// Connections that were closed because they took nothing of what was sent to them.
    pub unread_closed: u64,
    /// Connections that were closed because they had no call for a long time.
    pub idle_closed: u64,
    /// Connections that did not come about, because the two ends do not agree on TLS.
    pub handshakes_failed: u64,
    /// Connections that are not encrypted, since the process began.
    pub plain: u64,
    /// Handshakes that are under way.
    pub handshakes: usize,
    /// Handshakes that had to wait for their turn.
    pub handshakes_delayed: u64,
    /// Whether connections are encrypted.
    pub tls: Mode,
    /// When the port's certificate expires, in seconds since 1970; `None` without one.
    pub certificate_expires: Option<u64>,
    /// The CAs whose certificates are accepted.
    pub authorities: Arc<[Certificate]>,
    /// Whether new files of TLS were refused, and the old ones are still in use.
    pub are_files_refused: bool,
}

impl Port {
    /// Makes a port that operators know as `name`, with at most `max` connections open at a time,
    /// all of which may come from one address and stay as long as they like.
    pub fn new(name: &'static str, max: usize) -> Port {
        Port::limited(name, PortLimits::new(max))
    }

    /// Makes a port with limits of its own.
    pub fn limited(name: &'static str, limits: PortLimits) -> Port {
        let inner = Arc::new(Inner {
            slots: Slots::new(limits.connections_max, limits.per_address_max, limits.reserved),
            wide: Wide::default(),
            calls: Many::default(),
            idle_timeout: limits.idle_timeout,
            resets: limits.resets,
            counts: Arc::new(Counts::new(name)),
            refusing: Arc::new(Semaphore::new(REFUSED_IN_WORDS_MAX)),
            failures: Sparse::default(),
            full: Sparse::default(),
            address_full: Sparse::default(),
            made_room: Sparse::default(),
            narrow: Sparse::default(),
        });
        Port(inner, Encryption { tls: Server::plain(), handshakes: Handshakes::new(), runs_on: None })
    }

    /// Returns this port with connections that are encrypted so.
    #[must_use]
    pub fn encrypted_by(self, tls: Server) -> Port {
        Port(self.0, Encryption { tls, ..self.1 })
    }

    /// Returns this port with handshakes that run on those threads, wherever its connections do.
    #[must_use]
    pub fn with_handshakes_on(self, threads: Handle) -> Port {
        Port(self.0, Encryption { runs_on: Some(threads), ..self.1 })
    }

    /// Returns whether connections are encrypted.
    pub fn tls(&self) -> Mode {
        self.1.tls.mode()
    }

    /// Accepts from a socket that already listens. Must be called inside a tokio runtime.
    pub fn listen(&self, listener: StdListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        Ok(Listener { port: self.clone(), listener: TcpListener::from_std(listener)? })
    }

    /// Returns figures for operators.
    pub fn status(&self) -> PortStatus {
        let Inner { slots, counts, .. } = &*self.0;
        let Count { taken: open, silent, of_one_source } = slots.count();
        PortStatus {
            name: counts.name,
            max: slots.max(),
            open,
            silent,
            accepted: counts.accepted.load(Relaxed),
            per_address_max: slots.per_source_max(),
            of_one_address: of_one_source,
            wide: self.0.wide.taken(),
            calls_of_one: self.0.calls.most(|calls| calls.lock().open()),
            refused: counts.refused.load(Relaxed),
            refused_address: counts.refused_address.load(Relaxed),
            silent_closed: counts.silent_closed.load(Relaxed),
            accept_failures: counts.failures.load(Relaxed),
            resets: counts.resets.load(Relaxed),
            slowed: counts.slowed.load(Relaxed),
            control_slowed: counts.control_slowed.load(Relaxed),
            control_closed: counts.control_closed.load(Relaxed),
            unread_closed: counts.unread_closed.load(Relaxed),
            idle_closed: counts.idle_closed.load(Relaxed),
            handshakes_failed: counts.handshakes_failed.load(Relaxed),
            plain: counts.plain.load(Relaxed),
            handshakes: self.1.handshakes.under_way(),
            handshakes_delayed: self.1.handshakes.delayed(),
            tls: self.1.tls.mode(),
            certificate_expires: self.certificate_expires(),
            authorities: self.1.tls.authorities(),
            are_files_refused: self.1.tls.are_files_refused(),
        }
    }

    fn certificate_expires(&self) -> Option<u64> {
        let after = self.1.tls.own()?.not_after.duration_since(UNIX_EPOCH);
        Some(after.map_or(0, |after| after.as_secs()))
    }

    /// Returns the counts that the port's connections add to.
    #[cfg(test)]
    pub(super) fn counts(&self) -> Arc<Counts> {
        self.0.counts.clone()
    }

    fn enter(&self, stream: TcpStream, peer: SocketAddr) -> Option<Arrival> {
        let Inner { slots, counts, .. } = &*self.0;
        let origin = origin(peer.ip(), || stream.local_addr().ok().map(|own| own.ip()));
        let (slot, evicted) = match slots.enter(Source::of(peer.ip()), origin) {
            Ok(entered) => entered,
            Err(full) => {
                self.refuse(stream, peer, origin, full);
                return None;
            }
        };
        Counts::add(&counts.accepted);
        match evicted {
            Evicted::Nobody => {}
            Evicted::Oldest => self.note_made_room("the port is full"),
            Evicted::OfSource => self.note_made_room("its address has all that one may have"),
        }
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY on a connection");
        }
        Some(Arrival::new(stream, peer, self.1.clone(), counts.clone(), slot, self.0.resets))
    }

    fn note_made_room(&self, why: &'static str) {
        Counts::add(&self.0.counts.silent_closed);
        if let Some(left_out) = self.0.made_room.due() {
            tracing::warn!(
                port = self.0.counts.name,
                why,
                left_out,
                "the oldest connection that has said nothing makes room"
            );
        }
    }

    /// Counts and logs that there is no place. Tells the connection so, unless too many are being
    /// told now.
    fn refuse(&self, stream: TcpStream, peer: SocketAddr, origin: Origin, full: Full) {
        let Inner { slots, counts, .. } = &*self.0;
        Counts::add(&counts.refused);
        let (text, lines) = match full {
            Full::Port => (port_is_full(slots, origin), &self.0.full),
            Full::Source => {
                Counts::add(&counts.refused_address);
                let text = format!(
                    "all {} connections to this port that one address may have are in use (--connections_per_address)",
                    slots.of_source_max(origin)
                );
                (text, &self.0.address_full)
            }
        };
        if let Some(left_out) = lines.due() {
            tracing::warn!(port = counts.name, %peer, left_out, "{text}: a new one is closed");
        }
        if let Ok(turn) = self.0.refusing.clone().try_acquire_owned() {
            tokio::spawn(async move {
                refusal::tell(stream, &text).await;
                drop(turn);
            });
        }
    }

    /// Returns the windows of a new connection, and its place if they are wide ones.
    pub(super) fn windows(&self, limits: &WindowLimits, remote: &Remote) -> (Windows, Option<WidePlace>) {
        let source = Source::of(remote.address.ip());
        let chosen = self.0.wide.choose(limits, source, remote.certificate.is_some());
        // With a certificate it would have wide ones however many others have them.
        if limits.proven.is_some()
            && chosen.0 == NARROW
            && let Some(left_out) = self.0.narrow.due()
        {
            let (port, peer) = (self.0.counts.name, remote.address);
            tracing::warn!(port, %peer, left_out, "{NARROW_CONNECTION}");
        }
        chosen
    }

    /// Returns what counts the open calls of a new connection.
    pub(super) fn attendance(&self) -> Attendance {
        Attendance::among(&self.0.calls)
    }

    /// Returns the time without an open call after which a connection is closed.
    pub(super) fn idle_timeout(&self) -> Option<Duration> {
        self.0.idle_timeout
    }

    /// Counts a connection that is closed because it had no call for that long.
    pub(super) fn note_idle(&self) {
        Counts::add(&self.0.counts.idle_closed);
        tracing::debug!(port = self.0.counts.name, "a connection had no call for long: it is closed");
    }

    fn note_failure(&self, error: &io::Error) {
        Counts::add(&self.0.counts.failures);
        if let Some(left_out) = self.0.failures.due() {
            tracing::warn!(port = self.0.counts.name, %error, left_out, "cannot accept a connection");
        }
    }
}

/// A listening socket of a port.
#[derive(Debug)]
pub struct Listener {
    port: Port,
    listener: TcpListener,
}

impl Listener {
    /// Returns the port that accepts here.
    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// Returns the connections, for as long as the stream lives. The stream never ends by itself.
    pub fn connections(self) -> impl futures::Stream<Item = Arrival> + Send + Unpin {
        // As a stream, an accept in progress and its pause survive when a caller stops waiting for
        // it.
        Box::pin(stream::unfold(self, |listener| async move { Some((listener.accept().await, listener)) }))
    }

    async fn accept(&self) -> Arrival {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(arrival) = self.port.enter(stream, peer) {
                        return arrival;
                    }
                }
                // The other side has gone meanwhile, which is no reason to wait.
                Err(error) if is_of_the_other_side(&error) => self.port.note_failure(&error),
                Err(error) => {
                    self.port.note_failure(&error);
                    if self.port.0.slots.evict_oldest() {
                        self.port.note_made_room("no descriptor is left");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Returns where the other end of a connection is. This machine has the addresses that a program on
/// it gets when it connects to loopback, and the address that it has reached here. Other addresses
/// of loopback are as good as anybody's: a single program may have millions of them.
fn origin(peer: IpAddr, reached: impl FnOnce() -> Option<IpAddr>) -> Origin {
    let peer = peer.to_canonical();
    let is_here = match peer.is_loopback() {
        true => peer == Ipv4Addr::LOCALHOST || peer == Ipv6Addr::LOCALHOST,
        false => reached().is_some_and(|own| own.to_canonical() == peer),
    };
    if is_here { Origin::Here } else { Origin::Elsewhere }
}

fn port_is_full(slots: &Slots, origin: Origin) -> String {
    let (max, reserved) = (slots.max(), slots.reserved());
    match origin {
        Origin::Elsewhere if reserved > 0 => format!(
            "all {} connections that this port may have are in use ({reserved} more are for programs on the node's machine)",
            max - reserved
        ),
        _ => format!("all {max} connections that this port may have are in use"),
    }
}

fn is_of_the_other_side(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
