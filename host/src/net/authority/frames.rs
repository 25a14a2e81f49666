//! Walks the frames that a client sends (HTTP/2, RFC 9113), corrects each header block, and passes
//! everything else on as it is. Does no IO, and answers nothing.

use std::borrow::Cow;

use tokio::io::ReadBuf;

use super::hpack::{Table, Unreadable};

/// The first bytes of an HTTP/2 connection. Anything else is another protocol, and is passed on.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD_BYTES: usize = 9;

/// Most bytes of a frame without its head: SETTINGS_MAX_FRAME_SIZE, which the server leaves at its
/// default. h2 refuses a larger one.
const PAYLOAD_BYTES_MAX: usize = 16 << 10;

/// Most CONTINUATIONs of one block: more than h2 accepts.
const CONTINUATIONS_MAX: usize = 8;

/// Most bytes of one block with its frames. A larger one is not checked, and h2 refuses it.
pub(super) const BLOCK_BYTES_MAX: usize = (1 + CONTINUATIONS_MAX) * (HEAD_BYTES + PAYLOAD_BYTES_MAX);

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const PRIORITY_BYTES: usize = 5;

/// The position in a client's bytes, and the bytes that were not passed on yet.
#[derive(Debug)]
pub(super) struct Filter {
    stage: Stage,
    table: Table,
    /// The start of a frame's head or of a header block, whose rest has not arrived yet.
    held: Vec<u8>,
    /// Bytes to pass on next, before anything that is read. The first `gone` of them were passed on
    /// already.
    ready: Vec<u8>,
    gone: usize,
    /// Whether a log line was written about this connection.
    told: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The number of bytes of the preface that were seen.
    Preface(usize),
    /// Between two frames.
    Between,
    /// The number of bytes still to come of a frame that is not a header block.
    Within(usize),
    /// Everything is passed on: the bytes are not HTTP/2, or not readable.
    Open,
}

/// The decision about the next bytes.
#[derive(Debug)]
enum Step {
    /// The number of bytes to pass on.
    Pass(usize),
    /// The first `bytes` are replaced by `into`.
    Change { bytes: usize, into: Vec<u8> },
    /// More bytes must arrive first.
    Wait,
}

impl Filter {
    pub(super) fn new() -> Filter {
        let (held, ready) = (Vec::new(), Vec::new());
        Filter { stage: Stage::Preface(0), table: Table::new(), held, ready, gone: 0, told: false }
    }

    /// Fills the buffer with bytes that are ready. Returns false when there are none.
    pub(super) fn take(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.ready.is_empty() {
            return false;
        }
        let bytes = buffer.remaining().min(self.ready.len() - self.gone);
        buffer.put_slice(&self.ready[self.gone..self.gone + bytes]);
        self.gone += bytes;
        if self.gone == self.ready.len() {
            // Frees the memory as well: most connections never need any.
            (self.ready, self.gone) = (Vec::new(), 0);
        }
        true
    }

    /// Examines bytes that were just read, while nothing is ready. Returns how many of them may be
    /// passed on.
    ///
    /// The filter keeps the rest. Part of it may be ready, and must be taken next.
    pub(super) fn look(&mut self, fresh: &[u8]) -> usize {
        if !self.held.is_empty() {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(fresh);
            let sorted = self.sort(&held);
            if sorted < held.len() {
                held.drain(..sorted);
                self.held = held;
            }
            return 0;
        }
        let (passed, changed) = self.pass(fresh);
        let sorted = passed + changed + self.sort(&fresh[passed + changed..]);
        self.held.extend_from_slice(&fresh[sorted..]);
        debug_assert!(self.held.len() < BLOCK_BYTES_MAX, "a block that is all there does not wait");
        passed
    }

    /// Passes on what was held back, because nothing more will be read.
    pub(super) fn end(&mut self) {
        self.stage = Stage::Open;
        self.ready.append(&mut std::mem::take(&mut self.held));
    }

