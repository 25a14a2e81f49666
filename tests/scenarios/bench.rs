//! `lockstep bench` calls a cluster as it is told, and its figures account for every call.

use anyhow::{Context, Result, ensure};
use lockstep_tests::{formed, lockstep};
use serde_json::Value;

use crate::printed::{all, stderr};

/// Runs the benchmark, and returns the objects that it prints.
fn bench(addrs: &str, flags: &str) -> Result<Vec<Value>> {
    bench_with(addrs, flags, &[])
}

/// Runs it with flags that are words, and with others as they stand.
fn bench_with(addrs: &str, flags: &str, more: &[&str]) -> Result<Vec<Value>> {
    let mut words = vec!["bench", addrs, "--json"];
    words.extend(flags.split_whitespace());
    words.extend(more);
    let output = lockstep(&words)?;
    ensure!(output.status.success(), "{}", all(&output));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn number(run: &Value, field: &str) -> Result<u64> {
    run[field].as_u64().with_context(|| format!("no {field} in {run}"))
}

/// Returns how many errors a run had, of all kinds.
fn errors(run: &Value) -> Result<u64> {
    let kinds = run["errors"].as_object().with_context(|| format!("no errors in {run}"))?;
    Ok(kinds.values().filter_map(Value::as_u64).sum())
}

#[tokio::test]
async fn each_number_of_clients_is_one_object_with_all_calls() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let flags = "--clients 1,4 --connections 2 --in_flight 2 --seconds 1 --keys 5 --distribution sequential";
    let runs = bench(&addr, flags)?;
    ensure!(runs.len() == 2, "{runs:?}");
    for (run, clients, connections) in [(&runs[0], 1, 1), (&runs[1], 4, 2)] {
        let calls = number(run, "calls")?;
        ensure!(calls > 0 && number(run, "clients")? == clients && number(run, "connections")? == connections, "{run}");
        ensure!(run["system"] == "lockstep" && run["operation"] == "put" && run["rate"].is_null(), "{run}");
        let counted: u64 =
            run["histogram"].as_array().context("a list")?.iter().filter_map(|pair| pair[1].as_u64()).sum();
        ensure!(counted == calls, "{run}");
        let latency = |name: &str| run["latency_us"][name].as_f64().with_context(|| format!("no {name} in {run}"));
        ensure!(latency("p50")? <= latency("p99")? && latency("p999")? <= latency("max")?, "{run}");
        ensure!(run["client_cpu_us_per_call"].as_f64().is_some_and(|cpu| cpu > 0.0), "{run}");
    }
    ensure!(cluster.get(0, "bench/0", true).await?.len() == 256);
    ensure!(cluster.get(0, "bench/5", true).await?.is_empty(), "there are five keys");
    Ok(())
}

#[tokio::test]
async fn reads_find_the_keys_on_every_node() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let addrs = cluster.nodes.iter().map(|node| node.grpc_addr()).collect::<Vec<_>>().join(",");
    for operation in ["get", "local_get", "mixed"] {
        let flags = "--clients 3 --keys 20 --seconds 1 --value_bytes 32 --distribution zipf";
        for run in bench_with(&addrs, flags, &["--operation", operation])? {
            ensure!(number(&run, "calls")? > 0 && run["operation"] == operation, "{run}");
            ensure!(!run["errors"].to_string().contains("NOT_FOUND"), "a key was not there: {run}");
        }
    }
    Ok(())
}

/// In an open loop the number of calls is fixed before the run. Each of them is answered, failed,
/// or counted as not sent.
#[tokio::test]
async fn an_open_loop_accounts_for_every_call_that_was_due() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let runs = bench(&addr, "--rate 50 --clients 4 --warmup 1 --seconds 2 --system raft_example")?;
    let run = runs.first().context("a run")?;
    ensure!(number(run, "calls")? + errors(run)? == 100, "two seconds with 50 calls each: {run}");
    ensure!(run["rate"] == 50.0 && run["system"] == "raft_example", "{run}");
    Ok(())
}

#[tokio::test]
async fn any_method_is_called_by_a_template() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let request = r#"{"key": "t-{n}", "val": "{value}"}"#;
    let flags = "--method Example/Add --clients 2 --seconds 1 --value_bytes 10";
    let runs = bench_with(&addr, flags, &["--request", request])?;
    ensure!(runs.len() == 1 && runs[0]["operation"] == "Example/Add" && number(&runs[0], "calls")? > 0, "{runs:?}");
    ensure!(cluster.get(0, "t-1", true).await?.len() == 10);
    for (method, request, says) in [
        ("Example/Add", r#"{"kee": "{key}"}"#, "did you mean key?"),
        ("Example/Add", r#"{"key": "{kay}"}"#, "there is no placeholder {kay}"),
        ("Example/Ad", "{}", "did you mean Example/Add?"),
        ("Example/Watch", "{}", "is a stream"),
        ("Example", "{}", "names no method"),
    ] {
        let told = lockstep(&["bench", &addr, "--method", method, "--request", request])?;
        ensure!(!told.status.success() && stderr(&told).contains(says), "{method} {request}: {}", stderr(&told));
    }
    Ok(())
}

#[tokio::test]
async fn people_get_a_table_and_a_failed_run_says_why() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let done = lockstep(&["bench", &addr, "--clients", "2", "--seconds", "1"])?;
    let text = all(&done);
    ensure!(done.status.success() && text.contains("closed loop") && text.contains("p99.9"), "{text}");
    ensure!(text.lines().any(|line| line.trim_start().starts_with("2 ") && line.contains("ms")), "{text}");
    // This node serves no store of etcd's.
    let failed = lockstep(&["bench", &addr, "--system", "etcd", "--clients", "1", "--seconds", "1"])?;
    let text = all(&failed);
    ensure!(failed.status.code() == Some(1) && text.contains("no call was answered"), "{text}");
    ensure!(text.contains("UNIMPLEMENTED"), "{text}");
    Ok(())
}
