//! The harness of the scenarios: real `lockstep` processes in temporary directories, real faults,
//! and standard clients. It waits for conditions, never for a duration, and leaves nothing behind.
//! It knows nothing of the host's internals.

pub mod abuse;
pub mod alike;
mod certificates;
pub mod changes;
mod cluster;
mod descriptors;
pub mod frames;
mod load;
mod logged;
mod misbehaving;
mod network;
pub mod operator;
mod place;
mod process;
mod raw_http2;
mod stock;
pub mod torture;

pub use certificates::{Certificates, Deployed, Expiry, token_of, unsigned_token};
pub use cluster::{Cluster, formed, formed_in, formed_of};
pub use load::{Failure, Load, Seen};
pub use lockstep_processes::Signal;
pub use misbehaving::{lean_misbehaving_wasm, misbehaving_wasm, unfinished_wasm};
pub use network::{Cut, Network, in_network};
pub use place::nobody;
pub use process::{
    NodeProcess, Options, chain_wasm, failpoints_binary, kv_client_binary, kv_planted_wasm, kv_wasm, locks_wasm,
    lockstep, lockstep_binary, medley_wasm, names_wasm, prices_wasm, statics_wasm, version_wasm,
};

pub use raw_http2::{RawHttp2, literal};
pub use stock::{LEFT_OUT, Shown, Stock, in_plain_text, is_served, openssl, reply};

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

/// The client of the lock service, in its second version, which has all that the first one has.
#[allow(missing_docs, clippy::all)]
pub mod locks_pb {
    tonic::include_proto!("locks");
}

/// The client of the order book, in its third version, which has all that the others have.
#[allow(missing_docs, clippy::all)]
pub mod orders_pb {
    tonic::include_proto!("orders");
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

/// Runs a `lockstep` command to its end on a thread of its own, so that the test goes on beside it.
pub async fn lockstep_beside(arguments: &[&str]) -> Result<std::process::Output> {
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.to_string()).collect();
    let run = move || lockstep(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await?
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
