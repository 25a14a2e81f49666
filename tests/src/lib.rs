//! The harness of the scenarios: real `lockstep` processes in temporary directories, real faults,
//! and standard clients. It waits for conditions, never for a duration, and leaves nothing behind.
//! It knows nothing of the host's internals.

pub mod abuse;
pub mod alike;
mod certificates;
mod cluster;
mod descriptors;
pub mod frames;
mod load;
mod misbehaving;
mod network;
mod place;
mod process;
mod raw_http2;
mod stock;
pub mod torture;

pub use certificates::{Certificates, Deployed, Expiry};
pub use cluster::{Cluster, formed, formed_in, formed_of};
pub use load::{Failure, Load, Seen};
pub use lockstep_processes::Signal;
pub use misbehaving::{misbehaving_wasm, unfinished_wasm};
pub use network::{Cut, Network, in_network};
pub use place::nobody;
pub use process::{
    NodeProcess, Options, chain_wasm, failpoints_binary, kv_client_binary, kv_wasm, lockstep, lockstep_binary,
    medley_wasm, names_wasm, prices_wasm, statics_wasm,
};

pub use raw_http2::{RawHttp2, literal};
pub use stock::{Shown, Stock, openssl};

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use lockstep_proto::{peer, v1 as call};

/// The client of raft-example's service, and that of its manager.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("_");
    pub use lockstep_proto::manager::*;
}

/// The client of the guest that breaks the rules.
#[allow(missing_docs, clippy::all)]
pub mod misbehaving_pb {
    tonic::include_proto!("misbehaving");
}

/// The client of the guest that does a little of everything.
#[allow(missing_docs, clippy::all)]
pub mod medley_pb {
    tonic::include_proto!("medley");
}

/// The client of the guest that keeps state in a static.
#[allow(missing_docs, clippy::all)]
pub mod statics_pb {
    tonic::include_proto!("statics");
}

/// The client of the test guest.
#[allow(missing_docs, clippy::all)]
pub mod chain_pb {
    tonic::include_proto!("chain");
}

/// Time that any condition may take before the test fails. It is far above what is needed, so that
/// the tests pass on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns how tests call a node: this node alone, each call once, with nothing hidden of what came
/// of it.
///
/// The connection breaks when the node hangs. Without that, a test of such a node would not end.
pub fn one_node() -> lockstep_client::Options {
    lockstep_client::Options {
        connect_timeout: PATIENCE,
        ping_timeout: PATIENCE,
        ..lockstep_client::Options::one_node()
    }
}

/// Repeats `attempt` until it succeeds. After [`PATIENCE`] it fails with the last error.
pub async fn eventually<T, F, Fut>(what: &str, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{what}: not within {PATIENCE:?}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Returns text that hardly compresses.
pub fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes / 16).map(|_| format!("{:016x}", next())).collect()
}
