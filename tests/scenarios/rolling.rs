//! A cluster that outlives its builds: the binary is replaced node by node under load, and back as
//! long as the semantics are not raised; then they are raised. A backup of one build is restored by
//! the other.
//!
//! The old build is `$LOCKSTEP_OLD_BUILD/lockstep`, as `cargo xtask rolling` makes it. Without that
//! variable it is the program with failpoints, told to run no semantics above the newest but one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::{
    Cluster, Load, NodeProcess, Options, eventually, failpoints_binary, formed_of, lockstep, lockstep_binary,
};

use crate::printed;

/// The semantics of 0.1.0, which had no limits on replies.
const WITHOUT_REPLY_LIMITS: u64 = 3;

/// A build of the program.
#[derive(Clone)]
struct Build {
    program: PathBuf,
    env: Vec<(String, String)>,
}

impl Build {
    /// Returns the build of this checkout.
    fn new() -> Build {
        let program = if old_directory().is_some() { lockstep_binary() } else { failpoints_binary() };
        Build { program, env: Vec::new() }
    }

    /// Returns the build before it.
    async fn old() -> Result<Build> {
        match old_directory() {
            Some(directory) => Ok(Build { program: directory.join("lockstep"), env: Vec::new() }),
            None => Ok(Build::up_to(newest(&Build::new()).await? - 1)),
        }
    }

    /// Returns the program with failpoints, whatever [`Build::new`] is.
    fn with_failpoints() -> Build {
        Build { program: failpoints_binary(), env: Vec::new() }
    }

    /// Returns the program with failpoints, as one that runs no semantics above `max`.
    fn up_to(max: u64) -> Build {
        let env = vec![("LOCKSTEP_SEMANTICS_MAX".to_owned(), max.to_string())];
        Build { program: failpoints_binary(), env }
    }

    fn member(&self) -> Options {
        Options { program: self.program.clone(), env: self.env.clone(), ..Options::member() }
    }

    /// Starts a node that is down with this build, and does not wait for it.
    fn take(&self, node: &mut NodeProcess) -> Result<()> {
        (node.options.program, node.options.env) = (self.program.clone(), self.env.clone());
        node.spawn()
    }

    /// Runs a short command.
    fn run(&self, words: &[&str], stdout: Stdio) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(words).envs(self.env.iter().cloned()).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        Ok(command.spawn()?.wait_with_output()?)
    }
}

fn old_directory() -> Option<PathBuf> {
    std::env::var_os("LOCKSTEP_OLD_BUILD").map(PathBuf::from)
}

/// Returns the newest semantics that a build says it runs.
async fn newest(build: &Build) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let mut node = NodeProcess::new("asked", directory.path(), Options { fsm: None, ..build.member() })?;
    node.start().await?;
    node.status().await?["fsm"]["semantics_newest"].as_u64().context("it does not say")
}

/// Returns the semantics that the cluster runs by, as node `n` shows them.
async fn semantics(cluster: &Cluster, n: usize) -> Result<u64> {
    cluster.nodes[n].status().await?["fsm"]["semantics"].as_u64().context("it shows none")
}

/// Runs `lockstep admin raise` against node `n`.
async fn raise(cluster: &Cluster, n: usize, words: &[&str]) -> Result<(bool, String)> {
    let addr = cluster.nodes[n].grpc_addr();
    let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    let run = move || {
        let given = ["admin", &addr, "raise"].into_iter().chain(words.iter().map(String::as_str));
        lockstep(&given.collect::<Vec<_>>())
    };
    let output = tokio::task::spawn_blocking(run).await??;
    Ok((output.status.success(), printed::all(&output)))
}

async fn serves(cluster: &Cluster, n: usize) -> Result<()> {
    eventually("it serves again", || async {
        let (status, body) = cluster.nodes[n].http("/readyz").await?;
        ensure!(status == 200, "{body}");
        Ok(())
    })
    .await
}

/// Stops node `n` as an operator does, and starts it with another build.
async fn replace(cluster: &mut Cluster, load: &Load, n: usize, build: &Build) -> Result<()> {
    load.touch(&[n]);
    ensure!(cluster.nodes[n].stop().await?.success(), "{} did not stop cleanly", cluster.nodes[n].name);
    build.take(&mut cluster.nodes[n])?;
    cluster.nodes[n].wait_answers().await?;
    serves(cluster, n).await?;
    load.everyone_served().await?;
    load.touch(&[]);
    Ok(())
}

