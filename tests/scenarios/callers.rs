//! The name of a caller on its way over a follower: the leader believes it from a node that has
//! shown a certificate, and from no other.

use anyhow::{Context, Result, ensure};
use lockstep_client::{Client, Tls};
use lockstep_tests::statics_pb::statics_client::StaticsClient;
use lockstep_tests::statics_pb::{Request, Signature};
use lockstep_tests::{Certificates, Cluster, Deployed, Options, eventually, one_node, statics_wasm};
use tonic::Code;

/// Two nodes that know their clients by certificates, and speak plain text with each other.
async fn formed(certificates: &Certificates, deployed: &[Deployed]) -> Result<Cluster> {
    let mut cluster = Cluster::new()?;
    for (n, files) in deployed.iter().enumerate() {
        let mut options = Options { fsm: Some(statics_wasm()), bootstrap: n == 0, ..Options::member() };
        options.more.extend(files.client_flags("require"));
        options.more.push(format!("--policy={}", certificates.word("policy.toml")));
        options.tls = Some(certificates.client("alice"));
        cluster.push(options)?;
        cluster.nodes[n].start().await?;
        if n > 0 {
            cluster.add_voter(n).await?;
        }
    }
    cluster.everyone_knows_everyone().await?;
    Ok(cluster)
}

/// Returns the guest as a client of this identity finds it at node `n`.
async fn guest(cluster: &Cluster, n: usize, tls: Tls) -> Result<StaticsClient<Client>> {
    let options = lockstep_client::Options { tls: Some(tls), ..one_node() };
    Ok(StaticsClient::new(options.connect(&cluster.nodes[n].grpc_addr()).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_sees_who_called_a_follower_if_its_certificate_vouches_for_it() -> Result<()> {
    let certificates = Certificates::made(&["nodeA", "nodeB"], &["alice:admin", "bob:writer"])?;
    let deployed = [certificates.deployed("nodeA")?, certificates.deployed("nodeB")?];
    let mut cluster = formed(&certificates, &deployed).await?;
    let (alice, bob) = (certificates.client("alice"), certificates.client("bob"));

    // Whoever is in between could have written any name.
    let refused = eventually("a follower's word alone is not believed", || async {
        let follower = cluster.follower().await?;
        let signed = guest(&cluster, follower, bob.clone()).await?.sign(Request::default()).await;
        let refused = signed.err().context("it was believed, or the follower has become the leader")?;
        ensure!(refused.code() == Code::FailedPrecondition, "{refused:?}");
        Ok(refused)
    })
    .await?;
    ensure!(refused.message().contains("forwarded this command has shown no certificate"), "{refused:?}");
    ensure!(refused.metadata().get("lockstep-outcome").is_some_and(|fate| fate == "not-applied"), "{refused:?}");

    for (node, files) in cluster.nodes.iter_mut().zip(&deployed) {
        node.kill()?;
        node.options.more.extend(files.peer_flags("require"));
    }
    // Neither leads without the other.
    cluster.nodes.iter_mut().try_for_each(|node| node.spawn())?;
    for node in &mut cluster.nodes {
        node.wait_answers().await?;
    }
    cluster.everyone_knows_everyone().await?;
    let follower = cluster.follower().await?;
    let by_bob = |caller: &str| Signature { caller: caller.into(), signed_by: "bob".into() };
    let mut of_bob = guest(&cluster, follower, bob).await?;
    ensure!(of_bob.sign(Request::default()).await?.into_inner() == by_bob("bob"), "the command");
    for n in 0..cluster.nodes.len() {
        let mut of_alice = guest(&cluster, n, alice.clone()).await?;
        // A local read may be behind.
        eventually("every node has the name in its state", || {
            let mut of_alice = of_alice.clone();
            async move {
                let seen = of_alice.ask(Request::default()).await?.into_inner();
                ensure!(seen == by_bob("alice"), "{seen:?}");
                Ok(())
            }
        })
        .await?;
        let mut watch = of_alice.look(Request::default()).await?.into_inner();
        ensure!(watch.message().await? == Some(by_bob("alice")), "the watch");
    }
    Ok(())
}
