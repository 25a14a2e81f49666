//! `lockstep rows import`: brings JSON lines into a running cluster, whose guest may be another one
//! than that of the lines. The leader writes the rows by log entries.
//!
//! - The whole file is read once before anything is sent: a line that cannot be read changes
//!   nothing.
//! - A collection is found by its tag. Its rows must be values of the types that it has now.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;
use lockstep_proto::v1::admin_client::AdminClient;
use lockstep_proto::v1::{ImportRowsRequest, ImportRowsResponse, ImportedRow};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::described::Described;
use super::key;
use super::line::{self, Header, Line, Row};
use super::shape::{Collection, is_index};
use crate::cli::client::Client;
use crate::cli::credentials::Credentials;
use crate::cli::report::{Failure, print_line, print_notice};
use crate::cli::{backup, client_runtime, door, leader, progress};
use crate::machine::backup::Beginning;

/// Most bytes of rows in one message. A larger row has a message of its own.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// Most messages that wait to be sent.
const MESSAGES_WAITING_MAX: usize = 4;
/// Rows that are read before the progress is shown anew.
const ROWS_TOLD: u64 = 10_000;
/// Most bytes of a line.
const LINE_BYTES_MAX: u64 = 64 << 20;

const AFTER_HELP: &str = "\
The cluster must refuse all commands meanwhile: `lockstep admin <addr> read_only on` before, and `read_only off` behind it. Queries
and watches go on, and see the rows that are there so far. If the command ends early, some rows are written: run it again with
--replace.

A row is read as the types that its collection has in the guest of the cluster, whatever they were in the guest of the lines.
The first line of the file says which tag each collection has; the guest of the cluster has its collections by tags, too. An index
comes with its entries only if the guest still has it, with the same tag and type. docs/rows.md tells more.

Exit codes: 0 done, or the dry run went well; 1 not done, or not all; 2 the command cannot work as it was typed; 3 not known
whether all rows are written.

Examples:
  lockstep rows import localhost:40061 today.jsonl --dry_run
  lockstep admin localhost:40061 read_only on && lockstep rows import localhost:40061 today.jsonl
  lockstep rows import localhost:40061,localhost:40062 today.jsonl --replace";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ImportArgs {
    /// Read the file as the cluster's guest would have its rows, and write nothing
    #[arg(long = "dry_run")]
    dry_run: bool,

    /// Remove all rows of the cluster before [default: there must be none]
    #[arg(long = "replace")]
    replace: bool,

    /// Leave an index empty that the file does not have as the guest needs it; the guest has to
    /// fill it, by `Table::reindex`, before it is used
    #[arg(long = "leave_index_empty")]
    leave_index_empty: bool,

    /// One JSON object, for programs: the rows of each collection, how many were removed and
    /// written, and the index of the last entry
    #[arg(long = "json")]
    json: bool,

    #[command(flatten)]
    credentials: Credentials,

    /// The grpc_addr of a node; or of several, separated by commas. The leader is found through
    /// them
    #[arg(value_name = "HOST:PORT,…")]
    addr: String,

    /// A file that `lockstep rows export` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Imports one file.
pub(super) fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let opened = File::open(&args.file);
    drop(opened.map_err(|error| Failure::usage(format!("cannot open {}: {error}", args.file.display())))?);
    client_runtime()?.block_on(async {
        let manager = leader::find(&args.addr, &args.credentials, None).await?;
        let server = manager.server();
        let beginning = beginning(server).await?;
        let target =
            Described::new(&beginning.component).context("the cluster's guest does not say what its state is")?;
        let plan = Plan::of(&args.file, target, args.leave_index_empty)?;
        let counted = count(&args.file, &plan)?;
        plan.skipped.iter().for_each(|words| print_notice(format_args!("{words}")));
        if args.dry_run && args.json {
            return print_line(json!({ "collections": counted, "dry_run": true }));
        }
        if args.dry_run {
            counted.iter().try_for_each(|(name, rows)| print_line(format!("{rows} rows of {name}")))?;
            return print_line("this was a dry run: nothing was written");
        }
        if beginning.has_rows && !args.replace {
            let failure = Failure::new("the state of the cluster is not empty");
            return Err(failure.hint("to remove all of its rows before: --replace").into());
        }
        let rows = counted.values().sum();
        let ImportRowsResponse { removed, written, index } = send(args, server, plan, rows).await?;
        if args.json {
            return print_line(json!({
                "collections": counted, "dry_run": false, "removed": removed, "written": written, "index": index,
            }));
        }
        let replaced = if removed == 0 { String::new() } else { format!(", in place of {removed}") };
        print_line(format!("imported {written} rows{replaced}, as of index {index}"))
    })
}

