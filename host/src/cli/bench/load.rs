//! Makes the calls of a benchmark over connections that are open, and measures them. Every system
//! is called by this code, so that a client costs the same for each. It chooses no method and
//! prints no result.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::{JoinError, JoinSet};
use tonic::client::Grpc;
use tonic::{Code, Request, Status};

use super::keys::{Keys, Random};
use super::pace::{Pace, Times};
use super::seen::{Errors, Seen};
use super::template::Fill;
use super::values::Values;
use super::work::{Call, Work};
use crate::cli::client::{Client, MESSAGE_BYTES_MAX, RawCodec};
use crate::cli::progress::Line;
use crate::cli::report::{Failure, code_name};

/// How long a client of a closed loop waits after an error. Without a pause, a dead cluster would
/// only show how fast it refuses.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Time between two updates of the progress line.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);
/// Keys that are written at a time before a run of reads.
const WRITES_IN_FLIGHT: usize = 64;

/// What is called, with which keys and values.
pub(super) struct Load {
    pub(super) work: Work,
    pub(super) keys: Keys,
    pub(super) values: Values,
    /// Calls of earlier runs, so that `{n}` is another one in each.
    pub(super) called: AtomicU64,
}

/// How it is called in one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) clients: u32,
    /// Calls that each client has under way at a time.
    pub(super) in_flight: u32,
    /// Calls a second in an open loop. `None` for a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) warmup: Duration,
    pub(super) length: Duration,
}

/// What came of a run. The warm-up is not in it.
pub(super) struct Measured {
    /// In nanoseconds, of the calls that were answered.
    pub(super) latencies: Histogram<u64>,
    pub(super) errors: Errors,
    /// From the end of the warm-up to the last answer.
    pub(super) elapsed: Duration,
    /// What this process took of the processors meanwhile.
    pub(super) cpu: Duration,
}

/// What the tasks of a run share.
struct Run {
    load: Arc<Load>,
    shape: Shape,
    pace: Pace,
    seen: Seen,
    /// Number of the first call.
    first: u64,
}

/// Runs the load once.
pub(super) async fn run(load: &Arc<Load>, shape: Shape, connections: &[Client]) -> anyhow::Result<Measured> {
    let times = Times::new(Instant::now(), shape.warmup, shape.length);
    let pace = Pace::new(times, shape.rate);
    pace.start()?;
    let first = load.called.load(Ordering::Relaxed);
    let run = Arc::new(Run { load: load.clone(), shape, pace, seen: Seen::new()?, first });
    let mut tasks = JoinSet::new();
    for client in 0..shape.clients as usize {
        for slot in 0..shape.in_flight as usize {
            let connection = connections[client % connections.len()].clone();
            tasks.spawn(drive(run.clone(), connection, client, client * shape.in_flight as usize + slot));
        }
    }
    let cpu_at_start = async {
        tokio::time::sleep_until(times.record_from.into()).await;
        cpu_time()
    };
    let both = async { tokio::join!(cpu_at_start, join_all(&mut tasks)) };
    let (cpu_at_start, ended) = with_progress(|| run.progress(times), both).await;
    ended?;
    let (cpu, elapsed) = (cpu_time().saturating_sub(cpu_at_start), times.record_from.elapsed());
    load.called.store(first + run.pace.begun(), Ordering::Relaxed);
    let missed = run.pace.missed();
    if missed > 0 {
        run.seen.failed("not sent: all clients were busy until the end of the run".to_owned(), missed);
    }
    let (latencies, errors) = run.seen.take()?;
    Ok(Measured { latencies, errors, elapsed, cpu })
}

