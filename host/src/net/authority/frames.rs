//! Walks over the frames that a client sends (HTTP/2, RFC 9113), has each header block mended, and passes all else on as it is. Does no
//! IO, and answers nothing.

use std::borrow::Cow;

use tokio::io::ReadBuf;

use super::hpack::{Table, Unreadable};

/// What an HTTP/2 connection begins with. Anything else is another protocol, and none of our business.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD_BYTES: usize = 9;

/// Bytes of a frame without its head: SETTINGS_MAX_FRAME_SIZE, of which our server says nothing. h2 refuses a larger one.
const PAYLOAD_BYTES_MAX: usize = 16 << 10;

/// CONTINUATIONs of one block: more than h2 takes.
const CONTINUATIONS_MAX: usize = 8;

/// Bytes of one block with its frames. A larger one is not looked at, and h2 refuses it.
pub(super) const BLOCK_BYTES_MAX: usize = (1 + CONTINUATIONS_MAX) * (HEAD_BYTES + PAYLOAD_BYTES_MAX);

const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const PRIORITY_BYTES: usize = 5;

/// Where in a client's bytes we are, and what was not passed on yet.
#[derive(Debug)]
pub(super) struct Filter {
    stage: Stage,
    table: Table,
    /// The beginning of a frame's head or of a header block, which goes on in bytes that have not come yet.
    held: Vec<u8>,
    /// What goes on next, before anything that is read, and how much of it is gone.
    ready: Vec<u8>,
    gone: usize,
    /// A line in the log was written about this connection.
    told: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// Between two frames.
    Between,
    /// So many bytes of a frame that is none of ours are still to come.
    Within(usize),
    /// All that comes is passed on: it is not HTTP/2, or not readable.
    Open,
}

/// What becomes of the next bytes.
#[derive(Debug)]
enum Step {
    /// So many of them are passed on.
    Pass(usize),
    /// So many of them are passed on in another form.
    Change { bytes: usize, into: Vec<u8> },
    /// More must come first.
    Wait,
}

impl Filter {
    pub(super) fn new() -> Filter {
        let (held, ready) = (Vec::new(), Vec::new());
        Filter { stage: Stage::Preface(0), table: Table::new(), held, ready, gone: 0, told: false }
    }

    /// Fills the buffer with what is ready; false when nothing is.
    pub(super) fn take(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.ready.is_empty() {
            return false;
        }
        let bytes = buffer.remaining().min(self.ready.len() - self.gone);
        buffer.put_slice(&self.ready[self.gone..self.gone + bytes]);
        self.gone += bytes;
        if self.gone == self.ready.len() {
            // The space goes with it: most connections never need any.
            (self.ready, self.gone) = (Vec::new(), 0);
        }
        true
    }

    /// Looks at what was read just now, while nothing is ready: how much of it may be passed on. What follows is here, and what of it is
    /// ready is to be taken next.
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

    /// No more will be read: what was held back goes on as it is.
    pub(super) fn end(&mut self) {
        self.stage = Stage::Open;
        self.ready.append(&mut std::mem::take(&mut self.held));
    }

    /// Bytes at the beginning that need neither change nor waiting, and those behind them that are ready in another form.
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

    /// Makes ready what need not wait, and says how much that was.
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

    /// At least one byte is there; at least one is passed or changed, if not all must wait.
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
            // Neither may a client send here.
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

/// The first bytes of a frame.
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

/// How far a header block goes: HEADERS, and the CONTINUATIONs behind it.
enum Extent {
    /// So many bytes.
    Whole(usize),
    /// Further than the bytes that are there, which are in order and within the limits.
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

/// What a header block says.
struct Block<'a> {
    /// Of its first frame.
    head: Head,
    priority: &'a [u8],
    fields: Cow<'a, [u8]>,
}

impl<'a> Block<'a> {
    /// Of all frames of a block, whose extent is known.
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

    /// The same block with other fields, and without padding.
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

/// Priority and fields of HEADERS, without padding.
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
    /// Bytes that are kept, for tests.
    pub(super) fn kept_bytes(&self) -> usize {
        self.held.capacity() + self.ready.capacity()
    }
}
