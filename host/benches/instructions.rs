//! `cargo xtask instructions`: does one hot piece of a node so many times, and ends. valgrind
//! counts its instructions. The data is the same in each run, and one thread works where that is
//! possible. It counts and compares nothing itself: xtask does.
//!
//! `instructions list` prints each piece, and how many times are enough to count it;
//! `instructions <piece> <times>` does one. Every piece is written so that its preparation does not
//! grow with the times: two runs of different length tell what one time costs.

#[path = "parts/bed.rs"]
mod bed;
#[path = "instructions/face.rs"]
mod face;
#[path = "parts/guests.rs"]
mod guests;
#[path = "parts/ladder.rs"]
mod ladder;
#[path = "instructions/shelf.rs"]
mod shelf;

use std::hint::black_box;

use anyhow::{Context, Result, bail, ensure};
use bed::{Bed, ROWS, add, key};
use guests::START_MS;
use ladder::{HeldRows, Rung, echo, one_call};
use lockstep::codec::{self, Command, entry};
use lockstep::guest::{ApplyInstance, CALLER_STACK_BYTES, Component, Engine, Rows, Verdict};
use lockstep::machine::Reuse;
use lockstep::store::{DataDir, LogDisk};
use lockstep::types::{CommittedLeaderId, Entry, EntryData, Fatal, GROUP, LogId};
use openraft::EntryPayload;
use openraft::storage::RaftLogStorageExt;
use prost::Message;
use shelf::Kept;

/// Commands of an entry that is encoded or appended.
const ENTRY_COMMANDS: usize = 64;
/// Store calls within one call. There are so many that the call itself hardly counts.
const STORE_CALLS: u32 = 1000;
/// Rounds of the guest's loop within one call.
const ROUNDS: u32 = 100_000;
/// The query of the key-value guest.
const GET: &str = "Example/Get";

/// Something that a node does often.
struct Piece {
    name: &'static str,
    /// Times that are enough to count it: about a hundred million instructions. No piece fills a
    /// memtable in three times as many.
    times: u32,
    run: fn(u32) -> Result<()>,
}

const PIECES: [Piece; 12] = [
    // An entry of 64 commands becomes the payload of a log entry.
    Piece { name: "encode-64", times: 2000, run: encode },
    // A log entry of 64 commands, from openraft's call to its callback: the tail in memory, the
    // queue, the writer's batch, RocksDB, and SYNCED.
    Piece { name: "append-64", times: 200, run: append },
    // An entry of the key-value guest: a fresh instance, the commands, the rolling hash, and one
    // batch of RocksDB. Closing the state, which writes the rows to a table file, is a part of it.
    Piece { name: "apply-1", times: 600, run: |times| apply(1, times) },
    Piece { name: "apply-64", times: 40, run: |times| apply(64, times) },
    Piece { name: "apply-1024", times: 4, run: |times| apply(1024, times) },
    // A call in an instance that has served others; it answers with its 261 bytes.
    Piece { name: "call", times: 4000, run: |times| calls(&echo(), times) },
    // A call in which the guest computes: the code that the compiler made, with its fuel.
    Piece { name: "call-loop-100000", times: 100, run: |times| calls(&Rung::Loop.request(ROUNDS), times) },
    // Calls with a thousand store calls, over rows in memory.
    Piece { name: "store-get-1000", times: 60, run: |times| calls(&Rung::Get.request(STORE_CALLS), times) },
    Piece { name: "store-put-1000", times: 60, run: |times| calls(&Rung::Put.request(STORE_CALLS), times) },
    Piece { name: "store-scan-1000", times: 20, run: |times| calls(&Rung::Scan.request(STORE_CALLS), times) },
    // A query in a kept instance, over a view of the state on disk.
    Piece { name: "query", times: 2000, run: query },
    // A unary call of gRPC, from a client's frames to its reply. `instructions/face.rs` says what
    // that covers.
    Piece { name: "unary", times: 1000, run: unary },
];