async fn join_all(tasks: &mut JoinSet<()>) -> Result<(), JoinError> {
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

/// Makes one call after the other until the run is over.
async fn drive(run: Arc<Run>, connection: Client, client: usize, task: usize) {
    let mut grpc = grpc(connection);
    let mut random = Random::new(task as u64);
    let mut keys = vec![0; run.load.work.keys()];
    while let Some(turn) = run.pace.next().await {
        let number = run.first + turn.number;
        let call = run.load.work.pick(&mut random);
        for (key, position) in keys.iter_mut().zip(number * call.request.keys() as u64..) {
            *key = run.load.keys.draw(position, &mut random);
        }
        let value = run.load.values.draw(&mut random);
        let fill = Fill { keys: &keys, value, number: number + 1, client: client as u64 };
        let request = call.request.encode(&fill);
        let called = send(&mut grpc, call, request).await;
        let latency = turn.from.elapsed();
        let is_recorded = run.pace.is_recorded(turn.from);
        match called {
            Ok(()) if is_recorded => run.seen.answered(task, latency),
            Ok(()) => {}
            Err(status) => {
                if is_recorded {
                    run.seen.failed(words(&status), 1);
                }
                if run.shape.rate.is_none() {
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }
}

impl Run {
    /// Returns, for example, `64 clients: 2 of 5 s, 12345 calls, 6172 a second`.
    fn progress(&self, times: Times) -> String {
        let Shape { clients, length, .. } = self.shape;
        let recorded = times.record_from.elapsed();
        if recorded.is_zero() {
            return format!("{clients} clients: warming up, {} calls", self.pace.begun());
        }
        let (answered, errors) = self.seen.counts();
        let (seconds, rate) = (recorded.as_secs(), answered as f64 / recorded.as_secs_f64());
        let errors = if errors == 0 { String::new() } else { format!(", {errors} errors") };
        format!("{clients} clients: {seconds} of {} s, {answered} calls, {rate:.0} a second{errors}", length.as_secs())
    }
}

/// Writes every key that may be read, each once.
pub(super) async fn write_keys(load: &Arc<Load>, put: Call, connections: &[Client]) -> anyhow::Result<()> {
    let (span, next) = (load.keys.span(), Arc::new(AtomicU64::new(0)));
    let put = Arc::new(put);
    let mut tasks = JoinSet::new();
    for task in 0..WRITES_IN_FLIGHT.min(usize::try_from(span).unwrap_or(WRITES_IN_FLIGHT)) {
        let (load, next, put) = (load.clone(), next.clone(), put.clone());
        let mut grpc = grpc(connections[task % connections.len()].clone());
        tasks.spawn(async move {
            let mut random = Random::new(task as u64);
            loop {
                let key = next.fetch_add(1, Ordering::Relaxed);
                if key >= span {
                    return Ok::<(), Status>(());
                }
                let fill = Fill { keys: &[key], value: load.values.draw(&mut random), number: key, client: 0 };
                let request = put.request.encode(&fill);
                send(&mut grpc, &put, request).await?;
            }
        });
    }
    let written = async {
        while let Some(written) = tasks.join_next().await {
            written?
                .map_err(|status: Status| Failure::new(format!("a key could not be written: {}", words(&status))))?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let text = || format!("writing the keys that are read: {} of {span}", next.load(Ordering::Relaxed).min(span));
    with_progress(text, written).await
}

/// Waits until each node has what was written. A linearizable read by a node shows that it has, so
/// that local reads find the keys from then on.
pub(super) async fn catch_up(load: &Load, get: &Call, connections: &[Client]) -> anyhow::Result<()> {
    let mut random = Random::new(0);
    for connection in connections {
        let fill = Fill { keys: &[0], value: load.values.draw(&mut random), number: 0, client: 0 };
        let read = send(&mut grpc(connection.clone()), get, get.request.encode(&fill)).await;
        read.map_err(|status| {
            let failure = Failure::new(format!("a key could not be read: {}", words(&status)));
            match status.code() {
                Code::NotFound => failure.hint("--filled is for keys that were written with as many --value_bytes"),
                _ => failure,
            }
        })?;
    }
    Ok(())
}

fn grpc(connection: Client) -> Grpc<Client> {
    Grpc::new(connection).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Makes one call.
async fn send(grpc: &mut Grpc<Client>, call: &Call, request: Bytes) -> Result<(), Status> {
    grpc.ready().await?;
    let reply = grpc.unary(Request::new(request), call.path.clone(), RawCodec).await?;
    if reply.get_ref().len() < call.reply_bytes_min {
        return Err(Status::not_found(format!("the reply holds no value of {} bytes", call.reply_bytes_min)));
    }
    Ok(())
}

fn words(status: &Status) -> String {
    match status.message() {
        "" => code_name(status.code()),
        message => format!("{}: {message}", code_name(status.code())),
    }
}

/// Waits for `work`, and shows what `text` returns meanwhile, on a terminal.
async fn with_progress<T>(text: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    let mut line = Line::new();
    if !line.is_shown() {
        return work.await;
    }
    let shown = async {
        loop {
            tokio::time::sleep(PROGRESS_PAUSE).await;
            line.draw(&text());
        }
    };
    tokio::select! {
        done = work => done,
        () = shown => unreachable!("it goes on until the work is done"),
    }
}

/// Returns the processor time of this process so far.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
