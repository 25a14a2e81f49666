//! The end of a cluster: its nodes stop, and `lockstep replay --verify` runs their log again. A
//! hash that is not the recorded one is a violation. This file strikes nothing, and reads no
//! history of clients.
//!
//! - The whole log is run once, from entry 0 on: the archives of all nodes together, and the log of
//!   one. A node that was sent a snapshot has a gap in its archive, which others fill.
//! - What a node kept is run for each, from its earliest checkpoint on: its own entries, against
//!   the hashes of its own states. A node that was just sent a snapshot may have kept nothing else.
//! - Only what is known to be committed is run, so the unknown end of a log does not count.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::Cluster;

/// What `lockstep replay` says when a directory has nothing that could be run or compared.
const NOTHING: [&str; 5] = [
    "there is no entry to run",
    "nothing was compared",
    "is not behind it",
    "give a backup that ends within them",
    "and this replay began behind that",
];

/// What was run and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Entries of whole logs.
    pub entries: u64,
    /// Their commands.
    pub commands: u64,
    /// Entries that nodes kept, run once more for each.
    pub kept: u64,
    /// Hashes that were compared in all of it.
    pub hashes: u64,
}

impl Verified {
    /// Returns the sum of both.
    pub fn plus(self, other: Verified) -> Verified {
        Verified {
            entries: self.entries + other.entries,
            commands: self.commands + other.commands,
            kept: self.kept + other.kept,
            hashes: self.hashes + other.hashes,
        }
    }
}

impl std::fmt::Display for Verified {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Verified { entries, commands, kept, hashes } = self;
        write!(
            out,
            "replay --verify: {entries} entries verified, {commands} commands, and {kept} entries that nodes kept: {hashes} hashes are the same"
        )
    }
}

/// Where a cluster's nodes have their log archives. The directory of a node is in it, by its name.
pub(crate) fn archive(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("archive")
}

/// Returns the flag with which a node keeps its log in [`archive`], from its first start on.
pub(crate) fn flag(cluster: &Cluster) -> Result<String> {
    let directory = archive(cluster);
    std::fs::create_dir_all(&directory)?;
    Ok(format!("--log_archive={}", directory.display()))
}

/// Stops the nodes, and runs their log again: the first `entries_max` entries of all, and of each
/// node what it kept. `guests` are the files of the components that the log may name.
///
/// # Errors
/// A difference, or a log that cannot be run. The words are those of the command.
pub(crate) async fn verify(cluster: &mut Cluster, guests: &[PathBuf], entries_max: u64) -> Result<Verified> {
    let mut last = u64::MAX;
    for node in &cluster.nodes {
        let applied = node.status().await?["fsm"]["state_hash_index"].as_u64().context("no index of the state hash")?;
        last = last.min(applied);
    }
    for node in &mut cluster.nodes {
        let status = node.stop().await?;
        ensure!(status.success(), "{} ended with {status} on SIGTERM:\n{}", node.name, node.last_words());
    }
    let found = whole_log(cluster, guests, last.min(entries_max)).await?;
    let mut verified = Verified { entries: found.entries, commands: found.commands, kept: 0, hashes: found.hashes };
    for n in 0..cluster.nodes.len() {
        // Of a long log only what is behind the newest checkpoint.
        let range = (last > entries_max).then(|| format!("{last}.."));
        let own = Replay { cluster, n, guests, log: &[], range };
        if let Some(found) = own.run().await? {
            verified.kept += found.entries;
            verified.hashes += found.hashes;
        }
    }
    Ok(verified)
}

/// Runs the whole log up to an entry, of the archives of all nodes and the log of one. What a node
/// skipped by a snapshot may be in the log of another and not in its archive yet, so the nodes are
/// tried in turn, until the run begins at entry 0. Returns what the longest run found.
async fn whole_log(cluster: &Cluster, guests: &[PathBuf], last: u64) -> Result<Found> {
    let archives = directories(&archive(cluster))?;
    let mut longest: Option<Found> = None;
    for n in 0..cluster.nodes.len() {
        let replay = Replay { cluster, n, guests, log: &archives, range: Some(format!("..{last}")) };
        let Some(found) = replay.run().await? else { continue };
        if found.first_index == 0 {
            return Ok(found);
        }
        if longest.as_ref().is_none_or(|longest| longest.entries < found.entries) {
            longest = Some(found);
        }
    }
    let longest = longest.context("no log of any node can be run again")?;
    println!("NOTICE: the archives have a gap, and the log is run again from entry {} on", longest.first_index);
    Ok(longest)
}