/// Learns from the node which component its cluster runs.
async fn beginning(server: &Client) -> anyhow::Result<Beginning> {
    let mut frames = backup::ask(server, false).await?;
    let mut beginning = Beginning::default();
    loop {
        let frame = frames.message().await.map_err(|status| Failure::from_status(&status))?;
        let Some(frame) = frame else { return Err(Failure::new("the node stopped sending its guest").into()) };
        if beginning.push(&frame.frame)? {
            return Ok(beginning);
        }
    }
}

/// Where the collections of a file go.
#[derive(Debug)]
struct Plan {
    target: Described,
    /// By the name in the file: the place of the collection in `target`, and whether its type is
    /// the same. `None` for one whose rows are left out.
    places: BTreeMap<String, Option<(usize, bool)>>,
    /// What is left out, in words.
    skipped: Vec<String>,
}

impl Plan {
    fn of(path: &Path, target: Described, leave_index_empty: bool) -> anyhow::Result<Plan> {
        let mut lines = Lines::open(path)?;
        let first = lines.next()?.unwrap_or_default();
        let header = Header::parse(&first).map_err(|why| Failure::usage(format!("{}: {why}", path.display())))?;
        Ok(Plan::new(&header, target, leave_index_empty)?)
    }

    fn new(header: &Header, target: Described, leave_index_empty: bool) -> Result<Plan, Failure> {
        let (mut places, mut skipped) = (BTreeMap::new(), Vec::new());
        for listed in &header.collections {
            let found = target.collections.iter().position(|collection| collection.tag == listed.tag);
            let place = found.map(|at| (at, target.collections[at].types == listed.rows));
            let is_stale = |at: usize| target.collections[at].table.is_some();
            let place = match place {
                Some((at, false)) if is_stale(at) => {
                    skipped.push(format!("entries of {} are left out: the index has another type now", listed.name));
                    None
                }
                None if is_index(&listed.name) => {
                    skipped.push(format!("entries of {} are left out: the guest has no such index", listed.name));
                    None
                }
                None => {
                    let failure = Failure::new(format!(
                        "the guest of the cluster has no collection with tag {}, as {} has in the file",
                        listed.tag, listed.name
                    ));
                    return Err(failure.hint("to leave it out, export the others with --collection"));
                }
                place => place,
            };
            if places.insert(listed.name.clone(), place).is_some() {
                return Err(Failure::usage(format!("the first line names {} twice", listed.name)));
            }
        }
        let plan = Plan { target, places, skipped };
        plan.with_indexes(leave_index_empty)
    }

    /// Makes sure that each index of a table that comes has its entries, too.
    fn with_indexes(mut self, leave_index_empty: bool) -> Result<Plan, Failure> {
        let comes = |at: usize| self.places.values().flatten().any(|place| place.0 == at);
        let table_comes = |table: &str| {
            let at = self.target.collections.iter().position(|collection| collection.name == table);
            at.is_some_and(comes)
        };
        let is_missing = |(at, collection): &(usize, &Collection)| {
            collection.table.as_deref().is_some_and(table_comes) && !comes(*at)
        };
        let indexes = self.target.collections.iter().enumerate();
        let missing: Vec<String> = indexes.filter(is_missing).map(|(_, index)| index.to_string()).collect();
        if missing.is_empty() {
            return Ok(self);
        }
        if !leave_index_empty {
            let failure = Failure::new(format!(
                "the file has no entries of {}, and only the guest can make them",
                missing.join(", ")
            ));
            return Err(failure.hint(
                "a guest with `migrate!` makes them from a backup: lockstep restore --fsm. A guest with a command that calls \
                 Table::reindex makes them later: --leave_index_empty",
            ));
        }
        self.skipped.extend(missing.iter().map(|index| format!("{index} is left empty: the guest has to fill it")));
        Ok(self)
    }

    /// Reads a line as a row of the new state. `None` for one that is left out.
    fn row(&self, text: &str) -> Result<Option<(Row, &str)>, String> {
        let line = Line::parse(text)?;
        let Some(name) = &line.collection else {
            let row = line.into_raw_row()?;
            let tag = key::split_tag(&row.key).map(|(tag, _)| tag);
            return match self.target.collections.iter().find(|collection| Some(collection.tag) == tag) {
                None => Ok(Some((row, "no collection"))),
                Some(described) => Err(format!("it is in no collection, and its key is one of {described}")),
            };
        };
        match self.places.get(name) {
            None => Err(format!("the first line has no collection {name:?}")),
            Some(None) => Ok(None),
            Some(Some((at, is_same))) => {
                let collection = &self.target.collections[*at];
                line.into_row(collection, *is_same).map(|row| Some((row, collection.name.as_str())))
            }
        }
    }
}

