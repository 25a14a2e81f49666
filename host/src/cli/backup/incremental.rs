//! `lockstep backup --incremental`: writes the log entries behind an earlier backup to stdout, as a
//! segment file. `store/segments` has the format. The earlier one is a backup, or a segment file.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read};
use std::path::Path;

use anyhow::Context;
use lockstep_proto::v1::LogEntriesRequest;
use tokio::sync::{mpsc, oneshot};

use crate::cli::client_runtime;
use crate::cli::credentials::Credentials;
use crate::cli::log_entries::{self, Incoming};
use crate::cli::progress::{Line, mebibytes};
use crate::cli::report::{Failure, print_notice};
use crate::machine::backup::BackupOrigin;
use crate::store::{SEGMENT_MAGIC, SegmentHeader, SegmentOut, SegmentReader, SegmentWritten, Segments};
use crate::types::{CommittedLeaderId, Entry, GROUP, LogId, hex};

/// Most messages, each of about a MiB, that wait to be written.
const MESSAGES_WAITING_MAX: usize = 2;
/// The name of stdout in errors.
const STDOUT: &str = "stdout";

/// What to write.
pub(super) struct Wanted<'a> {
    /// A backup, a segment file, or a directory of segment files.
    pub(super) base: &'a Path,
    pub(super) addr: &'a str,
    pub(super) local: bool,
    pub(super) credentials: &'a Credentials,
}

/// Where an earlier backup ends.
struct Base {
    cluster: [u8; 16],
    last: LogId,
}

/// Writes one segment.
pub(super) fn run(wanted: &Wanted<'_>, out: &File) -> anyhow::Result<()> {
    let base = read_base(wanted.base).with_context(|| format!("{} cannot be continued", wanted.base.display()))?;
    let from = base.last.index + 1;
    let written = client_runtime()?.block_on(fetch(wanted, &base, out))?;
    verify(out, &written)?;
    let (count, bytes) = (written.end.count, written.bytes);
    match count {
        0 => print_notice(format_args!(
            "nothing has happened behind index {}: {bytes} bytes, without entries",
            base.last.index
        )),
        _ => {
            let last = written.end.last.index;
            print_notice(format_args!("backed up {count} log entries, {from} to {last}: {bytes} bytes"));
        }
    }
    Ok(())
}

/// Reads all of an earlier backup, and so knows that it is sound. Of a directory that is its newest
/// segment, which is what is continued.
fn read_base(path: &Path) -> anyhow::Result<Base> {
    if path.is_dir() {
        let newest = Segments::open(path)?.newest().context("there is no segment with entries in it")?;
        return read_segment(&newest.path).with_context(|| format!("its newest segment is {}", newest.path.display()));
    }
    let open = || File::open(path).map(BufReader::new).context("it cannot be opened");
    let mut magic = Vec::new();
    open()?.take(SEGMENT_MAGIC.len() as u64).read_to_end(&mut magic).context("it cannot be read")?;
    if magic != SEGMENT_MAGIC {
        let BackupOrigin { cluster, last } = BackupOrigin::read(open()?)?;
        return Ok(Base { cluster, last });
    }
    read_segment(path)
}

fn read_segment(path: &Path) -> anyhow::Result<Base> {
    let file = File::open(path).map(BufReader::new).context("it cannot be opened")?;
    let reader = SegmentReader::new(file, path)?;
    let SegmentHeader { cluster, group, .. } = *reader.header();
    if group != GROUP {
        return Err(Failure::new(format!("it is of group {group}, which no backup has")).into());
    }
    Ok(Base { cluster, last: reader.verify()?.last })
}

async fn fetch(wanted: &Wanted<'_>, base: &Base, out: &File) -> anyhow::Result<SegmentWritten> {
    let Wanted { addr, local, credentials, .. } = *wanted;
    let LogId { leader_id: CommittedLeaderId { term, node_id }, index } = base.last;
    let from = index + 1;
    let (term_before, leader_before) = (Some(term), Some(node_id));
    let request = LogEntriesRequest { from, to: None, local, term_before, leader_before };
    let mut incoming: Incoming = log_entries::ask(addr, credentials, request).await?;
    if incoming.cluster != base.cluster {
        let (theirs, ours) = (hex(&incoming.cluster), hex(&base.cluster));
        let failure =
            Failure::new(format!("{} is of cluster {ours}, and {addr} is in cluster {theirs}", wanted.base.display()));
        return Err(failure.hint("a restored cluster is a new one: begin with a whole backup of it").into());
    }
    let (queue, written) = start_writing(out, incoming.header(from), base.last)?;
    let (mut line, mut entries) = (Line::new(), 0);
    // If the writer has failed, the reason is reported below.
    while let Some(some) = incoming.next().await? {
        entries += some.len();
        if queue.send(Some(some)).await.is_err() {
            break;
        }
        line.draw(&format!("backing up the log of {addr}: {entries} entries"));
    }
    drop(queue.send(None).await);
    let written = written.await.context("the thread that writes the segment has ended without a word")??;
    line.draw(&format!("backing up the log of {addr}: {}", mebibytes(written.bytes)));
    Ok(written)
}

