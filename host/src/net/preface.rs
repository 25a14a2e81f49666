//! Tells from the first bytes of a connection which HTTP it speaks, and when the client has sent
//! its preface: in HTTP/2 the preface and its SETTINGS, in HTTP/1 the head of a request. Parses no
//! request; the connection's server finds errors in it.

use super::frames::{ACK, Frames, Head, SETTINGS};

/// The first bytes that a client of HTTP/2 sends.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How far a connection has got.
#[derive(Debug)]
pub(super) enum Preface {
    /// All bytes so far are the start of [`PREFACE`].
    Open {
        /// Number of those bytes.
        matched: usize,
    },
    /// Waits for the first SETTINGS of an HTTP/2 client.
    Settings(Frames),
    /// Waits for the empty line after a request of HTTP/1.
    Head {
        /// Nothing but a carriage return has come since the last line feed.
        at_line_start: bool,
    },
}

/// The protocol of a connection that has finished its preface.
#[derive(Debug)]
pub(super) enum Spoken {
    /// HTTP/1, or something that is treated as HTTP/1.
    Http1,
    /// HTTP/2, and the position in its frames.
    Http2(Frames),
}

impl Default for Preface {
    fn default() -> Preface {
        Preface::Open { matched: 0 }
    }
}

impl Preface {
    /// Returns whether the connection speaks HTTP/2, as far as is known.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Preface::Settings(_))
    }

    /// Reads the next bytes. Returns the protocol once the preface is complete.
    ///
    /// Calls `more` with the head of each frame, before the first SETTINGS or after it.
    pub(super) fn pass(&mut self, bytes: &[u8], mut more: impl FnMut(Head)) -> Option<Spoken> {
        let mut bytes = bytes;
        if let Preface::Open { matched } = self {
            let expected = &PREFACE[*matched..];
            let same = bytes.iter().zip(expected).take_while(|(byte, expected)| byte == expected).count();
            let is_over = same < bytes.len().min(expected.len());
            *matched += same;
            let matched = *matched;
            if is_over {
                let mut at_line_start = false;
                // The bytes that matched so far were part of the head as well.
                if head_ends(&PREFACE[..matched], &mut at_line_start) {
                    return Some(Spoken::Http1);
                }
                *self = Preface::Head { at_line_start };
            } else if matched == PREFACE.len() {
                *self = Preface::Settings(Frames::default());
            }
            bytes = &bytes[same..];
        }
        match self {
            Preface::Open { .. } => None,
            Preface::Head { at_line_start } => head_ends(bytes, at_line_start).then_some(Spoken::Http1),
            Preface::Settings(frames) => {
                let mut is_whole = false;
                frames.pass(bytes, |head| {
                    more(head);
                    is_whole |= head.kind == SETTINGS && !head.has(ACK);
                });
                is_whole.then(|| Spoken::Http2(std::mem::take(frames)))
            }
        }
    }
}

/// Returns whether the bytes contain an empty line.
fn head_ends(bytes: &[u8], at_line_start: &mut bool) -> bool {
    for byte in bytes {
        match byte {
            b'\n' if *at_line_start => return true,
            b'\n' => *at_line_start = true,
            b'\r' => {}
            _ => *at_line_start = false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS_FRAME: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9];
    const RESET_FRAME: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];

    /// Returns after how many bytes the preface is complete, the protocol, and the frames of the
    /// last part.
    fn passed(sent: &[u8], size: usize) -> Option<(usize, &'static str, Vec<u8>)> {
        let (mut preface, mut taken) = (Preface::default(), 0);
        for part in sent.chunks(size) {
            let mut more = Vec::new();
            taken += part.len();
            match preface.pass(part, |head| more.push(head.kind)) {
                None => {}
                Some(Spoken::Http1) => return Some((taken, "1", more)),
                Some(Spoken::Http2(_)) => return Some((taken, "2", more)),
            }
        }
        None
    }

    #[test]
    fn http2_has_spoken_with_its_settings() {
        let whole = [&PREFACE[..], SETTINGS_FRAME].concat();
        for size in 1..whole.len() {
            assert_eq!(passed(&whole[..whole.len() - 1], size), None, "in parts of {size}");
            let taken = whole.len().min(whole.len().div_ceil(size) * size);
            assert_eq!(passed(&whole, size), Some((taken, "2", vec![SETTINGS])), "in parts of {size}");
        }
        let more = [&whole[..], RESET_FRAME].concat();
        assert_eq!(passed(&more, more.len()), Some((more.len(), "2", vec![SETTINGS, 3])));
        let other = [&PREFACE[..], RESET_FRAME].concat();
        assert_eq!(passed(&other, 7), None, "no SETTINGS yet");
    }

    #[test]
    fn http1_has_spoken_with_the_empty_line() {
        for head in
            ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI /p HTTP/1.1\n\n", "PRI * HTTP/2.0\r\n\r\nGET", "P\r\n\r\n"]
        {
            for size in 1..head.len() {
                assert!(matches!(passed(head.as_bytes(), size), Some((_, "1", _))), "{head:?} in parts of {size}");
            }
        }
        for head in ["", "P", "GET / HTTP/1.1\r\nHost: x\r\n", "GET / HTTP/1.1\r\nA: b\r\n\rc", "\u{16}\u{3}\u{1}"] {
            assert!(passed(head.as_bytes(), 1).is_none(), "{head:?}");
        }
    }
}