#[tokio::test]
async fn a_binary_is_replaced_node_by_node_and_back_until_the_semantics_are_raised() -> Result<()> {
    let (old, new) = (Build::old().await?, Build::new());
    let mut cluster = formed_of(3, old.member()).await?;
    let load = Load::start(&cluster, 2)?;
    load.everyone_served().await?;
    for n in 0..3 {
        replace(&mut cluster, &load, n, &new).await?;
    }
    let (founded, newest) = (semantics(&cluster, 0).await?, newest(&new).await?);
    ensure!(founded <= newest, "founded with {founded}");
    ensure!(old_directory().is_some() || founded == newest - 1, "founded with {founded}");
    replace(&mut cluster, &load, 1, &old).await?;
    if founded < newest {
        // nodeB has just restarted, so another node leads unless this machine is very slow.
        let (raised, said) = raise(&cluster, 0, &[&format!("to={newest}")]).await?;
        let is_named = said.contains("nodeB: its build of Lockstep") || said.contains("the build of this node runs");
        ensure!(!raised && is_named, "{said}");
        ensure!(semantics(&cluster, 0).await? == founded, "a refused raise changed something");
    }
    for n in [0, 2] {
        replace(&mut cluster, &load, n, &old).await?;
    }
    for n in 0..3 {
        replace(&mut cluster, &load, n, &new).await?;
    }
    let (raised, said) = raise(&cluster, 1, &[]).await?;
    ensure!(raised, "{said}");
    eventually("every node has the new semantics", || async {
        for n in 0..3 {
            let found = semantics(&cluster, n).await?;
            ensure!(found == newest, "node {n} has {found}");
        }
        Ok(())
    })
    .await?;
    let (again, said) = raise(&cluster, 1, &[]).await?;
    ensure!(again && said.contains("already"), "{said}");
    load.everyone_served().await?;
    for seen in load.take() {
        let strange = seen.failures.iter().find(|failure| !failure.touched);
        ensure!(strange.is_none(), "a client of a node that was not replaced saw {strange:?}");
    }
    ensure!(load.finish(&cluster).await? > 0);
    cluster.everyone_has_one_hash().await?;
    if founded < newest {
        an_old_build_is_unfit_from_there_on(&mut cluster, &old, &new).await?;
    }
    Ok(())
}

/// A member that comes back with an older build takes no part, and says which build to run.
async fn an_old_build_is_unfit_from_there_on(cluster: &mut Cluster, old: &Build, new: &Build) -> Result<()> {
    ensure!(cluster.nodes[2].stop().await?.success(), "{} did not stop cleanly", cluster.nodes[2].name);
    old.take(&mut cluster.nodes[2])?;
    eventually("it says that it is unfit", || async {
        let status = cluster.nodes[2].status().await?;
        let why = status["mode_reason"].as_str().unwrap_or_default();
        ensure!(status["mode"] == "unfit" && why.contains("semantics"), "{status}");
        Ok(())
    })
    .await?;
    cluster.add(0, "without", "it").await?;
    cluster.nodes[2].kill()?;
    new.take(&mut cluster.nodes[2])?;
    cluster.nodes[2].wait_answers().await?;
    serves(cluster, 2).await?;
    cluster.everyone_reads("without", "it").await?;
    cluster.everyone_has_one_hash().await
}

/// Forms a cluster of one build, and stops its nodes and starts them with another one.
async fn formed_and_replaced(old: &Build, new: &Build) -> Result<Cluster> {
    let mut cluster = formed_of(3, old.member()).await?;
    for n in 0..3 {
        ensure!(cluster.nodes[n].stop().await?.success());
        new.take(&mut cluster.nodes[n])?;
        cluster.nodes[n].wait_answers().await?;
        serves(&cluster, n).await?;
    }
    Ok(cluster)
}