/// Reads the whole file, and counts the rows of each collection.
fn count(path: &Path, plan: &Plan) -> anyhow::Result<BTreeMap<String, u64>> {
    let (mut counted, mut rows, mut progress) = (BTreeMap::new(), 0u64, progress::Line::new());
    each_row(path, plan, |_, name| {
        rows += 1;
        if rows.is_multiple_of(ROWS_TOLD) {
            progress.draw(&format!("reading the file: {rows} rows so far"));
        }
        match counted.get_mut(name) {
            Some(count) => *count += 1,
            None => drop(counted.insert(name.to_owned(), 1)),
        }
        true
    })?;
    Ok(counted)
}

/// Calls `row` with each row and the name of its collection, until it returns false. The file is
/// known to be whole when this returns.
fn each_row(path: &Path, plan: &Plan, mut row: impl FnMut(Row, &str) -> bool) -> anyhow::Result<()> {
    let mut lines = Lines::open(path)?;
    lines.next()?;
    loop {
        let Some(text) = lines.next()? else {
            return Err(Failure::new(format!("{} is cut short: its last line is missing", path.display())).into());
        };
        if line::is_end(&text) {
            return Ok(());
        }
        let read = plan.row(&text);
        let read = read.map_err(|why| Failure::new(format!("{}, line {}: {why}", path.display(), lines.number)))?;
        if let Some((read, name)) = read
            && !row(read, name)
        {
            return Ok(());
        }
    }
}

/// The lines of a file that are not empty.
struct Lines {
    path: PathBuf,
    from: BufReader<File>,
    /// Number of the last line, from 1.
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> anyhow::Result<Lines> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Lines { path: path.to_owned(), from: BufReader::new(file), number: 0 })
    }

    fn next(&mut self) -> anyhow::Result<Option<String>> {
        let cannot = |path: &Path| format!("cannot read {}", path.display());
        loop {
            let mut text = String::new();
            let read = std::io::Read::take(&mut self.from, LINE_BYTES_MAX).read_line(&mut text);
            if read.with_context(|| cannot(&self.path))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if !text.ends_with('\n') && text.len() as u64 == LINE_BYTES_MAX {
                return Err(Failure::new(format!("line {} of {} is too long", self.number, self.path.display())).into());
            }
            if !text.trim().is_empty() {
                return Ok(Some(text));
            }
        }
    }
}

/// Has the leader write the rows, of which the file has `rows`.
async fn send(args: &ImportArgs, server: &Client, plan: Plan, rows: u64) -> anyhow::Result<ImportRowsResponse> {
    let (queue, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
    let (fail, failed) = oneshot::channel();
    let (path, replace) = (args.file.clone(), args.replace);
    let read = move || {
        if let Err(error) = produce(&path, &plan, (replace, rows), &queue) {
            // The queue must not end before the call is given up, or what was sent would count as
            // all.
            drop(fail.send((error, queue)));
        }
    };
    std::thread::Builder::new().name("rows".into()).spawn(read).context("no thread to read the file")?;
    let mut client = AdminClient::new(server.clone());
    tokio::select! {
        biased;
        Ok((error, _queue)) = failed => Err(error.context("the file changed; some rows may be written")),
        reply = client.import_rows(ReceiverStream::new(messages)) => match reply {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(door::failure_of_change(server, status, "all rows are written").await.into()),
        },
    }
}

/// Puts the rows of the file into the queue, some in each message. The file has `rows` of them.
fn produce(
    path: &Path,
    plan: &Plan,
    (replace, rows): (bool, u64),
    queue: &mpsc::Sender<ImportRowsRequest>,
) -> anyhow::Result<()> {
    let (mut progress, mut sent) = (progress::Line::new(), 0u64);
    let expected_component = plan.target.hash.to_vec().into();
    let mut message = ImportRowsRequest { expected_component, replace, rows: Vec::new() };
    let mut bytes = 0;
    each_row(path, plan, |row, _| {
        let more = row.key.len() + row.value.len();
        if bytes + more > MESSAGE_BYTES_MAX && !message.rows.is_empty() {
            bytes = 0;
            sent += message.rows.len() as u64;
            progress.draw(&format!("sending: {sent} of {rows} rows"));
            // If the call has ended, it says why.
            if queue.blocking_send(std::mem::take(&mut message)).is_err() {
                return false;
            }
        }
        bytes += more;
        message.rows.push(ImportedRow { key: row.key.into(), value: row.value.into() });
        true
    })?;
    progress.erase();
    drop(queue.blocking_send(message));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "import_tests.rs"]
mod tests;
