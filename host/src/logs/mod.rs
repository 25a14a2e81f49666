//! What a node logs on behalf of others. Anybody who can reach a port can cause such lines. They
//! come at most once a second and say how many were left out. Text of others cannot look like a
//! line of the node's own. `stderr.rs` writes lines to stderr.

pub mod stderr;

use std::fmt::{self, Write};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(1);

/// Limits one kind of line.
#[derive(Debug, Default)]
pub struct Sparse(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    left_out: u64,
}

impl Sparse {
    /// Returns how many lines were left out since the last one, if another one is due now.
    pub fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock();
        if said.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            said.left_out += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.left_out))
    }
}

/// Limits lines that each matter, but whose number is unknown: it lets a number per second through,
/// and counts the rest.
#[derive(Debug)]
pub struct Bounded(Mutex<Second>);

/// Most lines that guests of a process may log in one second.
pub const LINES_A_SECOND_MAX: u32 = 1_000;
/// Most bytes that guests of a process may log in one second. The line that reaches the limit is
/// still written.
pub const BYTES_A_SECOND_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Second {
    began: Option<Instant>,
    lines: u32,
    bytes: usize,
    left_out: u64,
}

impl Default for Bounded {
    fn default() -> Bounded {
        Bounded::new()
    }
}

impl Bounded {
    /// Makes a limit of which nothing is used.
    pub const fn new() -> Bounded {
        Bounded(Mutex::new(Second { began: None, lines: 0, bytes: 0, left_out: 0 }))
    }

    /// Takes room for a line of `bytes`. If there is room, returns how many lines were left out
    /// since the last one.
    pub fn take(&self, bytes: usize) -> Option<u64> {
        self.take_at(bytes, Instant::now())
    }

    fn take_at(&self, bytes: usize, now: Instant) -> Option<u64> {
        let mut second = self.0.lock();
        if second.began.is_none_or(|began| now.saturating_duration_since(began) >= INTERVAL) {
            *second = Second { began: Some(now), lines: 0, bytes: 0, left_out: second.left_out };
        }
        let fits = second.lines < LINES_A_SECOND_MAX && second.bytes < BYTES_A_SECOND_MAX;
        if !fits {
            second.left_out += 1;
            return None;
        }
        second.lines += 1;
        second.bytes += bytes;
        Some(std::mem::take(&mut second.left_out))
    }
}

/// Text of a guest or of a client. Lines after the first are indented, and control characters are
/// shown instead of sent to the terminal.
#[derive(Clone, Copy, Debug)]
pub struct Foreign<'a>(pub &'a str);

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '\n' => f.write_str("\n    | ")?,
                '\t' => f.write_char(char)?,
                _ if char.is_control() => write!(f, "{}", char.escape_default())?,
                _ => f.write_char(char)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_is_no_line_of_our_own() {
        let forged = "boom\n2026-01-01 ERROR lockstep: forged\x1b[31m\r\u{9b}2J\tü";
        let shown = Foreign(forged).to_string();
        assert_eq!(shown, "boom\n    | 2026-01-01 ERROR lockstep: forged\\u{1b}[31m\\r\\u{9b}2J\tü");
    }

    #[test]
    fn so_many_lines_and_bytes_a_second_are_written_and_the_rest_is_counted() {
        let (lines, start) = (Bounded::new(), Instant::now());
        for _ in 0..LINES_A_SECOND_MAX {
            assert_eq!(lines.take_at(1, start), Some(0));
        }
        assert_eq!(lines.take_at(1, start + INTERVAL / 2), None);
        assert_eq!(lines.take_at(BYTES_A_SECOND_MAX, start + INTERVAL), Some(1), "one line may be as long as it likes");
        assert_eq!(lines.take_at(1, start + INTERVAL), None);
        assert_eq!(lines.take_at(1, start + 2 * INTERVAL), Some(1));
    }

    #[test]
    fn one_line_a_second_says_how_many_were_left_out() {
        let (sparse, start) = (Sparse::default(), Instant::now());
        assert_eq!(sparse.due_at(start), Some(0));
        for _ in 0..7 {
            assert_eq!(sparse.due_at(start + INTERVAL / 2), None);
        }
        assert_eq!(sparse.due_at(start + INTERVAL), Some(7));
        assert_eq!(sparse.due_at(start + 2 * INTERVAL), Some(0));
    }
}
