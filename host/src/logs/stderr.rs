//! Writes a node's log to stderr: whole lines, one after the other. A thread of its own writes
//! them, so no thread that logs waits for whoever reads, or for a disk. Knows no format; its caller
//! words the message about lost lines.
//!
//! - At most [`QUEUED_BYTES_MAX`] wait for the thread. A line for which there is no room, or that
//!   cannot be written, is dropped and counted, with no other effect.
//! - After a drop, lines get in again once half of the room is free. So what is missing is told
//!   once, and not at every second line.
//! - The last words of a process have room of their own, and [`flush`] waits for them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Most bytes of lines that wait for the thread.
pub const QUEUED_BYTES_MAX: usize = 1 << 20;
/// Room beyond that for last words: the error that ends a process, or a panic and its backtrace.
const LAST_BYTES_MAX: usize = 256 << 10;
/// Memory that a waiting line takes besides its text.
const LINE_BYTES: usize = size_of::<Line>();

static QUEUE: Queue = Queue::new();

/// Makes a line without its line break that says how many lines before it are missing.
pub type Notice = fn(u64) -> String;

/// Hands over `lines`, which end with a line break. If lines before them were lost, `notice` makes
/// a line that says how many.
pub fn write(lines: &[u8], notice: Notice) {
    QUEUE.take(lines, notice, QUEUED_BYTES_MAX);
}

/// Hands over lines like [`write`], as the last words of this process or of one of its threads.
/// They get in where other lines are dropped.
pub fn write_last(lines: &[u8], notice: Notice) {
    QUEUE.take(lines, notice, QUEUED_BYTES_MAX + LAST_BYTES_MAX);
}

/// Waits until all lines that were handed over are written, and no longer than `at_most`.
pub fn flush(at_most: Duration) {
    QUEUE.flush(at_most);
}

/// Returns the number of lines that could not be written since the process began.
pub fn lost() -> u64 {
    QUEUE.lost.load(Relaxed)
}

/// What waits for the thread.
struct Queue {
    waiting: Mutex<Waiting>,
    /// A line was added.
    added: Condvar,
    /// Nothing waits any more.
    written: Condvar,
    lost: AtomicU64,
}

struct Waiting {
    lines: VecDeque<Line>,
    /// Memory of these lines, and of the one that is being written.
    bytes: usize,
    /// Lines that were dropped since the last one got in.
    missing: u64,
}

struct Line {
    text: Vec<u8>,
    /// Lines that were dropped just before this one.
    missing: u64,
    notice: Notice,
}

impl Line {
    fn size(&self) -> usize {
        self.text.len() + LINE_BYTES
    }
}

impl Waiting {
    /// Whether a line of this size gets in. One line may be larger than all the room.
    fn has_room(&self, size: usize, bytes_max: usize) -> bool {
        let is_last = bytes_max > QUEUED_BYTES_MAX;
        let bytes_max = if self.missing > 0 && !is_last { bytes_max / 2 } else { bytes_max };
        self.bytes == 0 || self.bytes + size <= bytes_max
    }
}

impl Queue {
    const fn new() -> Queue {
        Queue {
            waiting: Mutex::new(Waiting { lines: VecDeque::new(), bytes: 0, missing: 0 }),
            added: Condvar::new(),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
        }
    }

