//! `lockstep bench`: measures how many calls a second a cluster serves, and how long each takes, as
//! a client of it. The flags are here, and the order of a measurement: connect, write the keys that
//! are read, run the load once for each number of clients, and print the figures.
//!
//! * `bench/work.rs`: which methods are called, of which system
//! * `bench/template.rs`: requests as bytes with gaps
//! * `bench/keys.rs`, `bench/values.rs`: what fills the gaps
//! * `bench/pace.rs`: when calls begin
//! * `bench/load.rs`: makes the calls
//! * `bench/seen.rs`, `bench/shown.rs`: latencies and errors, and how they are printed

mod keys;
mod load;
mod pace;
mod seen;
mod shown;
mod template;
mod values;
mod work;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::call::{describe, find_method, split_method};
use super::client::{self, CONNECT_PATIENCE, Client};
use super::credentials::Credentials;
use super::report::{Failure, print_line};
use keys::{Distribution, Keys};
use load::{Load, Measured, Shape};
use shown::{Shown, heading};
use values::Values;
use work::{Operation, System, Work};

/// Longest time for one call before it counts as an error. It is a little longer than the time that
/// a node gives a call, so that the node's own answer comes first.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
const CLIENTS_MAX: u32 = 10_000;
const IN_FLIGHT_MAX: u32 = 1000;
/// Most calls under way at a time, of all clients. Each has a task.
const CALLS_UNDER_WAY_MAX: u64 = 100_000;
const KEYS_MAX: u64 = 100_000_000;
const VALUE_BYTES_MAX: u32 = 16 << 20;
/// Calls a second, at least and at most.
const RATES: std::ops::RangeInclusive<f64> = 0.01..=10_000_000.0;
const READ_SHARE: f64 = 0.9;

// clap breaks the line at the placeholder without spaces.
const AFTER_HELP: &str = "\
Without --method, the key-value store of a system is called: the cluster runs the key-value guest (build/kv.wasm), or
is one of etcd or raft-example. Only the keys bench/... are written. Before a run of reads, all keys are written once.

Without --rate, each client makes its next call when it has the reply to the last one (a closed loop). With it, calls
have fixed times, whether or not earlier ones were answered (an open loop). A latency counts from the time at which the
call should have begun, so that a pause of the cluster shows in every call that it delayed. Calls for which no client
was free until the end of the run are counted as errors.

In the texts of --request, {key} is a key, and {key:2}, {key:3}, … are more keys for a method that takes a batch.
{value} is a text of --value_bytes, { n } the number of the call, {client} that of the client. A number may be written
so, too: \"amount\": \"{key}\". Latencies are those of answered calls. The column cpu/call is the processor time of
this program.

Examples:
  lockstep bench localhost:40051
  lockstep bench localhost:40051,localhost:40052,localhost:40053 --clients 1,64 --value_bytes 256 --seconds 5
  lockstep bench localhost:40051 --operation mixed --read_share 0.5 --distribution zipf --keys 100000
  lockstep bench localhost:40051 --clients 64 --connections 4 --rate 2000 --warmup 2 --json
  lockstep bench localhost:2379 --system etcd --operation get
  lockstep bench localhost:40051 --method Example/Add --request '{\"key\": \"k-{key}\", \"val\": \"{value}\"}'";

/// Measure how many calls a cluster serves, and how long they take.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BenchArgs {
    /// The grpc_addr of one or several nodes; connections go to them in turn
    #[arg(value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    addrs: Vec<String>,

    /// How many clients at a time; one run for each number
    #[arg(long = "clients", value_name = "COUNT,…", value_delimiter = ',', default_value = "1,64",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    clients: Vec<u32>,

    /// Connections that the clients share, at most one for each [default: one for each]
    #[arg(long = "connections", value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    connections: Option<u32>,

    /// Calls that each client has under way at a time
    #[arg(long = "in_flight", value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(IN_FLIGHT_MAX)))]
    in_flight: u32,

    /// Begin so many calls a second, of all clients together
    #[arg(long = "rate", value_name = "CALLS", value_parser = rate)]
    rate: Option<f64>,

    /// Size of each value
    #[arg(long = "value_bytes", value_name = "BYTES", default_value_t = 256,
        value_parser = clap::value_parser!(u32).range(0..=i64::from(VALUE_BYTES_MAX)))]
    value_bytes: u32,

    /// Whose key-value store is called
    #[arg(long = "system", value_name = "SYSTEM", value_enum, default_value_t = System::Lockstep)]
    system: System,

    /// What each call does
    #[arg(long = "operation", value_name = "OPERATION", value_enum, default_value_t = Operation::Put)]
    operation: Operation,

    /// Share of reads in mixed calls, from 0 to 1 [default: 0.9]
    #[arg(long = "read_share", value_name = "SHARE", value_parser = share)]
    read_share: Option<f64>,

    /// How many keys there are
    #[arg(long = "keys", value_name = "COUNT", default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    keys: u64,

    /// How keys are drawn
    #[arg(long = "distribution", value_name = "DISTRIBUTION", value_enum, default_value_t = Distribution::Uniform)]
    distribution: Distribution,

    /// Write no keys before a run of reads: an earlier run has
    #[arg(long = "filled")]
    filled: bool,

    /// Call this method, which the server describes by reflection
    #[arg(long = "method", value_name = "SERVICE/METHOD",
        conflicts_with_all = ["operation", "system", "read_share", "filled"])]
    method: Option<String>,

    /// Its requests as JSON, with placeholders [default: {}]
    #[arg(long = "request", value_name = "JSON", requires = "method")]
    request: Option<String>,

    /// Length of each run
    #[arg(long = "seconds", value_name = "SECONDS", default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// Make calls for so long before each run, and leave them out of the figures
    #[arg(long = "warmup", value_name = "SECONDS", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(0..=3_600))]
    warmup: u64,

    /// Print one JSON object for each run
    #[arg(long = "json")]
    json: bool,

    #[command(flatten)]
    credentials: Credentials,
}

