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
    for _ in 0..FAILURES {
        ensure!(culprit.r#do(deed(What::Abort)).await.is_err());
    }
    for node in &cluster.nodes {
        eventually("it has applied them all", || async {
            let status = node.status().await?;
            ensure!(status["fsm"]["commands_failed"] == FAILURES, "{status}");
            Ok(())
        })
        .await?;
        let (_, metrics) = node.http("/metrics").await?;
        ensure!(metrics.contains(&format!("reason=\"aborted\"}} {FAILURES}")), "{metrics}");
        let (log, seconds) = (node.log(), start.elapsed().as_secs());
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a command failed")).collect();
        ensure!((1..=seconds + 1).contains(&(lines.len() as u64)), "{} lines in {seconds} s", lines.len());
        let left_out = lines.iter().map(|line| number(line, "left_out")).sum::<Result<u64>>()?;
        ensure!(left_out + lines.len() as u64 <= FAILURES, "{left_out} were left out");
    }
    Ok(())
}
