//! Half-sent messages at the peer port. Without certificates whoever reaches that port can call
//! Identify, learns from its answer what a route needs, and may then send large messages in the
//! name of any node. The attacker has as many connections as one address may have and finishes no
//! message. Some connections take all the room that a connection has for parts of small messages,
//! and then send calls of which the node reads one frame, so that the rest waits in HTTP/2. Some
//! take that room and send one frame on every other call that a connection may have. The others
//! send most of a large Append or Snapshot.

use std::time::Duration;

use anyhow::Result;
use prost::Message;
use tokio::time::sleep;
use tonic::codegen::Bytes;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, Caller, Open};
use crate::peer::{IdentifyResponse, Route};

/// Connections: as many as one address may have, an eighth of the port's places.
const CONNECTIONS: usize = 128;
/// One connection of so many sends large messages, the others small ones.
const LARGE_EACH: usize = 16;
/// Of the others, one of so many sends single frames.
const FRAMES_EACH: usize = 2;
/// The call that a stranger may make.
const IDENTIFY: &str = "/lockstep.peer.v1.Peer/Identify";
/// Largest small message.
const SMALL_BYTES: usize = 64 << 10;
/// Half-sent small messages on a connection. Two take all of its room, and four wait: with the next
/// calls as many as may.
const SMALL_CALLS: usize = 6;
/// Half-sent small messages that take the room before single frames are sent.
const ROOM_CALLS: usize = 2;
/// Calls with a single frame after these: almost all that a connection may have.
const FRAME_CALLS: usize = 250;
/// Bytes of a frame of HTTP/2.
const FRAME_BYTES: usize = 16 << 10;
/// Time in which the node reads these, so that there is no room for the next calls.
const READ: Duration = Duration::from_millis(500);
/// Calls after these.
const UNREAD_CALLS: usize = 4;
/// Bytes of each: as many as the widest window of a call without a certificate.
const UNREAD_BYTES: usize = 1 << 20;
/// Calls that may be large.
const LARGE_PATHS: [&str; 2] = ["/lockstep.peer.v1.Peer/Append", "/lockstep.peer.v1.Peer/Snapshot"];
/// Half-sent large messages on a connection. Two take its room of 32 MiB, and the others wait.
const LARGE_CALLS: usize = 4;
/// Bytes of each.
const LARGE_BYTES: usize = 15 << 20;

pub(crate) const CASE: Case = Case {
    name: "half-peers",
    does: "sends half of small and large messages on 128 connections at the peer port",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    let small = half_of_a_message(SMALL_BYTES);
    let unread: Bytes = wire::message(&[0; SMALL_BYTES]).repeat(UNREAD_BYTES / SMALL_BYTES).into();
    let frame = small.slice(..FRAME_BYTES);
    let large = half_of_a_message(LARGE_BYTES);
    let work = move |target: Target, n: usize| {
        let (small, unread, frame, large) = (small.clone(), unread.clone(), frame.clone(), large.clone());
        async move {
            let caller = Caller::connect(&target, &target.peers).await?;
            let halves = match n.is_multiple_of(FRAMES_EACH) {
                true => Halves {
                    first: (ROOM_CALLS, small, "halves of small messages"),
                    then: (FRAME_CALLS, frame, "single frames of small messages"),
                },
                false => Halves {
                    first: (SMALL_CALLS, small, "halves of small messages"),
                    then: (UNREAD_CALLS, unread, "calls that wait to be read"),
                },
            };
            let open = match n.is_multiple_of(LARGE_EACH) {
                true => begin_large(&target, &caller, large).await?,
                false => begin_small(&target, &caller, halves).await?,
            };
            // Until the node ends them: then come again.
            caller.keep_open(open).await
        }
    };
    target.together(CONNECTIONS, work).await
}

/// What the calls of a connection send, one after the other.
struct Halves {
    /// Calls that take the room, or wait for it.
    first: (usize, Bytes, &'static str),
    /// Calls that come when the node has read those.
    then: (usize, Bytes, &'static str),
}

async fn begin_small(target: &Target, caller: &Caller, halves: Halves) -> Result<Vec<Open>> {
    let mut open = begin(target, caller, halves.first).await?;
    sleep(READ).await;
    open.extend(begin(target, caller, halves.then).await?);
    Ok(open)
}

async fn begin(
    target: &Target,
    caller: &Caller,
    (calls, body, what): (usize, Bytes, &'static str),
) -> Result<Vec<Open>> {
    let mut open = Vec::with_capacity(calls);
    for _ in 0..calls {
        let (response, mut sending) = caller.open(IDENTIFY).await?;
        sending.send_data(body.clone(), false)?;
        target.count(what, 1);
        open.push((response, sending));
    }
    Ok(open)
}

async fn begin_large(target: &Target, caller: &Caller, half: Bytes) -> Result<Vec<Open>> {
    let route = learn_route(caller).await?.encode_to_vec();
    let mut open = Vec::new();
    for path in LARGE_PATHS.iter().cycle().take(LARGE_CALLS) {
        let (response, mut sending) = caller.open_routed(path, &route).await?;
        sending.send_data(half.clone(), false)?;
        target.count("halves of large messages", 1);
        open.push((response, sending));
    }
    Ok(open)
}

/// Asks the node who it is, and returns a route to it from a node that there is not.
async fn learn_route(caller: &Caller) -> Result<Route> {
    let node = IdentifyResponse::decode(caller.ask(IDENTIFY, wire::message(&[])).await?)?;
    Ok(Route {
        cluster_id: node.cluster_id,
        incarnation: node.incarnation,
        from: node.node_id.wrapping_add(1),
        to: node.node_id,
        ..Route::default()
    })
}

/// Returns a message of so many bytes without its last one.
fn half_of_a_message(bytes: usize) -> Bytes {
    wire::announced(bytes, &vec![0; bytes - 1])
}
