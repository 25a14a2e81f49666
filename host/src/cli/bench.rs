//! `lockstep bench`: measures how many commands a second a cluster takes, and how long each takes,
//! as a client of the key-value guest. The load is a closed loop: each client sends its next
//! command when it has the reply to the last one. It writes only the keys `bench/...`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::client::{self, CONNECT_PATIENCE, Client};
use super::credentials::Credentials;
use super::report::{Failure, code_name, print_line};

/// How long a client waits after an error. Without a pause, a dead cluster would only show how fast
/// it refuses.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// Keys of one client. They are enough that a run does not write only one hot row.
const KEYS_PER_CLIENT: u64 = 1000;
/// Longest time for one command before it counts as an error.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
const CLIENTS_MAX: u32 = 10_000;

const AFTER_HELP: &str = "\
Every client has a connection of its own, to the addresses in turn. It writes through Example/Add, so the cluster must run
the key-value guest (build/kv.wasm).

Examples:
  lockstep bench localhost:40051
  lockstep bench localhost:40051,localhost:40052,localhost:40053 --clients 1,64 --value_bytes 256 --seconds 5";

/// Measure how many commands a cluster running the key-value guest takes.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BenchArgs {
    /// The grpc_addr of one or several nodes
    #[arg(value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    addrs: Vec<String>,

    /// How many clients at a time; one run for each number
    #[arg(long = "clients", value_name = "COUNT,…", value_delimiter = ',', default_value = "1,64",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    clients: Vec<u32>,

    /// Size of each value
    #[arg(long = "value_bytes", value_name = "BYTES", default_value_t = 256)]
    value_bytes: usize,

    /// Length of each run
    #[arg(long = "seconds", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    #[command(flatten)]
    credentials: Credentials,
}

/// `AddRequest` of the key-value guest's `Example` service.
#[derive(Clone, PartialEq, prost::Message)]
struct AddRequest {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    val: String,
}

/// `AddResponse` of the key-value guest's `Example` service.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct AddResponse {
    #[prost(uint64, tag = "1")]
    commit_index: u64,
}

/// The results of one client, or of a whole run.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    /// How often each error came, by code and message.
    errors: BTreeMap<String, u64>,
}

/// Runs the load for each number of clients, and prints one line for each run.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    client::check(&args.addrs.iter().map(String::as_str).collect::<Vec<_>>(), &args.credentials)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        print_line(format!("Example/Add, {}-byte values, {} s a run, closed loop", args.value_bytes, args.seconds))?;
        print_line(format!(
            "{:>7} {:>10} {:>10} {:>10} {:>10} {:>10} {:>8}",
            "clients", "ops", "ops/s", "p50", "p99", "max", "errors"
        ))?;
        for &clients in &args.clients {
            let began = Instant::now();
            let (seen, elapsed) = measure(args, clients).await?;
            print_line(row(clients, &seen, elapsed))?;
            for (error, count) in &seen.errors {
                print_line(format!("        {count} times {error}"))?;
            }
            if seen.latencies.is_empty() {
                let elapsed = humantime::format_duration(Duration::from_secs(began.elapsed().as_secs()));
                return Err(Failure::new(format!("no command was acknowledged in {elapsed}")).into());
            }
        }
        Ok(())
    })
}

/// Runs the load once. It connects first, so that the measured time covers commands only.
async fn measure(args: &BenchArgs, clients: u32) -> anyhow::Result<(Seen, Duration)> {
    let mut connections = Vec::new();
    for addr in args.addrs.iter().cycle().take(clients as usize) {
        // Nothing is sent again for a client, so that each latency is that of one call, and each
        // error is counted.
        connections.push(client::connect(addr, &args.credentials, CONNECT_PATIENCE).await?);
    }
    let began = Instant::now();
    let end = began + Duration::from_secs(args.seconds);
    let mut running = JoinSet::new();
    for (client, connection) in connections.into_iter().enumerate() {
        running.spawn(drive(connection, client, args.value_bytes, end));
    }
    let mut all = Seen::default();
    while let Some(seen) = running.join_next().await {
        let seen = seen?;
        all.latencies.extend(seen.latencies);
        for (error, count) in seen.errors {
            *all.errors.entry(error).or_default() += count;
        }
    }
    all.latencies.sort_unstable();
    Ok((all, began.elapsed()))
}

async fn drive(connection: Client, client: usize, value_bytes: usize, end: Instant) -> Seen {
    let mut seen = Seen::default();
    let mut grpc = Grpc::new(connection);
    let val = "x".repeat(value_bytes);
    let mut count = 0;
    while Instant::now() < end {
        let request = AddRequest { key: format!("bench/{client}/{}", count % KEYS_PER_CLIENT), val: val.clone() };
        count += 1;
        let began = Instant::now();
        match add(&mut grpc, request).await {
            Ok(_) => seen.latencies.push(began.elapsed()),
            Err(status) => {
                let error = format!("{}: {}", code_name(status.code()), status.message());
                *seen.errors.entry(error).or_default() += 1;
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
    seen
}

async fn add(grpc: &mut Grpc<Client>, request: AddRequest) -> Result<u64, Status> {
    grpc.ready().await?;
    let mut request = Request::new(request);
    request.set_timeout(COMMAND_TIMEOUT);
    let codec: ProstCodec<AddRequest, AddResponse> = ProstCodec::default();
    let reply = grpc.unary(request, PathAndQuery::from_static("/Example/Add"), codec).await?;
    Ok(reply.into_inner().commit_index)
}

fn row(clients: u32, seen: &Seen, elapsed: Duration) -> String {
    let ops = seen.latencies.len();
    let rate = ops as f64 / elapsed.as_secs_f64();
    let errors: u64 = seen.errors.values().sum();
    let at = |percent| milliseconds(percentile(&seen.latencies, percent));
    format!("{clients:>7} {ops:>10} {rate:>10.0} {:>10} {:>10} {:>10} {errors:>8}", at(50), at(99), at(100))
}

/// Returns the latency that `percent` of the commands did not exceed. `sorted` is ascending.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

fn milliseconds(latency: Option<Duration>) -> String {
    latency.map_or_else(|| "-".into(), |latency| format!("{:.2}ms", latency.as_secs_f64() * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_a_value_that_occurred() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50), Some(Duration::from_millis(100)));
        assert_eq!(percentile(&sorted, 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(&sorted, 100), Some(Duration::from_millis(200)));
        assert_eq!(percentile(&sorted[..1], 99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 50), None);
    }
}