/// Entries, and `None` behind the last one. A queue that ends without it was cut.
type Queue = mpsc::Sender<Option<Vec<Entry>>>;
type Outcome = oneshot::Receiver<anyhow::Result<SegmentWritten>>;

/// Starts a thread that writes the entries that it gets, and the end of the segment once it is told
/// that all have come. Stdout may be a pipe that is not read for a while.
fn start_writing(out: &File, header: SegmentHeader, before: LogId) -> anyhow::Result<(Queue, Outcome)> {
    let out = out.try_clone().context("cannot use stdout")?;
    let (queue, mut entries): (Queue, _) = mpsc::channel(MESSAGES_WAITING_MAX);
    let (done, written) = oneshot::channel();
    let mut write = move || -> anyhow::Result<SegmentWritten> {
        let cannot = "cannot write the segment; what was written is no segment";
        let mut segment =
            SegmentOut::new(BufWriter::new(&out), Path::new(STDOUT), header).context(cannot)?.behind(before);
        let cut = "the node stopped sending; what was written is no segment";
        while let Some(some) = entries.blocking_recv().context(cut)? {
            some.iter().try_for_each(|entry| segment.push(entry)).context(cannot)?;
        }
        let (written, buffer) = segment.finish().context(cannot)?;
        drop(buffer);
        Ok(written)
    };
    let work = move || drop(done.send(write()));
    std::thread::Builder::new().name("backup".into()).spawn(work).context("no thread to write the segment")?;
    Ok((queue, written))
}

/// Reads a regular file back from the disk and compares it with what was written. A pipe is not
/// read back: each entry was checked, and its reader checks the end.
fn verify(out: &File, written: &SegmentWritten) -> anyhow::Result<()> {
    if !out.metadata().context("cannot look at stdout")?.is_file() {
        return Ok(());
    }
    out.sync_all().context("the segment is not safe on the disk")?;
    let again = File::open("/proc/self/fd/1").context("cannot read the segment back")?;
    let found = SegmentReader::new(BufReader::new(again), Path::new(STDOUT)).and_then(SegmentReader::verify);
    let found =
        found.context("the file on stdout is not the segment that was written; does it hold something before it?")?;
    if found != written.end {
        return Err(Failure::new("the file on stdout does not hold what was written to it").into());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::SegmentWriter;
    use crate::types::blank_entry;

    const HEADER: SegmentHeader = SegmentHeader { cluster: [7; 16], group: GROUP, incarnation: 0, first: 3 };

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId { term: 2, node_id: 9 }, index)
    }

    fn entries() -> Vec<Entry> {
        (3..8).map(|index| blank_entry(log_id(index))).collect()
    }

    async fn written(is_whole: bool) -> (anyhow::Result<SegmentWritten>, Result<u64, String>) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("1.segment");
        let (queue, written) = start_writing(&File::create(&path).unwrap(), HEADER, log_id(2)).unwrap();
        queue.send(Some(entries())).await.unwrap();
        if is_whole {
            queue.send(None).await.unwrap();
        }
        drop(queue);
        let written = written.await.unwrap();
        let read = SegmentReader::new(File::open(&path).unwrap(), &path).and_then(SegmentReader::verify);
        (written, read.map(|end| end.count).map_err(|error| error.to_string()))
    }

    /// Regression test: when the node ended in the middle, the entries before were a whole segment.
    #[tokio::test]
    async fn a_stream_that_is_cut_leaves_no_segment() {
        let (whole, read) = written(true).await;
        assert_eq!((whole.unwrap().end.count, read), (5, Ok(5)));
        let (cut, read) = written(false).await;
        assert!(cut.unwrap_err().to_string().contains("the node stopped sending"));
        assert!(read.is_err(), "{read:?}");
    }

    fn write(directory: &Path, group: u32) -> std::path::PathBuf {
        let mut writer = SegmentWriter::create(directory, SegmentHeader { group, ..HEADER }).unwrap();
        entries().iter().for_each(|entry| writer.push(entry).unwrap());
        writer.finish().unwrap().0
    }

    fn refused(base: &Path) -> String {
        format!("{:#}", read_base(base).map(|_| ()).unwrap_err())
    }

    #[test]
    fn a_directory_is_continued_only_if_its_newest_segment_is_whole_and_of_the_group() {
        let place = tempfile::tempdir().unwrap();
        assert!(refused(place.path()).contains("no segment with entries"));
        let path = write(place.path(), GROUP);
        assert_eq!(read_base(place.path()).unwrap().last, log_id(7));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let text = refused(place.path());
        assert!(text.contains("damaged") && text.contains(&path.display().to_string()), "{text}");
        let other = tempfile::tempdir().unwrap();
        write(other.path(), GROUP + 1);
        assert!(refused(other.path()).contains("of group 1"));
    }
}
