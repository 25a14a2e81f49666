//! Reads a backup file as a state to test with. It runs `lockstep guest rows`, so that only one
//! program reads the format of such files. Knows no guest.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::host::Store;
use crate::rows::split_row;
use crate::status::Status;

/// First bytes of every backup file.
const MAGIC: &[u8] = b"LOCKSTEP BACKUP\n";
/// First bytes of the rows in the program's output, as in a snapshot of the SDK. They follow a line
/// about the backup.
const ROWS_MAGIC: &[u8] = b"LSR1";

/// Content of a backup, as far as a guest can see it.
#[derive(Debug)]
pub(super) struct Backup {
    /// Index of the last entry.
    pub(super) index: u64,
    /// Log time of the last entry, in milliseconds since 1970.
    pub(super) time_ms: u64,
    pub(super) store: Store,
}

pub(super) fn is_backup(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a backup with `program`.
pub(super) fn read(program: &Path, backup: Vec<u8>) -> Result<Backup, Status> {
    let rows = rows_of(program, backup)?;
    parse(&rows).ok_or_else(|| {
        Status::data_loss("`lockstep guest rows` says what this SDK does not know: take both from the same checkout")
    })
}

fn rows_of(program: &Path, backup: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut command = Command::new(program);
    command.args(["guest", "rows", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        Status::failed_precondition(format!(
            "a backup is read by the program `{}`, which cannot be started: {error}; set LOCKSTEP to the path of `lockstep`",
            program.display()
        ))
    })?;
    let mut stdin = child.stdin.take().expect("it is piped");
    // The program writes while it reads, so input and output are served at the same time. A failed
    // write is ignored: a program that stops reading reports why on stderr.
    let feeding = thread::spawn(move || drop(stdin.write_all(&backup)));
    let mut stderr = child.stderr.take().expect("it is piped");
    let complaints = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map_or_else(|error| error.to_string(), |_| text)
    });
    let mut rows = Vec::new();
    let read = child.stdout.take().expect("it is piped").read_to_end(&mut rows);
    feeding.join().expect("writing does not panic");
    let complaints = complaints.join().expect("reading does not panic");
    let broken = |problem: String| Status::data_loss(format!("the backup cannot be read: {problem}"));
    read.map_err(|error| broken(error.to_string()))?;
    let status = child.wait().map_err(|error| broken(error.to_string()))?;
    if !status.success() {
        return Err(broken(complaints.trim_end().to_owned()));
    }
    Ok(rows)
}

/// Parses `index <n> time_ms <n>` and a line end, then rows as in a snapshot.
fn parse(output: &[u8]) -> Option<Backup> {
    let line_end = output.iter().position(|byte| *byte == b'\n')?;
    let (line, rows) = output.split_at(line_end);
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let mut number = |name: &str| (words.next()? == name).then(|| words.next()?.parse().ok())?;
    let (index, time_ms) = (number("index")?, number("time_ms")?);
    let mut rest = rows[1..].strip_prefix(ROWS_MAGIC)?;
    let mut store = Store::new();
    loop {
        let (key, value, after) = split_row(rest)?;
        if key.is_empty() {
            let count = u64::from_le_bytes(value.try_into().ok()?);
            return (after.is_empty() && count == store.len() as u64).then_some(Backup { index, time_ms, store });
        }
        store.insert(key.to_vec(), value.to_vec());
        rest = after;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(key: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        [&length(key)[..], &length(value), key, value].concat()
    }

    #[test]
    fn what_the_program_says_is_read() {
        let said =
            [&b"index 7 time_ms 9\nLSR1"[..], &row(b"a", b"1"), &row(b"b", b""), &row(b"", &2_u64.to_le_bytes())]
                .concat();
        let backup = parse(&said).unwrap();
        assert_eq!((backup.index, backup.time_ms, backup.store.len()), (7, 9, 2));
        for cut in 0..said.len() {
            assert!(parse(&said[..cut]).is_none(), "{cut}");
        }
        assert!(parse(&[&said[..], b"x"].concat()).is_none());
    }
}
