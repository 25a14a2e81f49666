//! Written values can be read: linearizably on every node, and locally on the node that received
//! the write.

use anyhow::Result;
use lockstep_tests::{formed, pb::GetRequest};

#[tokio::test]
async fn every_node_reads_what_was_written() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let index = cluster.add(leader, "key", "value").await?;
    for node in &cluster.nodes {
        let request = GetRequest { key: "key".into(), linearizable: true };
        let reply = node.client().await?.get(request).await?.into_inner();
        assert_eq!(reply.value, "value");
        assert!(reply.read_at_index >= index, "read at {}, written at {index}", reply.read_at_index);
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_key_is_an_empty_value() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    assert_eq!(cluster.get(0, "nothing", true).await?, "");
    assert_eq!(cluster.get(0, "nothing", false).await?, "");
    Ok(())
}

#[tokio::test]
async fn commit_indexes_grow_and_the_last_write_wins() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let first = cluster.add(0, "key", "one").await?;
    let second = cluster.add(0, "key", "two").await?;
    assert!(second > first);
    assert_eq!(cluster.get(0, "key", false).await?, "two");
    Ok(())
}

#[tokio::test]
async fn a_read_after_a_write_elsewhere_sees_it() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    for n in 0..30 {
        let value = n.to_string();
        cluster.add(n % 3, "key", &value).await?;
        assert_eq!(cluster.get((n + 1) % 3, "key", true).await?, value);
    }
    Ok(())
}
