//! Walks the frames of an HTTP/2 connection as its bytes pass by. Reads only the nine bytes before
//! each frame. Keeps no payload and judges nothing.

/// Bytes before each frame: length (3), kind, flags, stream (4).
const HEAD_BYTES: usize = 9;

/// Kind of a frame that resets a stream. RFC 9113, section 6.4.
pub(super) const RST_STREAM: u8 = 3;
/// Kind of a frame of settings. RFC 9113, section 6.5.
pub(super) const SETTINGS: u8 = 4;
/// Flag of a SETTINGS frame that only acknowledges the other side's.
pub(super) const ACK: u8 = 1;

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
    /// Calls `ended` with kind and flags of each frame that ends in them.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut ended: impl FnMut(u8, u8)) {
        while !bytes.is_empty() {
            if self.head_bytes < HEAD_BYTES {
                let (part, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head_bytes));
                self.head[self.head_bytes..self.head_bytes + part.len()].copy_from_slice(part);
                self.head_bytes += part.len();
                bytes = rest;
                let [high, middle, low, ..] = self.head;
                self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
            }
            let skipped = bytes.len().min(self.payload_left);
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            if self.head_bytes == HEAD_BYTES && self.payload_left == 0 {
                ended(self.head[3], self.head[4]);
                self.head_bytes = 0;
            }
        }
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
            frame(0, 1, &frame(RST_STREAM, 0, &[0; 4])),
            frame(SETTINGS, ACK, &[]),
            frame(RST_STREAM, 0, &[0, 0, 0, 8]),
        ]
        .concat();
        for size in 1..sent.len() {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for part in sent.chunks(size) {
                frames.pass(part, |kind, flags| seen.push((kind, flags)));
            }
            assert_eq!(seen, [(SETTINGS, 0), (0, 1), (SETTINGS, ACK), (RST_STREAM, 0)], "in parts of {size}");
        }
        let mut frames = Frames::default();
        frames.pass(&sent[..HEAD_BYTES + 11], |kind, _| panic!("{kind} is not whole"));
    }
}
