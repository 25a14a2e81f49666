//! Events that clients can cause as often as they like do not fill a log: failed commands give at
//! most one line a second, which says how many were left out.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lockstep_tests::eventually;
use lockstep_tests::misbehaving_pb::What;

use crate::misbehaving::{client, deed, misbehaving};

const FAILURES: u64 = 300;

/// Returns the number after `name=` in a line.
fn number(line: &str, name: &str) -> Result<u64> {
    let word = line.split(&format!("{name}=")).nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(word.with_context(|| format!("no {name} in {line}"))?.parse()?)
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
        let (log, seconds) = (node.log(), start.elapsed().as_secs());
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a command failed")).collect();
        ensure!((1..=seconds + 1).contains(&(lines.len() as u64)), "{} lines in {seconds} s", lines.len());
        let left_out = lines.iter().map(|line| number(line, "left_out")).sum::<Result<u64>>()?;
        ensure!(left_out + lines.len() as u64 <= *failures.end(), "{left_out} were left out");
    }
    Ok(())
}
