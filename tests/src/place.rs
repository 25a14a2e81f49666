//! Where a node listens: three addresses that nobody else gets, on loopback or in a network namespace of its own; and where nobody does.
//! Starts no node.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

use crate::network::Namespace;

/// The addresses of one node, kept for it as long as the value lives.
pub(crate) struct Place {
    /// For clients.
    pub(crate) grpc: SocketAddr,
    /// For peers.
    pub(crate) raft: SocketAddr,
    /// For `/livez`, `/readyz`, `/metrics` and `/status`.
    pub(crate) http: SocketAddr,
    /// Where the process is started, when it is not in ours.
    pub(crate) namespace: Option<Arc<Namespace>>,
    _reserved: Vec<Socket>,
}

impl Place {
    /// On loopback, at ports that the system picked and keeps for us: bound but never listening, so a node may listen on them, and
    /// nobody else gets them.
    pub(crate) fn on_loopback() -> Result<Place> {
        let (grpc_socket, grpc) = reserve()?;
        let (raft_socket, raft) = reserve()?;
        let (http_socket, http) = reserve()?;
        Ok(Place { grpc, raft, http, namespace: None, _reserved: vec![grpc_socket, raft_socket, http_socket] })
    }

    /// At `ip` in a namespace where nobody else listens.
    pub(crate) fn inside(namespace: Arc<Namespace>, ip: Ipv4Addr) -> Place {
        let at = |port| SocketAddr::from((ip, port));
        Place { grpc: at(40051), raft: at(50051), http: at(8080), namespace: Some(namespace), _reserved: Vec::new() }
    }
}

/// An address where nobody listens: one that is kept as long as the socket lives, and not given to anybody.
pub fn nobody() -> Result<(Socket, String)> {
    let (socket, address) = reserve()?;
    Ok((socket, address.to_string()))
}

fn reserve() -> Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket().context("an inet socket has an inet address")?;
    Ok((socket, address))
}
