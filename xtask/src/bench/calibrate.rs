//! What the machine does before a block: how long the disk takes to keep 256 bytes, and how long
//! 256 bytes take to another thread and back. Neither system has a part in it, so a change of these
//! figures is a change of the machine.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// Length of each of the two loops.
const LOOP_TIME: Duration = Duration::from_millis(200);
/// Fewest steps of each loop, on a slow machine, too.
const STEPS_MIN: usize = 10;
const MESSAGE_BYTES: usize = 256;

/// The machine just before a block.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Calibration {
    /// Time of a write of 256 bytes and an fdatasync, on the disk of the servers.
    pub(super) fdatasync_us: Quantiles,
    /// Time of 256 bytes over TCP on loopback to a thread, and back.
    pub(super) echo_us: Quantiles,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// Runs both loops, one after the other.
pub(super) fn calibrate(directory: &Path) -> Result<Calibration> {
    let fdatasync_us = syncs(directory).context("the fdatasync loop")?;
    let echo_us = echoes().context("the echo loop")?;
    Ok(Calibration { fdatasync_us, echo_us })
}

fn syncs(directory: &Path) -> Result<Quantiles> {
    let path = directory.join("calibration");
    let mut file = File::create(&path)?;
    let times = times_of(|| {
        file.write_all(&[0; MESSAGE_BYTES])?;
        Ok(file.sync_data()?)
    });
    std::fs::remove_file(&path)?;
    Ok(Quantiles::of(times?))
}

fn echoes() -> Result<Quantiles> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    stream.set_nodelay(true)?;
    let (mut other, _) = listener.accept()?;
    other.set_nodelay(true)?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut message = [0; MESSAGE_BYTES];
            // It ends when the stream is closed below.
            while other.read_exact(&mut message).and_then(|()| other.write_all(&message)).is_ok() {}
        });
        let mut message = [0; MESSAGE_BYTES];
        let times = times_of(|| {
            stream.write_all(&message)?;
            Ok(stream.read_exact(&mut message)?)
        });
        drop(stream);
        Ok(Quantiles::of(times?))
    })
}

/// Returns how long each step took, in microseconds.
fn times_of(mut step: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < LOOP_TIME || times.len() < STEPS_MIN {
        let step_began = Instant::now();
        step()?;
        times.push(step_began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

impl Quantiles {
    fn of(mut times: Vec<f64>) -> Quantiles {
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Quantiles { p50: at(50).unwrap_or_default(), p99: at(99).unwrap_or_default() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let quantiles = Quantiles::of((1..=200).rev().map(f64::from).collect());
        assert_eq!((quantiles.p50, quantiles.p99), (100.0, 198.0));
        assert_eq!(Quantiles::of(vec![7.0]).p99, 7.0);
    }

    #[test]
    fn both_loops_end_and_leave_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let calibration = calibrate(directory.path()).unwrap();
        for quantiles in [calibration.fdatasync_us, calibration.echo_us] {
            assert!(quantiles.p50 > 0.0 && quantiles.p50 <= quantiles.p99, "{calibration:?}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