/// The limits on replies came with the semantics behind [`WITHOUT_REPLY_LIMITS`].
#[tokio::test]
async fn a_raise_needs_every_member_and_gives_limits_that_are_new_their_defaults() -> Result<()> {
    let (old, new) = (Build::up_to(WITHOUT_REPLY_LIMITS), Build::with_failpoints());
    let mut cluster = formed_and_replaced(&old, &new).await?;
    let leader = cluster.leader().await?;
    ensure!(semantics(&cluster, leader).await? == WITHOUT_REPLY_LIMITS);
    cluster.add(leader, "before", "1").await?;
    let down = cluster.follower().await?;
    cluster.nodes[down].kill()?;
    let (raised, said) = raise(&cluster, leader, &[]).await?;
    let name = cluster.nodes[down].name.clone();
    ensure!(!raised && said.contains(&format!("{name}: it is not reached")), "{said}");
    cluster.nodes[down].start().await?;
    serves(&cluster, down).await?;
    let told = ["fuel_per_reply_byte: 0 -> 1 fuel", "reply_bytes_per_entry_max: none -> 16777216 bytes"];
    let (tried, said) = raise(&cluster, leader, &["dry_run"]).await?;
    ensure!(tried && told.iter().all(|words| said.contains(words)) && said.contains("nothing was changed"), "{said}");
    ensure!(semantics(&cluster, leader).await? == WITHOUT_REPLY_LIMITS, "a dry run changed something");
    let (raised, said) = raise(&cluster, leader, &["to=4"]).await?;
    ensure!(raised && told.iter().all(|words| said.contains(words)), "{said}");
    let (lowered, said) = raise(&cluster, leader, &["to=3"]).await?;
    ensure!(!lowered && said.contains("never lowered"), "{said}");
    let shown = lockstep(&["admin", &cluster.nodes[leader].grpc_addr(), "profile"])?;
    let said = printed::all(&shown);
    ensure!(said.contains("and semantics 4"), "{said}");
    let joiner = cluster.push(Options { fsm: None, ..old.member() })?;
    cluster.nodes[joiner].start().await?;
    let refused = cluster.add_voter(joiner).await.err().context("an older build was added")?.to_string();
    ensure!(refused.contains("semantics 4") && refused.contains("newer build"), "{refused}");
    cluster.nodes[joiner].kill()?;
    cluster.add(leader, "after", "2").await?;
    cluster.nodes.pop();
    cluster.everyone_reads("before", "1").await?;
    cluster.everyone_has_one_hash().await
}

/// Checks that node `n` stands before entry `index`, and says so wherever it is asked.
async fn stands_before(cluster: &Cluster, n: usize, index: u64) -> Result<()> {
    let node = &cluster.nodes[n];
    let words = format!("cannot apply entry {index}");
    eventually("it says before which entry it stands", || async {
        let status = node.status().await?;
        let why = status["mode_reason"].as_str().unwrap_or_default();
        ensure!(status["mode"] == "unfit" && why.contains(&words) && why.contains("semantics"), "{status}");
        ensure!(status["last_applied_index"] == index - 1, "{status}");
        Ok(())
    })
    .await?;
    let (code, body) = node.http("/readyz").await?;
    ensure!(code == 503 && body.contains(&words) && body.contains("semantics"), "{code} {body}");
    let (code, body) = node.http("/livez").await?;
    ensure!(code == 200, "alive, though it serves nothing: {code} {body}");
    let read = cluster.get(n, "before", false).await.err().context("it served a read")?;
    let read = read.downcast_ref::<tonic::Status>().context("no status")?;
    ensure!(read.code() == tonic::Code::Unavailable && read.message().contains(&words), "{read}");
    let write = cluster.add(n, "never", "it").await.err().context("it took a command")?;
    ensure!(format!("{write:#}").contains(&words), "{write:#}");
    Ok(())
}

/// Returns the index of the entry that put the profile in force at node `n`.
async fn profile_index(cluster: &Cluster, n: usize) -> Result<u64> {
    cluster.nodes[n].status().await?["fsm"]["profile_index"].as_u64().context("it shows none")
}