    /// Counts the first bytes that need neither change nor waiting.
    ///
    /// Also counts the bytes after them that are ready in another form.
    fn pass(&mut self, bytes: &[u8]) -> (usize, usize) {
        let mut passed = 0;
        while passed < bytes.len() {
            match self.step(&bytes[passed..]) {
                Step::Pass(bytes) => passed += bytes,
                Step::Change { bytes, into } => {
                    self.ready = into;
                    return (passed, bytes);
                }
                Step::Wait => break,
            }
        }
        (passed, 0)
    }

    /// Makes all bytes ready that need not wait. Returns how many those were.
    fn sort(&mut self, bytes: &[u8]) -> usize {
        let mut sorted = 0;
        while sorted < bytes.len() {
            let rest = &bytes[sorted..];
            sorted += match self.step(rest) {
                Step::Pass(bytes) => {
                    self.ready.extend_from_slice(&rest[..bytes]);
                    bytes
                }
                Step::Change { bytes, into } => {
                    self.ready.extend_from_slice(&into);
                    bytes
                }
                Step::Wait => break,
            };
        }
        sorted
    }

    /// Decides about the next bytes, of which there is at least one. Passes or changes at least
    /// one, unless all must wait.
    fn step(&mut self, bytes: &[u8]) -> Step {
        match self.stage {
            Stage::Open => Step::Pass(bytes.len()),
            Stage::Within(rest) => {
                let here = rest.min(bytes.len());
                self.stage = if here < rest { Stage::Within(rest - here) } else { Stage::Between };
                Step::Pass(here)
            }
            Stage::Preface(seen) => {
                let here = bytes.len().min(PREFACE.len() - seen);
                self.stage = match seen + here {
                    _ if bytes[..here] != PREFACE[seen..seen + here] => Stage::Open,
                    all if all == PREFACE.len() => Stage::Between,
                    part => Stage::Preface(part),
                };
                Step::Pass(here)
            }
            Stage::Between => self.frame(bytes),
        }
    }

    fn frame(&mut self, bytes: &[u8]) -> Step {
        let Some(head) = Head::read(bytes) else { return Step::Wait };
        match head.kind {
            HEADERS => match Extent::of(head, bytes) {
                Extent::Whole(length) => self.block(head, &bytes[..length]),
                Extent::Part => Step::Wait,
                Extent::Unreadable => self.open(bytes),
            },
            // A client may not send either of these here.
            CONTINUATION | PUSH_PROMISE => self.open(bytes),
            _ => {
                self.stage = Stage::Within(HEAD_BYTES + head.bytes);
                self.step(bytes)
            }
        }
    }

    fn block(&mut self, head: Head, frames: &[u8]) -> Step {
        let Some(block) = Block::read(head, frames) else { return self.open(frames) };
        match self.table.mend(&block.fields) {
            Ok(None) => Step::Pass(frames.len()),
            Ok(Some(fields)) => {
                if !self.told {
                    tracing::debug!(
                        "a client calls this node by what is no authority of a URI, which is all the same here"
                    );
                    self.told = true;
                }
                Step::Change { bytes: frames.len(), into: block.with(&fields) }
            }
            Err(Unreadable) => self.open(frames),
        }
    }

