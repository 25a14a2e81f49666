//! A leader is killed without notice. Clients see only a pause.

use anyhow::Result;
use lockstep_tests::formed;

#[tokio::test]
async fn writes_go_on_after_the_leader_is_killed() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let dead = cluster.leader().await?;
    cluster.add(dead, "before", "1").await?;
    cluster.nodes[dead].kill()?;
    // Without retries: a change of leader causes a pause, not an error.
    for n in (0..3).filter(|n| *n != dead) {
        cluster.add(n, &format!("after-{n}"), "2").await?;
    }
    cluster.everyone_reads("before", "1").await?;
    cluster.nodes[dead].start().await?;
    for n in (0..3).filter(|n| *n != dead) {
        cluster.everyone_reads(&format!("after-{n}"), "2").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_write_in_flight_while_the_leader_dies_is_answered() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let follower = cluster.follower().await?;
    let mut client = cluster.nodes[follower].client().await?;
    let writer = tokio::spawn(async move {
        let mut acknowledged = 0;
        for n in 0..200 {
            let request = lockstep_tests::pb::AddRequest { key: format!("k{n}"), val: "v".into() };
            client.add(request).await?;
            acknowledged = n;
        }
        anyhow::Ok(acknowledged)
    });
    // Waits until the writer is in the middle of its writes.
    while cluster.get(follower, "k50", false).await? != "v" {}
    cluster.nodes[leader].kill()?;
    assert_eq!(writer.await??, 199);
    for n in 0..200 {
        assert_eq!(cluster.get(follower, &format!("k{n}"), n == 0).await?, "v", "k{n} was acknowledged");
    }
    Ok(())
}