/// Regression test: openraft's start waited for the entry of the raise, and the node served no port
/// that could have said so.
#[tokio::test]
async fn a_member_killed_just_behind_a_raise_says_at_its_ports_that_the_old_build_cannot_go_on() -> Result<()> {
    let new = Build::with_failpoints();
    let newest = newest(&new).await?;
    let old = Build::up_to(newest - 1);
    let mut cluster = formed_and_replaced(&old, &new).await?;
    let (leader, killed) = (cluster.leader().await?, cluster.follower().await?);
    cluster.add(leader, "before", "it").await?;
    // Its state on disk stays as it is before the raise. A rehearsal would need a checkpoint of it.
    cluster.nodes[killed].fail_now(&["state-before-flush=return(full)"]).await?;
    let (raised, said) = raise(&cluster, leader, &["rehearse=0"]).await?;
    ensure!(raised, "{said}");
    let index = profile_index(&cluster, leader).await?;
    eventually("the raise is applied", || async {
        let found = (semantics(&cluster, killed).await?, profile_index(&cluster, killed).await?);
        ensure!(found == (newest, index), "{found:?}");
        Ok(())
    })
    .await?;
    cluster.nodes[killed].kill()?;
    cluster.nodes[killed].fail_at(&[])?;
    old.take(&mut cluster.nodes[killed])?;
    cluster.nodes[killed].wait_answers().await?;
    stands_before(&cluster, killed, index).await?;

    // It keeps the log. Without it, the leader has no quorum now.
    let leader = cluster.leader_without(killed).await?;
    let down = 3 - killed - leader;
    cluster.nodes[down].kill()?;
    eventually("a command is taken", || cluster.add(leader, "without", "it")).await?;
    stands_before(&cluster, killed, index).await?;
    ensure!(cluster.nodes[killed].stop().await?.success(), "it did not stop cleanly");
    old.take(&mut cluster.nodes[killed])?;
    cluster.nodes[killed].wait_answers().await?;
    stands_before(&cluster, killed, index).await?;
    cluster.nodes[killed].kill()?;

    new.take(&mut cluster.nodes[killed])?;
    cluster.nodes[killed].wait_answers().await?;
    cluster.nodes[down].start().await?;
    for n in 0..3 {
        serves(&cluster, n).await?;
    }
    cluster.everyone_reads("before", "it").await?;
    cluster.everyone_reads("without", "it").await?;
    ensure!(semantics(&cluster, killed).await? == newest);
    cluster.everyone_has_one_hash().await
}

/// Makes a cluster of one node, started with `runs`, from a backup that `reads` restores.
async fn restored(file: &Path, reads: &Build, runs: &Build) -> Result<Cluster> {
    let mut cluster = Cluster::new()?;
    let output = restore(file, reads, cluster.directory())?;
    ensure!(output.status.success(), "{}", printed::all(&output));
    let first = cluster.push(Options { bootstrap: true, fsm: None, ..runs.member() })?;
    cluster.nodes[first].start().await?;
    cluster.leader().await?;
    Ok(cluster)
}

fn restore(file: &Path, reads: &Build, directory: &Path) -> Result<Output> {
    let (file, directory) = (file.display().to_string(), directory.display().to_string());
    let words = ["restore", "--from", &file, "--raft_id=nodeA", "--raft_data_dir", &directory];
    reads.run(&words, Stdio::piped())
}

fn back_up(cluster: &Cluster, by: &Build) -> Result<PathBuf> {
    let file = cluster.directory().join("today.backup");
    let output = by.run(&["backup", &cluster.nodes[0].grpc_addr()], File::create(&file)?.into())?;
    ensure!(output.status.success(), "{}", printed::stderr(&output));
    Ok(file)
}

#[tokio::test]
async fn a_backup_of_one_build_is_restored_by_the_other() -> Result<()> {
    let (old, new) = (Build::old().await?, Build::new());
    let founder = formed_of(1, old.member()).await?;
    founder.add(0, "key", "old").await?;
    let forward = restored(&back_up(&founder, &old)?, &new, &new).await?;
    assert_eq!(forward.get(0, "key", true).await?, "old");
    forward.add(0, "key", "new").await?;
    let back = restored(&back_up(&forward, &new)?, &old, &old).await?;
    assert_eq!(back.get(0, "key", true).await?, "new");
    back.add(0, "key", "old again").await?;
    let founded = semantics(&forward, 0).await?;
    let (raised, said) = raise(&forward, 0, &[]).await?;
    ensure!(raised, "{said}");
    let newest = semantics(&forward, 0).await?;
    let file = back_up(&forward, &new)?;
    let again = restored(&file, &new, &new).await?;
    assert_eq!(again.get(0, "key", true).await?, "new");
    ensure!(semantics(&again, 0).await? == newest);
    if founded < newest {
        let elsewhere = tempfile::tempdir()?;
        let refused = restore(&file, &old, elsewhere.path())?;
        let said = printed::all(&refused);
        ensure!(!refused.status.success() && said.contains(&format!("has semantics {newest}")), "{said}");
        ensure!(std::fs::read_dir(elsewhere.path())?.next().is_none(), "something is left");
    }
    Ok(())
}
