//! Measures how long the worst command blocks apply: the slowest things that a guest can do with
//! its fuel, on one node, from request to answer. It prints the figures, which depend on the
//! machine, and judges nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lockstep_tests::misbehaving_pb::What;
use tonic::Code;

use crate::misbehaving::{client, deed, misbehaving};

/// Deeds to do before, and the deed that is measured.
const CASES: [(&[What], What); 23] = [
    (&[], What::Loop),
    (&[], What::Divide),
    (&[], What::RoundVectors),
    (&[], What::MultiplyDenormals),
    (&[], What::RootDenormals),
    (&[], What::MultiplyDenormalVectors),
    (&[], What::Recurse),
    (&[], What::FillMemory),
    (&[], What::CopyMemory),
    (&[], What::InitMemory),
    (&[], What::FillTable),
    (&[], What::CopyTable),
    (&[], What::InitTable),
    (&[], What::ChaseLoads),
    (&[], What::ScatterStores),
    (&[], What::FloodLog),
    (&[], What::FloodGets),
    (&[], What::FloodPuts),
    (&[], What::FloodRemoves),
    (&[], What::FloodScans),
    (&[What::ManyRows], What::FloodLargeScans),
    (&[What::ManyRows], What::RemoveThenScan),
    (&[What::ManyRows, What::NoRows], What::ScanWhereRowsWere),
];

#[tokio::test]
#[ignore = "measures, and judges nothing"]
async fn the_worst_command() -> Result<()> {
    println!("longest of three, milliseconds: until the answer, processor time of the node");
    for (before, what) in CASES {
        let cluster = misbehaving(1, &[]).await?;
        let mut client = client(&cluster, 0).await?;
        let (mut longest, mut longest_cpu) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..3 {
            for what in before {
                client.r#do(deed(*what)).await?;
            }
            let (began, cpu) = (Instant::now(), cluster.nodes[0].cpu_time()?);
            let ended = client.r#do(deed(what)).await.err().context("it is meant to use all that it is given")?;
            longest = longest.max(began.elapsed());
            longest_cpu = longest_cpu.max(cluster.nodes[0].cpu_time()? - cpu);
            if ended.code() == Code::DeadlineExceeded {
                println!("                {what:?} was not done in time: {}", ended.message());
                break;
            }
        }
        println!("{:>7} {:>7} {what:?}", longest.as_millis(), longest_cpu.as_millis());
    }
    Ok(())
}
