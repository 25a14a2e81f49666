//! `lockstep backup`: writes a node's state as a file to stdout. The node sends the frames;
//! `machine/backup.rs` defines the file format. `backup/incremental.rs` writes the log behind an
//! earlier one instead.

mod incremental;

use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::Context;
use bytes::Bytes;
use lockstep_proto::v1::admin_client::AdminClient;
use lockstep_proto::v1::{BackupRequest, BackupResponse};
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use super::client::{self, CONNECT_PATIENCE, Client};
use super::credentials::Credentials;
use super::door;
use super::progress::{Line, mebibytes};
use super::report::{Failure, print_notice};
use crate::machine::backup::{BackupError, BackupReader, BackupWriter, Summary};

/// Most frames, each of about a MiB, that wait to be written.
const FRAMES_WAITING_MAX: usize = 2;
/// Most bytes of one message: a frame and its envelope.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

const AFTER_HELP: &str = "\
The file holds the whole state at one index, and the component that runs over it; `lockstep restore` makes a new cluster of it.
Any node will do. The cluster goes on meanwhile. What was written to a file is read back and checked before the command exits
with 0; a file that was cut short is known by its missing end.

With --incremental, what is written is the log behind an earlier backup: a segment file, which is small if little has happened. Give it
the backup, or the segment file written last, so that the files follow each other. `lockstep restore --from <backup> --log <segment>...`
restores to its end, or to any index or time in it. The node must still have the log since then. docs/archive.md tells how a node keeps
all of it with --log_archive.

Examples:
  lockstep backup localhost:40051 > today.backup
  lockstep backup localhost:40051 | ssh elsewhere 'cat > today.backup'
  lockstep backup --local localhost:40052 > last-words.backup
  lockstep backup --incremental today.backup localhost:40051 > 1.segment
  lockstep backup --incremental 1.segment localhost:40051 > 2.segment";

/// Write a consistent snapshot of a node's state to stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BackupArgs {
    /// Take what this node has applied, however old, without a leader [default: everything
    /// acknowledged before the call]
    #[arg(long = "local")]
    local: bool,

    /// Write the log entries behind this backup, or behind this segment file, instead of the state
    #[arg(long = "incremental", value_name = "BASE")]
    incremental: Option<PathBuf>,

    #[command(flatten)]
    credentials: Credentials,

    /// The grpc_addr of a node
    #[arg(value_name = "HOST:PORT")]
    addr: String,
}

/// Writes one backup.
pub(crate) fn run(args: &BackupArgs) -> anyhow::Result<()> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        let failure = Failure::usage("a backup is binary, and stdout is a terminal");
        let (what, file) = match &args.incremental {
            Some(base) => (format!("--incremental {} ", base.display()), "next.segment"),
            None => (String::new(), "today.backup"),
        };
        return Err(failure.hint(format!("lockstep backup {what}{} > {file}", args.addr)).into());
    }
    // Uses its own handle: data buffered in the process's stdout would not be part of the data that
    // is checked.
    let out = File::from(stdout.as_fd().try_clone_to_owned().context("cannot use stdout")?);
    if let Some(base) = &args.incremental {
        let BackupArgs { addr, local, credentials, .. } = args;
        return incremental::run(&incremental::Wanted { base, addr, local: *local, credentials }, &out);
    }
    let written = super::client_runtime()?.block_on(fetch(&args.addr, args.local, &args.credentials, &out))?;
    verify(&out, &written)?;
    let Summary { index, rows, bytes } = written;
    print_notice(format_args!("backed up {rows} rows as of index {index}: {bytes} bytes"));
    Ok(())
}

/// Writes a backup of the node's state to `out`.
pub(super) async fn fetch(addr: &str, local: bool, credentials: &Credentials, out: &File) -> anyhow::Result<Summary> {
    let server = client::connect(addr, credentials, CONNECT_PATIENCE).await?;
    let failed = |status| Failure::from_status(&status);
    let mut frames = ask(&server, local).await?;
    let (queue, written) = start_writing(out)?;
    let (mut line, mut bytes) = (Line::new(), 0);
    while let Some(frame) = frames.message().await.map_err(failed)? {
        bytes += frame.frame.len() as u64;
        // If the writer has failed, the reason is reported below.
        if queue.send(frame.frame).await.is_err() {
            break;
        }
        line.draw(&format!("backing up {addr}: {}", mebibytes(bytes)));
    }
    drop(queue);
    written.await.context("the thread that writes the backup has ended without a word")?
}

/// Has a node send the frames of a backup.
pub(super) async fn ask(server: &Client, local: bool) -> anyhow::Result<Streaming<BackupResponse>> {
    let mut client = AdminClient::new(server.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    match client.backup(BackupRequest { local }).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => Err(door::failure(server, status).await.into()),
    }
}

/// Starts a thread that writes the frames that it gets, until there are no more. It is a separate
/// thread, because stdout may be a pipe that is not read for a while. Meanwhile the connection has
/// to answer the node, or the node closes it without a message.
fn start_writing(out: &File) -> anyhow::Result<(mpsc::Sender<Bytes>, oneshot::Receiver<anyhow::Result<Summary>>)> {
    let out = out.try_clone().context("cannot use stdout")?;
    let (queue, mut frames) = mpsc::channel::<Bytes>(FRAMES_WAITING_MAX);
    let (done, written) = oneshot::channel();
    let mut write = move || {
        let mut writer = BackupWriter::new(BufWriter::new(&out)).context("cannot write the backup")?;
        while let Some(frame) = frames.blocking_recv() {
            writer.push(&frame).context("cannot write the backup")?;
        }
        let finished = writer.finish().map_err(|error| {
            let is_ours = matches!(error, BackupError::Io(_));
            let why = if is_ours { "cannot write the backup" } else { "the node stopped sending" };
            anyhow::Error::from(error).context(format!("{why}; what was written is no backup"))
        });
        let (summary, buffer) = finished?;
        drop(buffer);
        Ok(summary)
    };
    let work = move || drop(done.send(write()));
    std::thread::Builder::new().name("backup".into()).spawn(work).context("no thread to write the backup")?;
    Ok((queue, written))
}

/// Reads a regular file back from the disk and compares it with what was written. A pipe is not
/// read back: each frame was checked, and its reader checks the end.
fn verify(out: &File, written: &Summary) -> anyhow::Result<()> {
    if !out.metadata().context("cannot look at stdout")?.is_file() {
        return Ok(());
    }
    out.sync_all().context("the backup is not safe on the disk")?;
    let again = File::open("/proc/self/fd/1").context("cannot read the backup back")?;
    let found = BackupReader::new(BufReader::new(again)).and_then(BackupReader::verify);
    let found =
        found.context("the file on stdout is not the backup that was written; does it hold something before it?")?;
    if found != *written {
        return Err(Failure::new("the file on stdout does not hold what was written to it").into());
    }
    Ok(())
}
