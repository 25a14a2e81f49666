//! Writes a node's log to stderr: whole lines, one after the other. A line that cannot be written
//! is dropped and counted, with no other effect. Knows no format; its caller words the message
//! about lost lines.
//!
//! - If a pipe's reader has left or the disk is full, the line is lost at once.
//! - If a reader stays but does not read, one line waits [`PATIENCE`] for it. Later lines do not
//!   wait until one gets through again. A node that waited for the reader of its log would stop
//!   with it.
//! - If a reader is slow, all lines of one second together wait [`PATIENCE`] for it.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Longest wait of the lines of one second for a slow reader of stderr. Well below a heartbeat
/// timeout, because the thread that logs waits.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time after which the lines may wait again.
const PATIENCE_AGAIN: Duration = Duration::from_secs(1);
/// Bytes that a pipe takes without blocking when it reports that it is writable: PIPE_BUF of Linux.
/// Elsewhere it is less.
const PIECE_BYTES_MAX: usize = if cfg!(target_os = "linux") { 4096 } else { 512 };

static LOST: AtomicU64 = AtomicU64::new(0);
static STDERR: Mutex<Sink> = Mutex::new(Sink::NEW);

/// A place where a sink writes.
trait Out: Write {
    /// Returns whether a piece can be written before `until`. Returns true if the system cannot
    /// wait for it.
    fn is_ready(&mut self, until: Instant) -> bool;
}

/// The outcome of earlier lines.
struct Sink {
    /// Lines that were lost and not reported yet.
    untold: u64,
    /// Whether a line was cut off.
    is_cut: bool,
    /// Whether the wait for the last line was in vain.
    is_stuck: bool,
    waits: Waits,
}

/// The time that lines have waited lately.
struct Waits {
    /// Since when `spent` is counted.
    since: Option<Instant>,
    spent: Duration,
}

impl Waits {
    /// How long a line may wait at `now`.
    fn left(&mut self, now: Instant) -> Duration {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PATIENCE_AGAIN) {
            *self = Waits { since: Some(now), spent: Duration::ZERO };
        }
        PATIENCE.saturating_sub(self.spent)
    }
}

/// Writes `lines`, which end with a line break. If lines before them were lost, `notice` makes a
/// line that says how many.
pub fn write(lines: &[u8], notice: impl FnOnce(u64) -> String) {
    if !STDERR.lock().write(&mut Process, lines, notice) {
        LOST.fetch_add(1, Relaxed);
    }
}

/// Returns the number of lines that could not be written since the process began.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

impl Sink {
    const NEW: Sink =
        Sink { untold: 0, is_cut: false, is_stuck: false, waits: Waits { since: None, spent: Duration::ZERO } };

    /// Writes the lines. Returns whether that succeeded.
    fn write(&mut self, out: &mut impl Out, lines: &[u8], notice: impl FnOnce(u64) -> String) -> bool {
        let mut bytes = Vec::with_capacity(lines.len());
        if self.is_cut {
            bytes.push(b'\n');
        }
        if self.untold > 0 {
            bytes.extend(notice(self.untold).into_bytes());
            bytes.push(b'\n');
        }
        bytes.extend(lines);
        let begun = Instant::now();
        let patience = if self.is_stuck { Duration::ZERO } else { self.waits.left(begun) };
        let written = write_all(out, &bytes, begun + patience);
        self.waits.spent += begun.elapsed();
        match written {
            Ok(()) => (self.untold, self.is_cut, self.is_stuck) = (0, false, false),
            Err(Lost { written, is_stuck }) => {
                // The notice is made again with the next line: it may not have been read, and its
                // number has grown.
                self.untold += 1;
                self.is_cut = written > 0 || self.is_cut;
                self.is_stuck = is_stuck;
                return false;
            }
        }
        true
    }
}

/// Why a line is lost.
struct Lost {
    /// Bytes of it that were written.
    written: usize,
    /// Whether the cause is that nobody reads, as opposed to an error.
    is_stuck: bool,
}

fn write_all(out: &mut impl Out, bytes: &[u8], until: Instant) -> Result<(), Lost> {
    let mut written = 0;
    while written < bytes.len() {
        let lost = |is_stuck| Lost { written, is_stuck };
        if !out.is_ready(until) {
            return Err(lost(true));
        }
        let piece = &bytes[written..bytes.len().min(written + PIECE_BYTES_MAX)];
        match out.write(piece) {
            Ok(0) => return Err(lost(false)),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process may have made the stream non-blocking. Then it was full after all.
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {}
            Err(error) => return Err(lost(error.kind() == ErrorKind::WouldBlock)),
        }
    }
    Ok(())
}