/// Runs the load for each number of clients, and prints the figures of each run.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    check(args)?;
    client::check(&args.addrs.iter().map(String::as_str).collect::<Vec<_>>(), &args.credentials)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let load = Arc::new(Load {
            work: work(args).await?,
            keys: Keys::new(args.keys, args.distribution),
            values: Values::new(args.value_bytes as usize),
            called: AtomicU64::new(0),
        });
        if args.method.is_none() && args.operation.reads() {
            prepare(args, &load).await?;
        }
        if !args.json {
            print_line(conditions(args, &load.work.name))?;
            print_line(heading())?;
        }
        for &clients in &args.clients {
            measure(args, &load, clients).await?;
        }
        Ok(())
    })
}

/// Refuses flags that cannot work together.
fn check(args: &BenchArgs) -> Result<(), Failure> {
    if args.read_share.is_some() && args.operation != Operation::Mixed {
        return Err(Failure::usage("--read_share is for mixed calls").hint("add --operation mixed"));
    }
    let most = args.clients.iter().copied().max().unwrap_or(0);
    if u64::from(most) * u64::from(args.in_flight) > CALLS_UNDER_WAY_MAX {
        let failure =
            Failure::usage(format!("{most} clients with {} calls under way each are too many", args.in_flight));
        return Err(failure.hint(format!("all clients together have at most {CALLS_UNDER_WAY_MAX} calls under way")));
    }
    Ok(())
}

/// Finds out what is called. A method is described by the first node.
async fn work(args: &BenchArgs) -> anyhow::Result<Work> {
    let Some(method) = &args.method else {
        let share = args.read_share.unwrap_or(READ_SHARE);
        return Ok(Work::of_operation(args.system, args.operation, args.value_bytes as usize, share));
    };
    let (service, Some(method)) = split_method(method) else {
        let failure = Failure::usage(format!("--method {method:?} names no method"));
        return Err(failure.hint("a method is named as SERVICE/METHOD; `lockstep call HOST:PORT` lists them").into());
    };
    let server = client::connect(&args.addrs[0], &args.credentials, CONNECT_PATIENCE).await?;
    let service = describe(server, service).await?;
    let method = find_method(&service, method)?;
    Ok(Work::of_method(&method, args.request.as_deref().unwrap_or("{}"))?)
}

/// Writes the keys that are read, if need be, and waits until every node has them.
async fn prepare(args: &BenchArgs, load: &Arc<Load>) -> anyhow::Result<()> {
    let connections = connect(args, args.addrs.len()).await?;
    if !args.filled {
        load::write_keys(load, args.system.put(), &connections).await?;
    }
    load::catch_up(load, &args.system.get(true, args.value_bytes as usize), &connections).await
}

/// Opens connections to the addresses in turn. Nothing is sent again over them, so that each
/// latency is that of one call, and each error is counted.
async fn connect(args: &BenchArgs, count: usize) -> anyhow::Result<Vec<Client>> {
    let mut connections = Vec::new();
    for addr in args.addrs.iter().cycle().take(count) {
        connections.push(client::connect_for_load(addr, &args.credentials, CONNECT_PATIENCE, CALL_TIMEOUT).await?);
    }
    Ok(connections)
}

