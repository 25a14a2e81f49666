//! What a snapshot is compared with: a file of the same length that is read, sent over loopback,
//! written to another file, and synced. The bytes pass through a buffer of the program at both
//! ends, as those of a snapshot do.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::rows;

/// Size of the buffer at either end.
const BUFFER_BYTES: u64 = 1 << 20;
/// Longest wait of either end for the other.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A file that is copied.
pub(super) struct Original {
    path: PathBuf,
    bytes: u64,
}

impl Original {
    /// Writes a file of so many bytes, which hardly compress.
    pub(super) fn write(directory: &Path, bytes: u64) -> Result<Original> {
        let path = directory.join("original");
        let mut file = File::create(&path)?;
        let text = rows::text(BUFFER_BYTES);
        let mut left = bytes;
        while left > 0 {
            let part = left.min(BUFFER_BYTES);
            file.write_all(&text[..part as usize])?;
            left -= part;
        }
        // What is still to be written would slow down the copies.
        file.sync_all()?;
        Ok(Original { path, bytes })
    }

    /// Copies the file, and returns how many seconds that took. The copy is removed.
    pub(super) fn copy(&self) -> Result<f64> {
        let copy = self.path.with_extension("copy");
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let began = Instant::now();
        let sending = TcpStream::connect(listener.local_addr()?)?;
        let (receiving, _) = listener.accept()?;
        sending.set_write_timeout(Some(TIMEOUT))?;
        receiving.set_read_timeout(Some(TIMEOUT))?;
        let received = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(receiving, &copy));
            let sent = send(&self.path, sending);
            let received = receiver.join().map_err(|_| anyhow!("the thread that receives a file panicked"))?;
            sent.and(received)
        });
        let seconds = began.elapsed().as_secs_f64();
        drop(std::fs::remove_file(&copy));
        let received = received.context("copying a file over loopback")?;
        ensure!(received == self.bytes, "{received} of {} bytes were received", self.bytes);
        Ok(seconds)
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        // The directory goes with the nodes at the latest.
        drop(std::fs::remove_file(&self.path));
    }
}

fn send(path: &Path, mut to: TcpStream) -> Result<()> {
    pass_on(File::open(path)?, &mut to)?;
    Ok(to.shutdown(Shutdown::Write)?)
}

fn receive(from: TcpStream, path: &Path) -> Result<u64> {
    let mut file = File::create(path)?;
    let received = pass_on(from, &mut file)?;
    file.sync_all()?;
    Ok(received)
}

/// Passes on what comes, until there is no more. Returns the number of bytes.
fn pass_on(mut from: impl Read, to: &mut impl Write) -> Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES as usize];
    let mut passed = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(passed);
        }
        to.write_all(&buffer[..length])?;
        passed += length as u64;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_copied_whole_and_nothing_stays() {
        let directory = tempfile::tempdir().unwrap();
        for bytes in [1, 3 * BUFFER_BYTES + 7] {
            let original = Original::write(directory.path(), bytes).unwrap();
            assert_eq!(std::fs::metadata(&original.path).unwrap().len(), bytes);
            assert!(original.copy().unwrap() > 0.0);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "the copy is removed");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "the original is removed");
    }

    #[test]
    fn an_end_that_fails_does_not_leave_the_other_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let original = Original { path: directory.path().join("nowhere"), bytes: 1 };
        let error = format!("{:#}", original.copy().unwrap_err());
        assert!(error.starts_with("copying a file over loopback"), "{error}");
    }
}