    /// Takes lines for the thread, which begins with the first ones.
    fn take(&'static self, lines: &[u8], notice: Notice, bytes_max: usize) {
        static THREAD: OnceLock<bool> = OnceLock::new();
        let has_thread = THREAD.get_or_init(|| {
            let run = || self.run(&mut Process);
            std::thread::Builder::new().name("log".into()).spawn(run).is_ok()
        });
        // A process that gets no thread is about to say so and to end.
        let is_taken =
            if *has_thread { self.push(lines, notice, bytes_max) } else { write_all(&mut Process, lines).is_ok() };
        if !is_taken {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Adds lines. Returns whether there was room.
    fn push(&self, lines: &[u8], notice: Notice, bytes_max: usize) -> bool {
        let mut line = Line { text: lines.to_vec(), missing: 0, notice };
        let mut waiting = self.waiting.lock();
        if !waiting.has_room(line.size(), bytes_max) {
            waiting.missing += 1;
            return false;
        }
        line.missing = std::mem::take(&mut waiting.missing);
        waiting.bytes += line.size();
        waiting.lines.push_back(line);
        drop(waiting);
        self.added.notify_one();
        true
    }

    /// Returns whether all was written in time.
    fn flush(&self, at_most: Duration) -> bool {
        let until = Instant::now() + at_most;
        let mut waiting = self.waiting.lock();
        while waiting.bytes > 0 {
            if self.written.wait_until(&mut waiting, until).timed_out() {
                return waiting.bytes == 0;
            }
        }
        true
    }

    fn run(&self, out: &mut impl Write) {
        let mut sink = Sink::default();
        loop {
            self.write_next(&mut sink, out);
        }
    }

    /// Writes the oldest line, and waits for one if there is none.
    fn write_next(&self, sink: &mut Sink, out: &mut impl Write) {
        let mut waiting = self.waiting.lock();
        let line = loop {
            match waiting.lines.pop_front() {
                Some(line) => break line,
                None => self.added.wait(&mut waiting),
            }
        };
        drop(waiting);
        if !sink.write(out, &line) {
            self.lost.fetch_add(1, Relaxed);
        }
        let mut waiting = self.waiting.lock();
        waiting.bytes -= line.size();
        if waiting.bytes == 0 {
            self.written.notify_all();
        }
    }
}

/// The outcome of earlier lines.
#[derive(Default)]
struct Sink {
    /// Lines that were lost and not reported yet.
    untold: u64,
    /// Whether a line was cut off.
    is_cut: bool,
}

impl Sink {
    /// Writes a line. Returns whether that succeeded.
    fn write(&mut self, out: &mut impl Write, line: &Line) -> bool {
        self.untold += line.missing;
        let mut bytes = Vec::with_capacity(line.text.len());
        if self.is_cut {
            bytes.push(b'\n');
        }
        if self.untold > 0 {
            bytes.extend((line.notice)(self.untold).into_bytes());
            bytes.push(b'\n');
        }
        bytes.extend(&line.text);
        match write_all(out, &bytes) {
            Ok(()) => *self = Sink::default(),
            Err(written) => {
                // The notice is made again with the next line: it may not have been read, and its
                // number has grown.
                self.untold += 1;
                self.is_cut |= written > 0;
                return false;
            }
        }
        true
    }
}

/// Writes all bytes, however long that takes. An error is the number of bytes that were written.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err(written),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

/// Stderr of this process, without the lock of the standard library. A write that never returns
/// would hold that lock, and whatever else prints to stderr would wait for it.
struct Process;

impl Write for Process {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr().as_raw_fd();
        loop {
            #[allow(unsafe_code, reason = "the standard library writes only under its lock")]
            // SAFETY: the pointer and the length are those of one slice that outlives the call.
            let count = unsafe { libc::write(stderr, bytes.as_ptr().cast(), bytes.len()) };
            if let Ok(count) = usize::try_from(count) {
                return Ok(count);
            }
            let error = io::Error::last_os_error();
            if error.kind() != ErrorKind::WouldBlock {
                return Err(error);
            }
            // Another process has made the stream non-blocking. The next write says what is wrong.
            drop(poll(stderr, libc::POLLOUT, None));
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether the reader of this pipe has left. Always false for a file or a terminal.
pub fn reader_left(pipe: BorrowedFd<'_>) -> bool {
    poll(pipe.as_raw_fd(), 0, Some(Duration::ZERO)).is_ok_and(|events| events & libc::POLLERR != 0)
}

/// Returns the events at a descriptor within `wait`; 0 for none. Without `wait` it waits for one.
fn poll(descriptor: i32, events: libc::c_short, wait: Option<Duration>) -> io::Result<libc::c_short> {
    let mut asked = libc::pollfd { fd: descriptor, events, revents: 0 };
    let milliseconds = wait.map_or(-1, |wait| i32::try_from(wait.as_millis()).unwrap_or(i32::MAX));
    #[allow(unsafe_code, reason = "the standard library has no word for it")]
    // SAFETY: the pointer is to one whole structure that outlives the call.
    let count = unsafe { libc::poll(&raw mut asked, 1, milliseconds) };
    if count >= 0 { Ok(asked.revents) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A pipe that takes some bytes, and then fails.
    #[derive(Default)]
    struct Pipe {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
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

    /// A pipe of which each write waits until it is let through.
    struct Held {
        through: Receiver<()>,
        taken: SyncSender<Vec<u8>>,
    }

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.through.recv().is_err() {
                return Err(ErrorKind::BrokenPipe.into());
            }
            drop(self.taken.send(bytes.to_vec()));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn notice(count: u64) -> String {
        format!("{count} lost")
    }

    fn write(sink: &mut Sink, pipe: &mut Pipe, line: &str) -> bool {
        sink.write(pipe, &Line { text: line.into(), missing: 0, notice })
    }

    #[test]
    fn what_was_lost_is_told_with_the_next_line_that_can_be_written() {
        let mut sink = Sink::default();
        let mut pipe = Pipe { room: 6, ..Pipe::default() };
        assert!(write(&mut sink, &mut pipe, "one\n"));
        assert!(!write(&mut sink, &mut pipe, "two\n"), "cut short");
        assert!(!write(&mut sink, &mut pipe, "three\n"));
        pipe.room = 100;
        assert!(write(&mut sink, &mut pipe, "four\n"));
        assert!(write(&mut sink, &mut pipe, "five\n"));
        assert_eq!(String::from_utf8_lossy(&pipe.taken), "one\ntw\n2 lost\nfour\nfive\n");
    }

    #[test]
    fn lines_without_room_are_dropped_and_told_once() {
        let queue = Queue::new();
        let bytes_max = 4 * (LINE_BYTES + 2);
        let push = |text: &str| queue.push(format!("{text}\n").as_bytes(), notice, bytes_max);
        assert!(["a", "b", "c", "d"].into_iter().all(push));
        assert!(!push("e") && !push("f"), "there is no room");
        let (mut sink, mut pipe) = (Sink::default(), Pipe { room: 1_000, ..Pipe::default() });
        let mut write_some = |count| (0..count).for_each(|_| queue.write_next(&mut sink, &mut pipe));
        write_some(2);
        assert!(!push("g"), "half of the room is not free yet");
        write_some(1);
        assert!(push("h") && push("i"));
        write_some(3);
        assert_eq!(String::from_utf8_lossy(&pipe.taken), "a\nb\nc\nd\n3 lost\nh\ni\n");
        assert_eq!(queue.waiting.lock().bytes, 0);
    }

    #[test]
    fn one_line_may_be_larger_than_the_room_and_last_words_have_their_own() {
        let queue = Queue::new();
        let line = vec![b'x'; QUEUED_BYTES_MAX];
        assert!(queue.push(&line, notice, QUEUED_BYTES_MAX));
        assert!(!queue.push(b"more\n", notice, QUEUED_BYTES_MAX));
        assert!(queue.push(b"last words\n", notice, QUEUED_BYTES_MAX + LAST_BYTES_MAX));
        assert_eq!(queue.waiting.lock().lines[1].missing, 1, "they tell what is missing before them");
    }

    #[test]
    fn a_write_that_does_not_return_holds_nobody_up_and_a_flush_ends_in_time() {
        static HELD: Queue = Queue::new();
        let (let_through, through) = sync_channel(8);
        let (taken, written) = sync_channel(8);
        std::thread::spawn(move || HELD.run(&mut Held { through, taken }));
        for _ in 0..3 {
            assert!(HELD.push(b"line\n", notice, QUEUED_BYTES_MAX));
        }
        assert!(!HELD.flush(Duration::from_millis(1)), "nothing was let through");
        (0..3).for_each(|_| let_through.send(()).expect("the thread lives"));
        assert!(HELD.flush(Duration::from_secs(600)), "all is written");
        assert_eq!(written.try_iter().collect::<Vec<_>>().concat(), b"line\nline\nline\n");
        // From now on every write fails at once.
        drop(let_through);
        assert!(HELD.push(b"line\n", notice, QUEUED_BYTES_MAX));
        assert!(HELD.flush(Duration::from_secs(600)), "a lost line is not waited for");
        assert_eq!(HELD.lost.load(Relaxed), 1);
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