    fn open(&mut self, bytes: &[u8]) -> Step {
        self.stage = Stage::Open;
        Step::Pass(bytes.len())
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    bytes: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Head> {
        let [a, b, c, kind, flags, s, t, u, v, ..] = *bytes else { return None };
        Some(Head { bytes: u32::from_be_bytes([0, a, b, c]) as usize, kind, flags, stream: [s, t, u, v] })
    }

    fn write(self, into: &mut Vec<u8>) {
        into.extend_from_slice(&(self.bytes as u32).to_be_bytes()[1..]);
        into.extend_from_slice(&[self.kind, self.flags]);
        into.extend_from_slice(&self.stream);
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The length of a header block: HEADERS, and the CONTINUATIONs after it.
enum Extent {
    /// The block has this number of bytes.
    Whole(usize),
    /// The block ends beyond the bytes at hand, which are in order and within the limits.
    Part,
    Unreadable,
}

impl Extent {
    fn of(head: Head, bytes: &[u8]) -> Extent {
        let (mut frame, mut from) = (head, 0);
        for _ in 0..=CONTINUATIONS_MAX {
            if frame.bytes > PAYLOAD_BYTES_MAX {
                return Extent::Unreadable;
            }
            let to = from + HEAD_BYTES + frame.bytes;
            if frame.has(END_HEADERS) {
                return if to <= bytes.len() { Extent::Whole(to) } else { Extent::Part };
            }
            let Some(next) = bytes.get(to..).and_then(Head::read) else { return Extent::Part };
            if next.kind != CONTINUATION || next.stream != head.stream {
                return Extent::Unreadable;
            }
            (frame, from) = (next, to);
        }
        Extent::Unreadable
    }
}

/// The contents of a header block.
struct Block<'a> {
    /// The head of its first frame.
    head: Head,
    priority: &'a [u8],
    fields: Cow<'a, [u8]>,
}

impl<'a> Block<'a> {
    /// Reads all frames of a block whose length is known.
    fn read(head: Head, frames: &'a [u8]) -> Option<Block<'a>> {
        let (first, mut rest) = frames.split_at(HEAD_BYTES + head.bytes);
        let (priority, fields) = split(head, &first[HEAD_BYTES..])?;
        let mut fields = Cow::Borrowed(fields);
        while let Some(next) = Head::read(rest) {
            let (frame, behind) = rest.split_at(HEAD_BYTES + next.bytes);
            fields.to_mut().extend_from_slice(&frame[HEAD_BYTES..]);
            rest = behind;
        }
        Some(Block { head, priority, fields })
    }

    /// Encodes the same block with other fields and without padding.
    fn with(&self, fields: &[u8]) -> Vec<u8> {
        let mut frames = Vec::with_capacity(self.priority.len() + fields.len() + 2 * HEAD_BYTES);
        let (first, rest) = fields.split_at(fields.len().min(PAYLOAD_BYTES_MAX - PRIORITY_BYTES));
        let rest: Vec<&[u8]> = rest.chunks(PAYLOAD_BYTES_MAX).collect();
        let end = |is_last: bool| if is_last { END_HEADERS } else { 0 };
        let head = Head {
            bytes: self.priority.len() + first.len(),
            flags: self.head.flags & (END_STREAM | PRIORITY) | end(rest.is_empty()),
            ..self.head
        };
        head.write(&mut frames);
        frames.extend_from_slice(self.priority);
        frames.extend_from_slice(first);
        for (nth, fields) in rest.iter().enumerate() {
            let flags = end(nth + 1 == rest.len());
            Head { bytes: fields.len(), kind: CONTINUATION, flags, ..self.head }.write(&mut frames);
            frames.extend_from_slice(fields);
        }
        frames
    }
}

/// Splits the payload of HEADERS into priority and fields, without padding.
fn split(head: Head, payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (padding, payload) = match payload.split_first() {
        Some((padding, payload)) if head.has(PADDED) => (usize::from(*padding), payload),
        None if head.has(PADDED) => return None,
        Some(_) | None => (0, payload),
    };
    let priority_bytes = if head.has(PRIORITY) { PRIORITY_BYTES } else { 0 };
    let (priority, payload) = payload.split_at_checked(priority_bytes)?;
    Some((priority, payload.get(..payload.len().checked_sub(padding)?)?))
}

#[cfg(test)]
impl Filter {
    /// Returns the bytes of memory that the filter holds.
    pub(super) fn kept_bytes(&self) -> usize {
        self.held.capacity() + self.ready.capacity()
    }
}
