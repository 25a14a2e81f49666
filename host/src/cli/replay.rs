//! `lockstep replay`: runs a range of a log again, offline. `node/replay.rs` opens what it is made
//! of, and `machine/replay.rs` runs it. This file chooses what is run, and `replay/` says what came
//! of it.
//!
//! ```text
//! verify    hashes of the replay and of history
//! compare   the recorded guest and a candidate
//! entry     one entry, with the calls of its commands
//! script    the script that shows a difference
//! ```

mod compare;
mod entry;
mod script;
mod verify;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use super::credentials::Credentials;
use super::log_entries;
use super::logging::{self, LogFormat};
use super::progress::Line;
use super::report::{Failure, print_notice};
use crate::guest::CALLER_STACK_BYTES;
use crate::machine::backup::RowsOf;
use crate::machine::replay::Replay;
use crate::node::replay::{Opened, Plan, open};

const AFTER_HELP: &str = "\
The entries come from the directory of a stopped node (--data_dir), from segments of a log (--log), or from a running node
(--addr), behind a backup (--from) unless the node still has entry 0. A replay begins at a checkpoint of the node, at the backup, or, if the log begins at entry 0,
at the empty state. Nothing of that is changed: states are made in a temporary directory (--scratch_dir), which is removed.

Without --at and --with, hashes are compared with those that history recorded: each entry has the hash of its leader, and a
node's directory has those of its states. A replay follows changes of the guest and of limits, rollbacks, the read-only mode and
imported rows. docs/replay.md tells more.

Exit codes: 0 nothing differs, 1 something differs or the replay failed, 2 the command cannot work as it was typed.

Examples:
  lockstep replay --data_dir /srv/lockstep/nodeA
  lockstep replay --data_dir /srv/lockstep/nodeA --at 4711
  lockstep replay --data_dir /srv/lockstep/nodeA --with my_machine-2.wasm --break_on_difference --script found.jsonl
  lockstep replay --log /srv/archive --components /srv/lockstep/nodeA/components --range ..5000
  lockstep replay --from today.backup --addr localhost:40051 --with my_machine-2.wasm";

/// Run a range of a log again, offline.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ReplayArgs {
    /// The directory of a stopped node, <raft_data_dir>/<raft_id>: its log, checkpoints and
    /// components
    #[arg(long = "data_dir", value_name = "DIR", required_unless_present_any = ["log", "addr"])]
    data_dir: Option<PathBuf>,

    /// A file that `lockstep backup` wrote, to begin at
    #[arg(long = "from", value_name = "FILE")]
    from: Option<PathBuf>,

    /// A segment of a log archive, or a directory of them; may be given several times
    #[arg(long = "log", value_name = "DIR|FILE", num_args = 1..)]
    log: Vec<PathBuf>,

    /// Fetch the entries behind the backup from the node with this grpc_addr; without --from all of
    /// its log, which must begin at entry 0
    #[arg(long = "addr", value_name = "HOST:PORT", conflicts_with = "data_dir")]
    addr: Option<String>,

    /// Entries to run, both ends included; either may be left out [default: all that are known to
    /// be committed]
    #[arg(long = "range", value_name = "FROM..TO", value_parser = range)]
    range: Option<(Option<u64>, Option<u64>)>,

    /// A component that the log names; may be given several times
    #[arg(long = "fsm", value_name = "FILE")]
    fsm: Vec<PathBuf>,

    /// Where more components are: <raft_data_dir>/<raft_id>/components, or the file of one; may be
    /// given several times
    #[arg(long = "components", value_name = "DIR|FILE")]
    components: Vec<PathBuf>,

    /// Show this entry: its commands and how they ended, their calls of the store, and the rows
    /// that changed
    #[arg(long = "at", value_name = "INDEX", conflicts_with_all = ["range", "verify", "with"])]
    at: Option<u64>,

    /// Write all rows behind that entry to this file, as `lockstep rows export` does
    #[arg(long = "rows", value_name = "FILE", requires = "at")]
    rows: Option<PathBuf>,

    /// Compare hashes with those that history recorded; this is what is done without --at and
    /// --with
    #[arg(long = "verify", conflicts_with = "with")]
    verify: bool,

    /// Run the same commands by this guest, too, and compare what both answer
    #[arg(long = "with", value_name = "FILE")]
    with: Option<PathBuf>,

    /// End at the first difference, and write the smallest script that shows it
    #[arg(long = "break_on_difference", requires = "script", conflicts_with = "at")]
    break_on_difference: bool,

    /// Where that script is written
    #[arg(long = "script", value_name = "FILE", requires = "break_on_difference")]
    script: Option<PathBuf>,

    /// Where the states are made, with room for them [default: the directory for temporary files]
    #[arg(long = "scratch_dir", value_name = "DIR")]
    scratch_dir: Option<PathBuf>,

    /// Say of answers that differ only that they do, and nothing of what clients sent and got
    #[arg(long = "quiet")]
    quiet: bool,

    /// One JSON object, for programs
    #[arg(long = "json")]
    json: bool,

    #[command(flatten)]
    credentials: Credentials,
}

