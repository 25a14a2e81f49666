//! Events that clients can cause as often as they like do not fill a log: failed commands give at
//! most one line a second, which says how many were left out. Nor does a flood at the http port
//! keep a probe without its answer.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lockstep_tests::misbehaving_pb::What;
use lockstep_tests::{eventually, formed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::misbehaving::{client, deed, misbehaving};

const FAILURES: u64 = 300;

/// Returns the number after `name=` in a line.
fn number(line: &str, name: &str) -> Result<u64> {
    let word = line.split(&format!("{name}=")).nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(word.with_context(|| format!("no {name} in {line}"))?.parse()?)
}

/// Clients that ask for pages at the same time, and how often a probe asks meanwhile.
const ASKING: usize = 96;
const PROBES: usize = 20;

/// Asks for a page again and again.
async fn ask(address: String, page: &'static str) -> Result<()> {
    let request = format!("GET {page} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    loop {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page).await?;
        ensure!(page.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&page));
    }
}

#[tokio::test]
async fn a_flood_of_pages_keeps_no_probe_and_no_command_waiting_for_ever() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let node = &cluster.nodes[0];
    let pages = ["/metrics", "/status", "/readyz"];
    let mut flood: JoinSet<Result<()>> = (0..ASKING).map(|n| ask(node.http_addr(), pages[n % pages.len()])).collect();
    for n in 0..PROBES {
        for page in ["/livez", "/readyz"] {
            let (code, text) = node.http(page).await?;
            ensure!(code == 200, "{page}: {text}");
        }
        cluster.add(0, "key", &n.to_string()).await?;
    }
    // What was counted before a question is in its answer, also while others share it. The last
    // call may be counted a moment after its client has the reply.
    let (_, metrics) = node.http("/metrics").await?;
    let calls =
        metrics.lines().find_map(|line| line.split_once("method=\"Example/Add\",kind=\"command\",code=\"OK\"} "));
    let calls: usize = calls.context("no calls are counted")?.1.parse()?;
    ensure!(calls + 1 >= PROBES, "{calls}");
    ensure!(flood.try_join_next().is_none(), "a page was not given");
    flood.abort_all();
    Ok(())
}

#[tokio::test]
async fn failing_commands_cost_a_line_a_second() -> Result<()> {
    let cluster = misbehaving(3, &[]).await?;
    let (start, mut culprit) = (Instant::now(), client(&cluster, 0).await?);
    // Answers of another kind come of an election. Such a command may have been applied as well.
    let (mut failed, mut unclear) = (0, 0);
    while failed < FAILURES {
        let status = culprit.r#do(deed(What::Abort)).await.err().context("it succeeded")?;
        match status.message().contains("panicked") {
            true => failed += 1,
            false => unclear += 1,
        }
        ensure!(unclear < FAILURES, "{status:?}");
    }
    let failures = FAILURES..=FAILURES + unclear;
    for node in &cluster.nodes {
        eventually("it has applied them all", || async {
            let status = node.status().await?;
            let found = status["fsm"]["commands_failed"].as_u64().context("no count")?;
            ensure!(failures.contains(&found), "{status}");
            Ok(())
        })
        .await?;
        let (_, metrics) = node.http("/metrics").await?;
        let aborted = metrics.lines().find_map(|line| line.split_once("reason=\"aborted\"} "));
        let aborted: u64 = aborted.context("no metric")?.1.parse()?;
        ensure!(failures.contains(&aborted), "{metrics}");
        node.has_logged(&["a command failed"]).await?;
        let (log, seconds) = (node.log(), start.elapsed().as_secs());
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a command failed")).collect();
        ensure!((1..=seconds + 1).contains(&(lines.len() as u64)), "{} lines in {seconds} s", lines.len());
        let left_out = lines.iter().map(|line| number(line, "left_out")).sum::<Result<u64>>()?;
        ensure!(left_out + lines.len() as u64 <= *failures.end(), "{left_out} were left out");
    }
    Ok(())
}
