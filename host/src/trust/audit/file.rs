//! The file of an audit: one JSON object a line. A thread of its own writes it. A line for which
//! the queue has no room, or that cannot be written, is dropped and counted; no call ever waits.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde::Serialize;

use crate::limit::Limit;
use crate::logs::Sparse;

/// Most lines that wait for the thread. A line has up to some kilobytes.
const QUEUED_MAX: usize = 1_024;
/// Only the node's user may read who does what.
const MODE: u32 = 0o600;

#[derive(Debug)]
pub(super) struct AuditFile {
    queue: SyncSender<Message>,
    /// Lines in the queue.
    queued: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl AuditFile {
    /// Opens the file, behind what is in it, and starts the thread.
    pub(super) fn open(path: &Path) -> io::Result<AuditFile> {
        let (queue, lines) = sync_channel(QUEUED_MAX);
        let (queued, dropped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let writer = Writer {
            file: open(path)?,
            path: path.to_owned(),
            queued: queued.clone(),
            dropped: dropped.clone(),
            failing: Sparse::default(),
        };
        std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&lines))?;
        Ok(AuditFile { queue, queued, dropped })
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Returns how near the limit of waiting lines is.
    pub(super) fn limit(&self) -> Limit {
        Limit::new("audit_lines_waiting", self.queued.load(Relaxed), QUEUED_MAX)
    }

    pub(super) fn write(&self, row: &impl Serialize) {
        let line = serde_json::to_vec(row).ok().map(|mut line| {
            line.push(b'\n');
            line
        });
        // Counted before the thread can have taken it.
        self.queued.fetch_add(1, Relaxed);
        let sent = line.is_some_and(|line| self.queue.try_send(Message::Line(line)).is_ok());
        if !sent {
            self.queued.fetch_sub(1, Relaxed);
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn flush(&self, at_most: Duration) {
        let (done, flushed) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            // A disk that hangs must not hold up whoever waits.
            let _in_time = flushed.recv_timeout(at_most);
        }
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    queued: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    failing: Sparse,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Message>) {
        while let Ok(message) = lines.recv() {
            match message {
                Message::Line(line) => {
                    self.queued.fetch_sub(1, Relaxed);
                    if let Err(error) = self.write(&line) {
                        self.lost(&error);
                    }
                }
                // Whoever waited may have given up.
                Message::Flush(done) => drop(done.try_send(())),
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if !self.is_in_place() {
            self.file = open(&self.path)?;
        }
        self.file.write_all(line)
    }

    /// Whether the path still means this file. Whoever rotates files moves it away.
    fn is_in_place(&self) -> bool {
        let (Ok(there), Ok(here)) = (std::fs::metadata(&self.path), self.file.metadata()) else { return false };
        (there.dev(), there.ino()) == (here.dev(), here.ino())
    }

    fn lost(&self, error: &io::Error) {
        self.dropped.fetch_add(1, Relaxed);
        if let Some(left_out) = self.failing.due() {
            tracing::error!(path = %self.path.display(), %error, left_out, "an audit line cannot be written to its file");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}
