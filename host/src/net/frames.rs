//! Walks the frames of an HTTP/2 connection as its bytes pass by. Reads only the nine bytes before
//! each frame. Keeps no payload and judges nothing.

/// Bytes before each frame: length (3), kind, flags, stream (4).
const HEAD_BYTES: usize = 9;

/// Kind of a frame with content of a call. RFC 9113, section 6.1.
pub(super) const DATA: u8 = 0;
/// Kind of a frame that opens a call, or has its trailers. RFC 9113, section 6.2.
pub(super) const HEADERS: u8 = 1;
/// Kind of a frame with the priority of a call. RFC 9113, section 6.3.
pub(super) const PRIORITY: u8 = 2;
/// Kind of a frame that resets a stream. RFC 9113, section 6.4.
pub(super) const RST_STREAM: u8 = 3;
/// Kind of a frame of settings. RFC 9113, section 6.5.
pub(super) const SETTINGS: u8 = 4;
/// Kind of a frame that asks for a sign of life, or is one. RFC 9113, section 6.7.
pub(super) const PING: u8 = 6;
/// Kind of a frame that lets the other side send more. RFC 9113, section 6.9.
pub(super) const WINDOW_UPDATE: u8 = 8;
/// Kind of a frame that goes on with the headers of a call. RFC 9113, section 6.10.
pub(super) const CONTINUATION: u8 = 9;
/// Flag of a SETTINGS frame that only acknowledges the other side's.
pub(super) const ACK: u8 = 1;
/// Flag of a DATA or HEADERS frame that is the last one of its side of a call.
pub(super) const END_STREAM: u8 = 1;
/// Flag of a HEADERS frame with all headers, which no CONTINUATION follows.
pub(super) const END_HEADERS: u8 = 4;
/// Flag of a DATA or HEADERS frame with padding.
pub(super) const PADDED: u8 = 8;

/// A frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Bytes of the payload.
    pub(super) length: u32,
}

impl Head {
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// One direction of a connection, after the preface.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that have arrived.
    head_bytes: usize,
    /// Bytes of the payload that are still to come.
    payload_left: usize,
}

impl Frames {
    /// Reads the next bytes of the connection.
    ///
    /// Calls `ended` with the head of each frame that ends in them.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut ended: impl FnMut(Head)) {
        while !bytes.is_empty() {
            if self.head_bytes < HEAD_BYTES {
                let (part, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head_bytes));
                self.head[self.head_bytes..self.head_bytes + part.len()].copy_from_slice(part);
                self.head_bytes += part.len();
                bytes = rest;
                self.payload_left = self.length() as usize;
            }
            let skipped = bytes.len().min(self.payload_left);
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            if self.head_bytes == HEAD_BYTES && self.payload_left == 0 {
                ended(Head { kind: self.head[3], flags: self.head[4], length: self.length() });
                self.head_bytes = 0;
            }
        }
    }

    /// Returns whether the last frame has ended and no other one has begun.
    pub(super) fn is_between(&self) -> bool {
        self.head_bytes == 0
    }

    fn length(&self) -> u32 {
        let [high, middle, low, ..] = self.head;
        u32::from_be_bytes([0, high, middle, low])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_told_when_their_last_byte_passes_however_they_are_cut() {
        // The payload of the second one looks like a reset.
        let sent = [
            frame(SETTINGS, 0, &[0; 12]),
            frame(DATA, END_STREAM, &frame(RST_STREAM, 0, &[0; 4])),
            frame(SETTINGS, ACK, &[]),
            frame(RST_STREAM, 0, &[0, 0, 0, 8]),
        ]
        .concat();
        for size in 1..sent.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for part in sent.chunks(size) {
                frames.pass(part, |head| seen.push((head.kind, head.flags, head.length)));
            }
            let expected = [(SETTINGS, 0, 12), (DATA, END_STREAM, 13), (SETTINGS, ACK, 0), (RST_STREAM, 0, 4)];
            assert_eq!(seen, expected, "in parts of {size}");
            assert!(frames.is_between());
        }
        let mut frames = Frames::default();
        frames.pass(&sent[..HEAD_BYTES + 11], |head| panic!("{head:?} is not whole"));
        assert!(!frames.is_between());
    }
}
