//! A limit of the file size (`ulimit -f`): a node keeps its files below it. A node that still
//! reaches it ends with a message, as on a full disk. (SIGXFSZ once ended it without a message.)

use anyhow::{Result, ensure};
use lockstep_tests::{Cluster, Options, eventually, noise};

#[tokio::test]
async fn a_node_writes_many_times_the_limit() -> Result<()> {
    let mut cluster = Cluster::new()?;
    // Depending on the shell's unit this is 8 MiB (blocks of 512 bytes) or 16 MiB (blocks of 1024).
    let n = cluster.push(
        Options::bootstrap().with(&["--snapshot_threshold=50", "--snapshot_interval=1s"]).through("ulimit -f 16384"),
    )?;
    cluster.nodes[n].start().await?;
    cluster.nodes[n].has_logged(&["may not grow beyond"]).await?;
    for k in 0..120 {
        cluster.add(n, &format!("k{k}"), &noise(k, 512 << 10)).await?;
    }
    cluster.nodes[n].kill()?;
    cluster.nodes[n].start().await?;
    let last = noise(119, 512 << 10);
    // It replays and elects itself first.
    eventually("all is there", || cluster.everyone_reads("k119", &last)).await
}

#[tokio::test]
async fn a_log_that_meets_the_limit_ends_the_node_with_words() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let n = cluster.push(Options::bootstrap().through("ulimit -f 1024"))?;
    cluster.nodes[n].start().await?;
    // A busy machine needs more time for the first entry than a call waits.
    eventually("the founder takes a command", || cluster.add(n, "small", "before")).await?;
    // An entry that is larger than the largest allowed file.
    let large = cluster.add(n, "large", &noise(1, 1 << 20)).await;
    ensure!(large.is_err(), "it was taken");
    let status = cluster.nodes[n].wait_exit().await?;
    ensure!(status.code() == Some(1), "{status}");
    let log = cluster.nodes[n].log();
    ensure!(log.contains("the log could not be written") && log.contains("ulimit -f"), "{log}");
    cluster.nodes[n].options.env.clear();
    cluster.nodes[n].options.program = lockstep_tests::lockstep_binary();
    cluster.nodes[n].start().await?;
    eventually("all is there", || cluster.everyone_reads("small", "before")).await
}