/// Runs the load once, and prints its figures. It connects first, so that the measured time covers
/// calls only.
async fn measure(args: &BenchArgs, load: &Arc<Load>, clients: u32) -> anyhow::Result<()> {
    let began = Instant::now();
    let connections = connect(args, args.connections.unwrap_or(clients).min(clients) as usize).await?;
    let (warmup, length) = (Duration::from_secs(args.warmup), Duration::from_secs(args.seconds));
    let shape = Shape { clients, in_flight: args.in_flight, rate: args.rate, warmup, length };
    let measured = load::run(load, shape, &connections).await?;
    let shown = Shown {
        system: args.system.name(),
        operation: &load.work.name,
        shape,
        connections: connections.len(),
        value_bytes: args.value_bytes as usize,
        measured: &measured,
    };
    if args.json {
        print_line(shown.json())?;
    } else {
        print_line(shown.row())?;
        print_errors(&measured)?;
    }
    if measured.latencies.is_empty() {
        let elapsed = humantime::format_duration(Duration::from_secs(began.elapsed().as_secs()));
        let failure = Failure::new(format!("no call was answered in {elapsed}"));
        let first = measured.errors.keys().next();
        return Err(first
            .iter()
            .fold(failure, |failure, error| failure.note(format!("the first error: {error}")))
            .into());
    }
    Ok(())
}

fn print_errors(measured: &Measured) -> anyhow::Result<()> {
    measured.errors.iter().try_for_each(|(error, count)| print_line(format!("        {count} times {error}")))
}

/// Returns what is measured, in one line.
fn conditions(args: &BenchArgs, name: &str) -> String {
    let pace = match args.rate {
        Some(rate) => format!("open loop, {rate} calls/s"),
        None => "closed loop".to_owned(),
    };
    let in_flight = if args.in_flight == 1 { String::new() } else { format!(", {} in flight each", args.in_flight) };
    let warmup = if args.warmup == 0 { String::new() } else { format!(" after {} s of warm-up", args.warmup) };
    format!(
        "{name} on {}, {}-byte values, {} s a run{warmup}, {pace}{in_flight}",
        args.system.name(),
        args.value_bytes,
        args.seconds
    )
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| RATES.contains(rate));
    rate.ok_or_else(|| format!("give calls a second, from {} to {}", RATES.start(), RATES.end()))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "give a number from 0 to 1".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn parsed(words: &[&str]) -> Result<BenchArgs, clap::Error> {
        let command = BenchArgs::augment_args(clap::Command::new("bench"));
        let matches = command.try_get_matches_from(["bench", "localhost:1"].iter().chain(words))?;
        BenchArgs::from_arg_matches(&matches)
    }

    #[test]
    fn flags_have_the_defaults_of_the_help() {
        let args = parsed(&[]).unwrap();
        assert_eq!((args.clients.as_slice(), args.in_flight, args.keys), (&[1, 64][..], 1, 10_000));
        assert_eq!((args.rate, args.connections, args.warmup, args.json), (None, None, 0, false));
        assert_eq!(conditions(&args, "put"), "put on lockstep, 256-byte values, 5 s a run, closed loop");
        let args = parsed(&["--rate", "1000", "--in_flight", "4", "--warmup", "2", "--system", "etcd"]).unwrap();
        let expected =
            "put on etcd, 256-byte values, 5 s a run after 2 s of warm-up, open loop, 1000 calls/s, 4 in flight each";
        assert_eq!(conditions(&args, "put"), expected);
    }

    #[test]
    fn flags_that_cannot_work_are_refused() {
        for words in [
            &["--rate", "0"][..],
            &["--rate", "many"],
            &["--rate", "NaN"],
            &["--read_share", "1.5"],
            &["--clients", "0"],
            &["--keys", "0"],
            &["--request", "{}"],
            &["--method", "Example/Add", "--operation", "get"],
            &["--method", "Example/Add", "--filled"],
            &["--operation", "delete"],
        ] {
            assert!(parsed(words).is_err(), "{words:?}");
        }
        for (words, expected) in [
            (&["--read_share", "0.5"][..], "--operation mixed"),
            (&["--clients", "10000", "--in_flight", "11"], "at most 100000"),
        ] {
            let refused = format!("{:?}", check(&parsed(words).unwrap()).unwrap_err());
            assert!(refused.contains(expected), "{refused}");
        }
        check(&parsed(&["--operation", "mixed", "--read_share", "0"]).unwrap()).unwrap();
        check(&parsed(&["--method", "Example/Add", "--request", "{}", "--in_flight", "1000"]).unwrap()).unwrap();
    }

    /// clap breaks the line at a placeholder of this name.
    #[test]
    fn the_help_shows_the_placeholders() {
        let mut command = BenchArgs::augment_args(clap::Command::new("bench"));
        let help = command.render_long_help().to_string();
        for placeholder in ["{key}", "{key:2}", "{value}", "{ n }", "{client}"] {
            assert!(help.contains(placeholder), "{placeholder} is not in:\n{help}");
        }
    }
}
