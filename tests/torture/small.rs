//! `cargo xtask torture` for a minute: every kind of fault that needs no rights.

use std::time::Duration;

use anyhow::Result;
use lockstep_tests::torture::plan::FaultKind;
use lockstep_tests::torture::run::{Options, run};

/// Any would do: the plan is the same every time, what the cluster makes of it is not.
const SEED: u64 = 20_261_124;

#[tokio::test]
async fn a_short_run_finds_nothing() -> Result<()> {
    let _turn = crate::ONE_AT_A_TIME.lock().await;
    let options = Options {
        seed: SEED,
        time: Some(Duration::from_secs(40)),
        cycles: Some(FaultKind::ALL.len() as u64),
        kinds: FaultKind::ALL.to_vec(),
        nodes: Some(3),
    };
    let summary = run(&options).await?;
    println!("{summary}");
    assert!(summary.cycles >= 1 && summary.counts.writes > 100, "{summary}");
    Ok(())
}
