//! A guest that breaks every rule: the nodes stay up and agree, other clients are not harmed, and
//! the caller learns what happened and where.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use lockstep_client::Client;
use lockstep_tests::chain_pb::{PanicRequest, chain_client::ChainClient};
use lockstep_tests::misbehaving_pb::misbehaving_client::MisbehavingClient;
use lockstep_tests::misbehaving_pb::{Deed, Done, What};
use lockstep_tests::{Cluster, Options, chain_wasm, eventually, formed_of, lockstep, misbehaving_wasm};
use tonic::{Code, Status};

/// Forms a cluster whose nodes run the guest.
pub(crate) async fn misbehaving(size: usize, more: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::new()?;
    let fsm = Some(misbehaving_wasm(cluster.directory())?);
    cluster.form(size, &Options { fsm, ..Options::member().with(more) }).await?;
    Ok(cluster)
}

pub(crate) async fn client(cluster: &Cluster, n: usize) -> Result<MisbehavingClient<Client>> {
    Ok(MisbehavingClient::new(cluster.nodes[n].connect().await?))
}

pub(crate) fn deed(what: What) -> Deed {
    Deed { what: what.into(), ..Deed::default() }
}

/// Expected status of a call: its code and a part of its message. `Ok` means a reply.
pub(crate) type Expected = (Code, &'static str);

const FUEL: Expected = (Code::ResourceExhausted, "used all its fuel");
const MEMORY: Expected = (Code::ResourceExhausted, "asked for more memory than the limit");
const STACK: Expected = (Code::ResourceExhausted, "overflowed its stack");
const MALFORMED: Expected = (Code::Internal, "returned a malformed reply");
const BUDGET: Expected = (Code::ResourceExhausted, "used all its store budget");
const FORBIDDEN: Expected = (Code::Internal, "called what is forbidden in this kind of call");
const TRAPPED: Expected = (Code::Internal, "trapped");
const FINE: Expected = (Code::Ok, "");

/// Expected status of each deed as a command.
pub(crate) const COMMANDS: [(What, Expected); 36] = [
    (What::Loop, FUEL),
    (What::Recurse, STACK),
    (What::Allocate, MEMORY),
    (What::GrowTable, MEMORY),
    (What::FillMemory, FUEL),
    (What::CopyMemory, FUEL),
    (What::InitMemory, FUEL),
    (What::FillTable, FUEL),
    (What::CopyTable, FUEL),
    (What::InitTable, FUEL),
    (What::ChaseLoads, FUEL),
    (What::ScatterStores, FUEL),
    (What::TrapFirst, TRAPPED),
    (What::TrapBetween, TRAPPED),
    (What::TrapLast, TRAPPED),
    (What::ReplyGigantic, MALFORMED),
    (What::ReplyTooLarge, (Code::ResourceExhausted, "4128769 bytes, the limit is 4128768")),
    (What::ReplyBeyondMemory, MALFORMED),
    (What::ReplyOfNoCase, MALFORMED),
    (What::RefuseNotUtf8, MALFORMED),
    // The host passes it on unchanged; the client finds that it is not a message.
    (What::ReplyNoMessage, (Code::Internal, "decode")),
    (What::RefuseGigantic, (Code::FailedPrecondition, "AAAA")),
    (What::FloodLog, FUEL),
    (What::FloodGets, FUEL),
    (What::FloodPuts, FUEL),
    (What::FloodScans, FUEL),
    (What::FloodRemoves, FUEL),
    (What::WriteTooMuch, (Code::ResourceExhausted, "bytes written by one call")),
    (What::Write, FINE),
    (What::Remember, FINE),
    (What::Compute, FINE),
    (What::Abort, (Code::Internal, "panicked: misbehaving.Misbehaving/Do at index")),
    (What::Refuse, (Code::FailedPrecondition, " no, never")),
    (What::AskStatus, FORBIDDEN),
    (What::WriteSnapshot, FORBIDDEN),
    (What::ReadSnapshot, FORBIDDEN),
];

/// Expected status of deeds that end differently in a query.
pub(crate) const QUERIES: [(What, Expected); 10] = [
    (What::FloodGets, BUDGET),
    (What::FloodScans, BUDGET),
    (What::TrapBetween, FORBIDDEN),
    (What::TrapLast, FORBIDDEN),
    (What::FloodPuts, FORBIDDEN),
    (What::FloodRemoves, FORBIDDEN),
    (What::WriteTooMuch, FORBIDDEN),
    (What::Write, FORBIDDEN),
    (What::Abort, (Code::Internal, "panicked: misbehaving.Misbehaving/Ask at index")),
    (What::AskStatus, FINE),
];

fn check(what: What, expected: Expected, answer: Result<Done, Status>) -> Result<()> {
    let (code, message) = match &answer {
        Ok(_) => (Code::Ok, ""),
        Err(status) => (status.code(), status.message()),
    };
    ensure!((code == expected.0) && message.contains(expected.1), "{what:?} came to {answer:?}, not {expected:?}");
    ensure!(message.len() <= 1024, "{what:?} has a message of {} bytes", message.len());
    Ok(())
}

/// Increments the counter once. `counted` is its expected value, because no other client counts.
async fn count(bystander: &mut MisbehavingClient<Client>, counted: &mut u64) -> Result<()> {
    match bystander.r#do(deed(What::Count)).await {
        Ok(done) => {
            *counted += 1;
            ensure!(done.get_ref().value == *counted, "counted to {} instead of {counted}", done.get_ref().value);
            Ok(())
        }
        // The command was refused before it was in the log, because apply is still running the
        // other command. That is no harm.
        Err(status) if status.code() == Code::ResourceExhausted && status.message().contains("apply") => Ok(()),
        Err(status) => bail!("another client was harmed: {status}"),
    }
}

