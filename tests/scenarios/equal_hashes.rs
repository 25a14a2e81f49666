//! Nodes with different memory, caches, files, restarts and leaders get the same hash and the same
//! rows. `cargo xtask alike` runs the same with ten million commands.

use anyhow::{Result, ensure};
use lockstep_tests::alike::{Wanted, run};

#[tokio::test(flavor = "multi_thread")]
async fn three_lives_end_alike() -> Result<()> {
    let wanted = Wanted { commands: 60_000, seed: 20 };
    let summary = run(wanted, |line| println!("{line}")).await?;
    println!("{summary}");
    ensure!(summary.failed > wanted.commands / 50, "hardly any command was refused: {summary}");
    ensure!(summary.lives.kills == 8 && summary.lives.stops == 4, "they lived alike: {summary}");
    ensure!(summary.lives.installs > 0, "nobody came back by a snapshot: {summary}");
    Ok(())
}
