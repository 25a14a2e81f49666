//! The machine and the versions of a benchmark: what a reader needs to judge a figure. It reads
//! files of the system and asks the programs; what it cannot learn is "unknown".

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::Serialize;

const UNKNOWN: &str = "unknown";

/// The conditions of a benchmark.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Conditions {
    /// The day, as 2026-01-31, in UTC.
    pub(super) date: String,
    /// The commit of the checkout, with `-changed` when files differ from it.
    pub(super) commit: String,
    pub(super) lockstep: String,
    /// What `etcd --version` says; nothing when only Lockstep was measured.
    pub(super) etcd: Option<String>,
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) memory: String,
    pub(super) kernel: String,
    /// The file system of the directories of all servers.
    pub(super) file_system: String,
    pub(super) disk: String,
    /// Averages over 1, 5 and 15 minutes, before and after.
    pub(super) load_average_before: String,
    pub(super) load_average_after: String,
    pub(super) seconds: u64,
    pub(super) rounds: u64,
}

impl Conditions {
    /// Asks for everything but the load average after the run.
    pub(super) fn of(directory: &Path, etcd: Option<String>, seconds: u64, rounds: u64) -> Result<Conditions> {
        let mounts = read("/proc/self/mountinfo");
        let mount = directory.canonicalize().ok().and_then(|path| mount_of(&mounts, &path));
        let (file_system, disk) = mount.unwrap_or((UNKNOWN, UNKNOWN));
        let first = |path: &str, name: &str| value_of(&read(path), name);
        let cores = std::thread::available_parallelism()?.get();
        let program = crate::build_dir().join("lockstep");
        Ok(Conditions {
            date: date(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 86_400),
            commit: commit(),
            lockstep: said_by(Command::new(program).arg("--version")),
            etcd,
            cpu: first("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores,
            memory: first("/proc/meminfo", "MemTotal").unwrap_or_else(|| UNKNOWN.into()),
            kernel: read("/proc/sys/kernel/osrelease"),
            file_system: file_system.into(),
            disk: format!("{disk}{}", write_cache(disk)),
            load_average_before: load_average(),
            load_average_after: UNKNOWN.into(),
            seconds,
            rounds,
        })
    }

    /// Whether the directories lie in memory, where an fdatasync costs nothing.
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs")
    }

    /// Says so when the directory of the servers lies in memory.
    pub(super) fn warn_of_memory(&self, directory: &Path) {
        if self.is_in_memory() {
            println!(
                "warning: {} lies in memory, where a sync costs nothing: set TMPDIR to a directory on a disk",
                directory.display()
            );
        }
    }

    /// Returns the begin of the names of the files about this run.
    pub(super) fn stem(&self) -> String {
        format!("{}-{}", self.date, self.commit)
    }
}

/// Returns the load averages over 1, 5 and 15 minutes.
pub(super) fn load_average() -> String {
    let text = read("/proc/loadavg");
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or_else(|_| UNKNOWN.into(), |text| text.trim().to_owned())
}

/// Returns what stands behind the first `name` and its colon.
fn value_of(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).next();
    found.filter(|value| !value.is_empty())
}

/// Returns the type and the source of the file system that holds a path.
fn mount_of<'a>(mounts: &'a str, path: &Path) -> Option<(&'a str, &'a str)> {
    let mount = |line: &'a str| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        path.starts_with(point).then_some((point.len(), (after.next()?, after.next()?)))
    };
    // Of two file systems at one point, the later one is seen.
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, found)| found)
}

/// Returns what the disk says about its cache, if it says anything. A partition has the disk above
/// it.
fn write_cache(source: &str) -> String {
    let Some(name) = source.strip_prefix("/dev/") else { return String::new() };
    let of_disk = format!("/sys/class/block/{name}/queue/write_cache");
    let of_partition = format!("/sys/class/block/{name}/../queue/write_cache");
    let found = [of_disk, of_partition].into_iter().find_map(|path| std::fs::read_to_string(path).ok());
    found.map(|cache| format!(", write cache: {}", cache.trim())).unwrap_or_default()
}

fn commit() -> String {
    let in_checkout = ["-c", "safe.directory=*", "-C"];
    let git = |words: &[&str]| said_by(Command::new("git").args(in_checkout).arg(crate::root()).args(words));
    let commit = git(&["rev-parse", "--short=12", "HEAD"]);
    let is_changed = commit != UNKNOWN && !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if is_changed { format!("{commit}-changed") } else { commit }
}

/// Returns the first line that a program prints.
pub(super) fn said_by(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    said.map_or_else(|| UNKNOWN.into(), |text| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Returns the date of a day, counted from 1970-01-01. Years begin in March here, so that a leap
/// day is the last of its year, and 400 years have 146,097 days.
fn date(days_since_1970: u64) -> String {
    // 1970-01-01 is 719,468 days behind 0000-03-01.
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    impl Conditions {
        /// Returns conditions for tests of the pages.
        pub(in crate::bench) fn example(has_etcd: bool) -> Conditions {
            Conditions {
                date: "2026-01-31".into(),
                commit: "0123456789ab".into(),
                lockstep: "lockstep 0.1.0".into(),
                etcd: has_etcd.then(|| "etcd Version: 3.5.16".into()),
                cpu: "A <fast> CPU".into(),
                cores: 2,
                memory: "8000000 kB".into(),
                kernel: "6.1.0".into(),
                file_system: "ext4".into(),
                disk: "/dev/vda, write cache: write back".into(),
                load_average_before: "0.10 0.20 0.30".into(),
                load_average_after: "2.10 1.20 0.30".into(),
                seconds: 5,
                rounds: 2,
            }
        }
    }

    #[test]
    fn days_are_dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (20_484, "2026-01-31"),
        ] {
            assert_eq!(date(days), expected);
        }
    }

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      30 27 0:30 / /tmp rw shared:5 - tmpfs tmpfs rw,size=1k\n\
                      31 27 0:31 / /tmpfiles rw - xfs /dev/vdb1 rw";
        assert_eq!(mount_of(mounts, Path::new("/tmp/lockstep-demo-1")), Some(("tmpfs", "tmpfs")));
        assert_eq!(mount_of(mounts, Path::new("/home/x")), Some(("ext4", "/dev/vda")));
        assert_eq!(mount_of(mounts, Path::new("/tmpfiles")), Some(("xfs", "/dev/vdb1")));
        assert_eq!(mount_of("", Path::new("/")), None);
    }

    #[test]
    fn a_value_stands_behind_its_name() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other";
        assert_eq!(value_of(text, "model name").unwrap(), "AMD EPYC");
        assert_eq!(value_of(text, "model"), None);
    }

    #[test]
    fn every_condition_is_told_of_this_machine() {
        let conditions = Conditions::of(&std::env::temp_dir(), None, 1, 1).unwrap();
        assert!(conditions.date.len() == 10 && conditions.cores > 0, "{conditions:?}");
        assert_ne!(conditions.file_system, UNKNOWN, "{conditions:?}");
        assert_eq!(load_average().split(' ').count(), 3);
        let memory = Conditions { file_system: "tmpfs".into(), ..conditions };
        assert!(memory.is_in_memory() && !Conditions::example(true).is_in_memory());
    }
}