/// Checks that all nodes run and have the same state.
async fn all_is_well(cluster: &mut Cluster) -> Result<()> {
    for node in &mut cluster.nodes {
        ensure!(!node.has_ended()?, "{} has ended", node.name);
    }
    cluster.everyone_has_one_hash().await
}

#[tokio::test]
async fn whatever_a_command_does_the_nodes_agree_and_others_are_not_harmed() -> Result<()> {
    let mut cluster = misbehaving(3, &[]).await?;
    let mut counted = 0;
    for (n, (what, expected)) in COMMANDS.into_iter().enumerate() {
        let mut culprit = client(&cluster, n % 3).await?;
        let mut bystander = client(&cluster, (n + 1) % 3).await?;
        let misdeed = tokio::spawn(async move { culprit.r#do(deed(what)).await.map(tonic::Response::into_inner) });
        while !misdeed.is_finished() {
            count(&mut bystander, &mut counted).await?;
        }
        check(what, expected, misdeed.await?).with_context(|| format!("command {what:?}"))?;
        count(&mut bystander, &mut counted).await?;
        all_is_well(&mut cluster).await.with_context(|| format!("after the command {what:?}"))?;
    }
    Ok(())
}

/// Returns the number of commands run so far. The hash cannot be used, because the leader appends
/// an entry to a log that has become idle.
async fn commands(cluster: &Cluster) -> Result<u64> {
    cluster.nodes[0].status().await?["fsm"]["commands_applied"].as_u64().context("no commands_applied")
}

/// Checks that all nodes have the same rows, byte for byte.
async fn rows_are_alike(cluster: &Cluster) -> Result<()> {
    eventually("one backup of all nodes", || async {
        let backups = cluster.nodes.iter().map(|node| lockstep(&["backup", "--local", &node.grpc_addr()]));
        let backups = backups.collect::<Result<Vec<_>>>()?;
        ensure!(backups.iter().all(|backup| backup.status.success() && backup.stdout.len() > 100), "no backup");
        ensure!(backups.iter().all(|backup| backup.stdout == backups[0].stdout), "the nodes differ");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn whatever_a_query_does_nothing_changes() -> Result<()> {
    let mut cluster = misbehaving(3, &[]).await?;
    let mut counted = 0;
    count(&mut client(&cluster, 0).await?, &mut counted).await?;
    cluster.everyone_has_one_hash().await?;
    let before = commands(&cluster).await?;
    let special: BTreeSet<i32> = QUERIES.iter().map(|(what, _)| *what as i32).collect();
    let common = COMMANDS.into_iter().filter(|(what, _)| !special.contains(&(*what as i32)));
    for (n, (what, expected)) in common.chain(QUERIES).enumerate() {
        let answer = client(&cluster, n % 3).await?.ask(deed(what)).await.map(tonic::Response::into_inner);
        // A query has ten times the fuel of a command and also a deadline. Either may end it first.
        let late = answer.as_ref().is_err_and(|status| status.code() == Code::DeadlineExceeded) && expected == FUEL;
        if !late {
            check(what, expected, answer).with_context(|| format!("query {what:?}"))?;
        }
    }
    all_is_well(&mut cluster).await?;
    ensure!(commands(&cluster).await? == before, "a query became a command");
    rows_are_alike(&cluster).await.context("a query changed the state")?;
    count(&mut client(&cluster, 1).await?, &mut counted).await
}

#[tokio::test]
async fn whatever_a_watch_does_its_stream_alone_ends() -> Result<()> {
    let oversized = (Code::ResourceExhausted, "limit");
    let cases = [
        (What::Loop, FUEL),
        (What::Recurse, STACK),
        (What::Allocate, MEMORY),
        (What::TrapFirst, TRAPPED),
        (What::Write, FORBIDDEN),
        (What::AskStatus, FORBIDDEN),
        (What::FloodGets, BUDGET),
        (What::StepOfNoCase, MALFORMED),
        (What::StepGiganticMemo, MALFORMED),
        (What::StepGiganticReplies, MALFORMED),
        (What::ReplyTooLarge, oversized),
    ];
    let mut cluster = misbehaving(3, &[]).await?;
    let mut good = client(&cluster, 0).await?.watch(deed(What::Count)).await?.into_inner();
    ensure!(good.message().await?.context("the stream goes on")?.value == 0);
    for (n, (what, expected)) in cases.into_iter().enumerate() {
        let mut client = client(&cluster, n % 3).await?;
        let answer = match client.watch(deed(what)).await {
            Ok(stream) => stream.into_inner().message().await.map(|message| message.unwrap_or_default()),
            Err(status) => Err(status),
        };
        let late = answer.as_ref().is_err_and(|status| status.code() == Code::DeadlineExceeded) && expected == FUEL;
        if !late {
            check(what, expected, answer).with_context(|| format!("watch {what:?}"))?;
        }
    }
    let mut counted = 0;
    count(&mut client(&cluster, 1).await?, &mut counted).await?;
    ensure!(good.message().await?.context("the stream goes on")?.value == 1, "the good stream tells the change");
    all_is_well(&mut cluster).await
}

#[tokio::test]
async fn who_asked_is_told_what_and_where_and_the_log_says_it_once() -> Result<()> {
    let cluster = misbehaving(1, &[]).await?;
    let refused = client(&cluster, 0).await?.r#do(deed(What::TrapLast)).await.unwrap_err();
    let said = refused.message();
    ensure!(said.contains("misbehaving.Misbehaving/Do at index "), "method and place: {said}");
    ensure!(said.contains("position 0: wasm trap: wasm `unreachable` instruction executed"), "{said}");
    ensure!(said.contains("\n  trap_last\n"), "the function by name: {said}");
    cluster.nodes[0].has_logged(&["  trap_last"]).await?;
    let log = cluster.nodes[0].log();
    ensure!(log.matches("  trap_last").count() == 1, "{log}");

    let fsm = Some(chain_wasm());
    let cluster = formed_of(1, Options { fsm, ..Options::member() }).await?;
    let mut chain = ChainClient::new(cluster.nodes[0].connect().await?);
    let panicked = chain.panic(PanicRequest { word: "told to".into() }).await.unwrap_err();
    let said = panicked.message();
    ensure!(said.contains("chain.Chain/Panic at index ") && said.contains("src/lib.rs:"), "message and place: {said}");
    ensure!(said.contains("the word is \"told to\""), "{said}");
    Ok(())
}