/// Returns the directories in one, in order.
fn directories(above: &Path) -> Result<Vec<PathBuf>> {
    let listed: std::io::Result<Vec<PathBuf>> = above.read_dir()?.map(|entry| Ok(entry?.path())).collect();
    let mut directories: Vec<PathBuf> = listed?.into_iter().filter(|path| path.is_dir()).collect();
    directories.sort();
    Ok(directories)
}

/// One run of the command.
struct Replay<'a> {
    cluster: &'a Cluster,
    /// The node whose directory is read.
    n: usize,
    guests: &'a [PathBuf],
    log: &'a [PathBuf],
    range: Option<String>,
}

/// What one run found.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    first_index: u64,
    entries: u64,
    commands: u64,
    hashes: u64,
}

impl Replay<'_> {
    fn arguments(&self) -> Vec<String> {
        let node = &self.cluster.nodes[self.n];
        let mut words = vec!["replay".to_owned(), "--verify".to_owned(), "--json".to_owned()];
        let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
        flag("--data_dir", node.data_dir.join(&node.name).display().to_string());
        self.log.iter().for_each(|path| flag("--log", path.display().to_string()));
        self.guests.iter().for_each(|path| flag("--fsm", path.display().to_string()));
        if let Some(range) = &self.range {
            flag("--range", range.clone());
        }
        words
    }

    fn words(&self) -> String {
        format!("lockstep {}", self.arguments().join(" "))
    }

    /// Runs it. Returns `None` if there was nothing to run or to compare.
    async fn run(&self) -> Result<Option<Found>> {
        let node = &self.cluster.nodes[self.n];
        let (program, arguments) = (node.options.program.clone(), self.arguments());
        let run = move || Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output = tokio::task::spawn_blocking(run).await??;
        read(&output)
            .with_context(|| format!("the log of {} gives other hashes or cannot be run: {}", node.name, self.words()))
    }
}

/// Reads what the command said.
fn read(output: &Output) -> Result<Option<Found>> {
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() && found["difference"].is_null() {
        let number = |name: &str| found[name].as_u64().with_context(|| format!("no {name} in {said}"));
        return Ok(Some(Found {
            first_index: number("first_index")?,
            entries: number("entries")?,
            commands: number("commands")?,
            hashes: number("hashes")?,
        }));
    }
    if found["difference"].is_null() && NOTHING.iter().any(|words| said.contains(words)) {
        return Ok(None);
    }
    bail!("{}: {said}", output.status)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn said(code: i32, stdout: &str, stderr: &str) -> Output {
        Output { status: ExitStatus::from_raw(code << 8), stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn a_difference_is_a_violation_and_a_log_without_entries_is_none() -> Result<()> {
        let same = r#"{"first_index":3,"entries":7,"commands":12,"hashes":6,"difference":null}"#;
        let found = Found { first_index: 3, entries: 7, commands: 12, hashes: 6 };
        assert_eq!(read(&said(0, same, ""))?, Some(found));
        assert_eq!(
            read(&said(2, "", "error: there is no entry to run: a replay to entry 9 begins at entry 10"))?,
            None
        );
        assert_eq!(read(&said(1, same, "error: nothing was compared: no hash is recorded of these entries"))?, None);
        let differs = r#"{"first_index":3,"entries":7,"commands":12,"hashes":6,"difference":{"index":9}}"#;
        let found = read(&said(1, differs, "error: the replay is not what history recorded; nothing was compared"));
        assert!(found.is_err_and(|error| error.to_string().contains("not what history recorded")));
        assert!(read(&said(1, "", "error: the disk is damaged")).is_err());
        assert!(read(&said(0, "no JSON", "")).is_err());
        Ok(())
    }
}