/// Stderr of this process.
struct Process;

impl Write for Process {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl Out for Process {
    fn is_ready(&mut self, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match poll(io::stderr().as_raw_fd(), libc::POLLOUT, left) {
                Ok(events) => return events != 0,
                // A signal says nothing about the reader, and a write could wait for it for ever.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The write says what is wrong.
                Err(_) => return true,
            }
        }
    }
}

/// Returns whether the reader of this pipe has left. Always false for a file or a terminal.
pub fn reader_left(pipe: BorrowedFd<'_>) -> bool {
    poll(pipe.as_raw_fd(), 0, Duration::ZERO).is_ok_and(|events| events & libc::POLLERR != 0)
}

/// Returns the events at a descriptor within `wait`; 0 for none.
fn poll(descriptor: i32, events: libc::c_short, wait: Duration) -> io::Result<libc::c_short> {
    let mut asked = libc::pollfd { fd: descriptor, events, revents: 0 };
    let milliseconds = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    #[allow(unsafe_code, reason = "the standard library has no word for it")]
    // SAFETY: the pointer is to one whole structure that outlives the call.
    let count = unsafe { libc::poll(&raw mut asked, 1, milliseconds) };
    if count >= 0 { Ok(asked.revents) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe that takes some bytes, and then fails or is stuck.
    #[derive(Default)]
    struct Pipe {
        taken: Vec<u8>,
        room: usize,
        is_broken: bool,
        waits: Vec<bool>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.is_broken && self.room == 0 {
                return Err(ErrorKind::BrokenPipe.into());
            }
            let count = bytes.len().min(self.room);
            self.taken.extend(&bytes[..count]);
            self.room -= count;
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Out for Pipe {
        fn is_ready(&mut self, until: Instant) -> bool {
            self.waits.push(until > Instant::now());
            self.is_broken || self.room > 0
        }
    }

    fn write(sink: &mut Sink, pipe: &mut Pipe, line: &str) -> bool {
        sink.write(pipe, line.as_bytes(), |count| format!("{count} lost"))
    }

    #[test]
    fn what_was_lost_is_told_with_the_next_line_that_can_be_written() {
        let mut sink = Sink::NEW;
        let mut pipe = Pipe { room: 6, is_broken: true, ..Pipe::default() };
        assert!(write(&mut sink, &mut pipe, "one\n"));
        assert!(!write(&mut sink, &mut pipe, "two\n"), "cut short");
        assert!(!write(&mut sink, &mut pipe, "three\n"));
        pipe.room = 100;
        assert!(write(&mut sink, &mut pipe, "four\n"));
        assert!(write(&mut sink, &mut pipe, "five\n"));
        assert_eq!(String::from_utf8_lossy(&pipe.taken), "one\ntw\n2 lost\nfour\nfive\n");
    }

    #[test]
    fn a_reader_that_does_not_read_is_waited_for_once() {
        let mut sink = Sink::NEW;
        let mut pipe = Pipe::default();
        for _ in 0..3 {
            assert!(!write(&mut sink, &mut pipe, "line\n"));
        }
        assert_eq!(pipe.waits, [true, false, false]);
        pipe.room = 100;
        assert!(write(&mut sink, &mut pipe, "line\n"));
        assert_eq!(String::from_utf8_lossy(&pipe.taken), "3 lost\nline\n");
        pipe.waits.clear();
        pipe.room = 0;
        sink.waits = Sink::NEW.waits;
        write(&mut sink, &mut pipe, "line\n");
        assert_eq!(pipe.waits, [true], "and waited for again once it has read");
    }

    #[test]
    fn a_slow_reader_is_waited_for_in_measure() {
        let start = Instant::now();
        let mut waits = Sink::NEW.waits;
        assert_eq!(waits.left(start), PATIENCE);
        waits.spent += PATIENCE / 4;
        assert_eq!(waits.left(start + PATIENCE / 4), PATIENCE / 4 * 3);
        waits.spent += PATIENCE;
        assert_eq!(waits.left(start + PATIENCE * 2), Duration::ZERO, "all lines of a second wait that long together");
        assert_eq!(waits.left(start + PATIENCE_AGAIN), PATIENCE);
    }

    #[test]
    fn a_pipe_whose_reader_left_is_known() {
        use std::os::fd::AsFd;
        let (reader, writer) = io::pipe().expect("a pipe can be made");
        assert!(!reader_left(writer.as_fd()));
        drop(reader);
        assert!(reader_left(writer.as_fd()));
    }
}