/// Runs one replay.
pub(crate) fn run(args: &ReplayArgs) -> anyhow::Result<()> {
    logging::init("warn", LogFormat::Text, "replay")?;
    let fetched = fetched(args)?;
    let mut log = args.log.clone();
    log.extend(fetched.iter().map(|fetched| fetched.path().to_owned()));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("replay".into()).stack_size(CALLER_STACK_BYTES);
        let running = thread.spawn_scoped(scope, || replay(args, &log)).context("cannot start a thread")?;
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn replay(args: &ReplayArgs, log: &[PathBuf]) -> anyhow::Result<()> {
    let (from, to) = args.range.unwrap_or_default();
    let opened = open(&Plan {
        data_dir: args.data_dir.as_deref(),
        backup: args.from.as_deref(),
        log,
        fsm: &args.fsm,
        components: &args.components,
        from: args.at.or(from),
        to,
        scratch: args.scratch_dir.as_deref(),
    })?;
    let last = last(&opened, args.at.or(to))?;
    let begun = Replay::begin(&opened.place, &*opened.source, opened.supply.clone(), &opened.base);
    let mut replay = begun.with_context(|| format!("a replay cannot begin at {}", opened.base.words()))?;
    if args.break_on_difference {
        replay.keep_commands();
    }
    let mut line = Line::new();
    let mut tell = |index: u64| match index < last {
        true => line.draw(&format!("entry {index} of {last}")),
        false => line.erase(),
    };
    match (args.at, &args.with) {
        (Some(index), _) => entry::show(args, &mut replay, index, &mut tell),
        (None, Some(candidate)) => compare::compare(args, &opened, &mut replay, candidate, (from, last), &mut tell),
        (None, None) => verify::verify(args, &opened, &mut replay, last, &mut tell),
    }
}

/// Returns the last entry to run. An entry that is not known to be committed is run only if it is
/// asked for.
fn last(opened: &Opened, wanted: Option<u64>) -> anyhow::Result<u64> {
    let end = *opened.range.end();
    let last = wanted.unwrap_or(opened.committed);
    if last > end {
        return Err(Failure::usage(format!("the log that was given ends at entry {end}, before entry {last}")).into());
    }
    if last < opened.base.next() {
        let base = opened.base.words();
        return Err(Failure::usage(format!("there is no entry to run: a replay to entry {last} begins at {base}"))
            .hint("give an earlier backup, or more of the log")
            .into());
    }
    if last > opened.committed {
        let committed = opened.committed;
        print_notice(format_args!("entries behind {committed} are not known to be committed here"));
    }
    Ok(last)
}

/// Fetches the entries behind the backup, or from entry 0 on, into a directory, if they come from a
/// node.
fn fetched(args: &ReplayArgs) -> anyhow::Result<Option<TempDir>> {
    let Some(addr) = &args.addr else { return Ok(None) };
    let first = args.from.as_deref().map(behind).transpose()?.unwrap_or(0);
    let place = args.scratch_dir.clone().unwrap_or_else(std::env::temp_dir);
    let made = tempfile::Builder::new().prefix("lockstep-log-").tempdir_in(&place);
    let directory = made.with_context(|| format!("cannot make a directory in {}", place.display()))?;
    let to = args.at.or(args.range.and_then(|(_, to)| to));
    let fetching = log_entries::fetch(addr, &args.credentials, first, to, directory.path());
    super::client_runtime()?.block_on(fetching)?;
    Ok(Some(directory))
}

/// Returns the index of the entry behind a backup.
fn behind(backup: &Path) -> anyhow::Result<u64> {
    let file = File::open(backup).with_context(|| format!("cannot open {}", backup.display()))?;
    let read = RowsOf::open(BufReader::new(file)).with_context(|| format!("cannot read {}", backup.display()))?;
    Ok(read.index() + 1)
}

/// Reads `FROM..TO`.
fn range(text: &str) -> Result<(Option<u64>, Option<u64>), String> {
    let (from, to) = text.split_once("..").ok_or("a range is written FROM..TO, such as 100..200 or ..200")?;
    let end = |text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("{text:?} is no index of an entry")),
    };
    let (from, to) = (end(from)?, end(to)?);
    match (from, to) {
        (Some(from), Some(to)) if from > to => Err(format!("entry {from} is behind entry {to}")),
        range => Ok(range),
    }
}

/// Returns a component for people, by its version and the beginning of its hash.
fn component(version: &str, hash: &str) -> String {
    let hash = hash.get(..12).unwrap_or(hash);
    if version.is_empty() { hash.to_owned() } else { format!("version {version} ({hash})") }
}

/// Creates a file of results.
fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        args: ReplayArgs,
    }

    fn typed(words: &[&str]) -> Result<ReplayArgs, clap::Error> {
        Typed::try_parse_from(["replay"].iter().chain(words)).map(|typed| typed.args)
    }

    #[test]
    fn a_range_may_lack_either_end() {
        assert_eq!(range("5..9").unwrap(), (Some(5), Some(9)));
        assert_eq!(range("..9").unwrap(), (None, Some(9)));
        assert_eq!(range("5..").unwrap(), (Some(5), None));
        for wrong in ["5", "9..5", "a..b", "5...9"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(typed(&["--data_dir", "d", "--at", "5", "--rows", "f"]).is_ok());
        assert!(typed(&["--from", "b", "--addr", "localhost:1", "--with", "c"]).is_ok());
        assert!(typed(&["--addr", "localhost:1", "--components", "c"]).is_ok());
        for words in [
            &[][..],
            &["--from", "b"],
            &["--addr", "localhost:1", "--data_dir", "d"],
            &["--data_dir", "d", "--at", "5", "--with", "c"],
            &["--data_dir", "d", "--rows", "f"],
            &["--data_dir", "d", "--break_on_difference"],
        ] {
            assert_eq!(typed(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }
}