fn main() -> Result<()> {
    // Rust's own harness passes arguments like --bench; they are ignored.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["list"] => {
            for Piece { name, times, .. } in PIECES {
                println!("{name} {times}");
            }
            Ok(())
        }
        [name, times] => {
            let piece = PIECES.into_iter().find(|piece| piece.name == name);
            let piece = piece.with_context(|| format!("there is no piece '{name}'"))?;
            let times: u32 = times.parse().with_context(|| format!("times: '{times}' is not a number"))?;
            run(piece.run, times)
        }
        _ => bail!("usage: instructions list | instructions <piece> <times>"),
    }
}

/// Runs a piece on a thread that may call guests.
fn run(piece: fn(u32) -> Result<()>, times: u32) -> Result<()> {
    let worker = std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(move || piece(times))?;
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Loads a guest. Its code comes from the shelf if an earlier run has put it there.
fn load(wasm: &[u8]) -> Result<Component> {
    let engine = Engine::narrow(&guests::limits())?;
    Ok(Component::load_from(&engine, &Component::encode(wasm)?, &Kept::open()?)?)
}

/// Returns an entry as a leader makes it: each command has its origin.
fn proposed() -> entry::Entry {
    let origin = |number: usize| Some(entry::Origin { node: 7, boot: 2, counter: number as u64 });
    let command = |number| Command { origin: origin(number), ..add(number) };
    entry::Entry { time_ms: START_MS, commands: (0..ENTRY_COMMANDS).map(command).collect(), ..Default::default() }
}

fn encode(times: u32) -> Result<()> {
    let entry = proposed();
    for _ in 0..times {
        black_box(codec::encode_entry(black_box(&entry)));
    }
    Ok(())
}

fn append(times: u32) -> Result<()> {
    let place = tempfile::Builder::new().prefix("lockstep-instructions-").tempdir()?;
    let directory = DataDir::open(place.path())?;
    let mut log = LogDisk::open(&directory, Fatal::default())?.log(GROUP)?;
    let payload = codec::encode_entry(&proposed());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        // One after the other, so that each has a batch of its own.
        for index in 0..u64::from(times) {
            log.blocking_append([log_entry(index, payload.clone())]).await?;
        }
        anyhow::Ok(())
    })?;
    log.close();
    Ok(())
}

fn log_entry(index: u64, payload: EntryData) -> Entry {
    let log_id = LogId::new(CommittedLeaderId { term: 1, node_id: 7 }, index);
    Entry { log_id, payload: EntryPayload::Normal(payload) }
}

fn apply(commands: usize, times: u32) -> Result<()> {
    let component = load(&guests::kv_wasm()?)?;
    let mut bed = Bed::new(&component)?;
    let all: Vec<Command> = (0..ROWS).map(add).collect();
    for entry in all.chunks(commands).cycle().take(times as usize) {
        bed.apply(&component, entry.to_vec())?;
    }
    Ok(())
}

fn calls(request: &[u8], times: u32) -> Result<()> {
    let mut instance = ApplyInstance::new(&load(&guests::ladder_wasm()?)?)?;
    let mut store: Box<dyn Rows> = Box::new(HeldRows::filled());
    for _ in 0..times {
        store = one_call(&mut instance, request, store)?;
    }
    Ok(())
}

fn query(times: u32) -> Result<()> {
    let component = load(&guests::kv_wasm()?)?;
    let mut bed = Bed::new(&component)?;
    bed.apply(&component, (0..ENTRY_COMMANDS).map(add).collect())?;
    let request = get();
    for _ in 0..times {
        let verdict = bed.replica.query(GET, &request, "", Reuse::Shared)?;
        ensure!(matches!(verdict, Verdict::Reply(_)), "a Get was answered with {verdict:?}");
    }
    Ok(())
}

fn unary(times: u32) -> Result<()> {
    face::serve_calls(load(&guests::kv_wasm()?)?, GET, &get(), times)
}

/// Returns the request of a read that needs no leader.
fn get() -> Vec<u8> {
    kv::GetRequest { key: key(0), linearizable: false }.encode_to_vec()
}
