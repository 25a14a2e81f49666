//! What a command printed, as text. Output that is not UTF-8 fails the test: nothing is replaced.
//! This file runs no command and checks no words.

use std::process::Output;

/// Returns what the command wrote to stderr.
pub fn stderr(output: &Output) -> String {
    text(&[&output.stderr])
}

/// Returns what the command wrote to stdout, and after that what it wrote to stderr.
pub fn all(output: &Output) -> String {
    text(&[&output.stdout, &output.stderr])
}

fn text(parts: &[&[u8]]) -> String {
    String::from_utf8(parts.concat()).expect("commands print UTF-8")
}
