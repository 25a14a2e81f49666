//! Addresses of nodes: three that no other process gets, on loopback or in a network namespace of
//! its own; and addresses where nothing listens. Starts no node.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use lockstep_processes::Node;
use socket2::{Domain, Socket, Type};

use crate::network::Namespace;

/// The addresses of one node, reserved for it as long as the value lives.
pub(crate) struct Place {
    /// Address for clients.
    pub(crate) grpc: SocketAddr,
    /// Address for peers.
    pub(crate) raft: SocketAddr,
    /// Address of `/livez`, `/readyz`, `/metrics` and `/status`.
    pub(crate) http: SocketAddr,
    /// Network namespace in which the process is started, if it is not the test's own.
    pub(crate) namespace: Option<Arc<Namespace>>,
    _reserved: Vec<Socket>,
}

impl Place {
    /// Reserves ports on loopback.
    ///
    /// The system picks the ports. They are bound but never listening, so a node can listen on them
    /// and no other process gets them.
    pub(crate) fn on_loopback() -> Result<Place> {
        let (grpc_socket, grpc) = reserve()?;
        let (raft_socket, raft) = reserve()?;
        let (http_socket, http) = reserve()?;
        Ok(Place { grpc, raft, http, namespace: None, _reserved: vec![grpc_socket, raft_socket, http_socket] })
    }

    /// Returns the node of this name at this place.
    pub(crate) fn node(&self, name: &str) -> Node {
        Node { name: name.to_owned(), grpc_addr: self.grpc.to_string(), raft_addr: self.raft.to_string() }
    }

    /// Returns the place at `ip` in a namespace where no other process listens.
    pub(crate) fn inside(namespace: Arc<Namespace>, ip: Ipv4Addr) -> Place {
        let at = |port| SocketAddr::from((ip, port));
        Place { grpc: at(40051), raft: at(50051), http: at(8080), namespace: Some(namespace), _reserved: Vec::new() }
    }
}

/// Returns an address where nothing listens.
/// It is reserved as long as the socket lives.
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
