//! The failpoints: places where a test can make this process crash, fail or wait, by name
//! (`faults::point` and `faults::io`). In a build without the feature `failpoints` every call is
//! empty. Has no policy: a test writes to a file which point fails, and how.
//!
//! With the feature, `LOCKSTEP_FAILPOINTS` names a file that is read every few milliseconds. Each
//! of its lines is `name=task`, with the task in the language of the `fail` crate:
//!
//! - `return(crash)` ends the process as `kill -9` would, once its log is written.
//! - `return(error)`, `return(full)` and `return(descriptors)` make an IO step fail (EIO, ENOSPC,
//!   EMFILE).
//! - `sleep(500)` delays the step. `5*off->1*return(error)` skips the first five. `off` ends a
//!   task.
//! - At a clock, `return(-2000)` sets it back by two seconds.
//!
//! `LOCKSTEP_SEMANTICS_MAX` makes the process one of an earlier build, as far as semantics go: it
//! runs, tells and founds with no number above that one.
//!
//! `LOCKSTEP_END_WAIT_MS` is the longest wait, in milliseconds, of a process that ends for whoever
//! reads its log.
//!
//! Lines about failpoints go through the queue of the log. They are never torn apart, and a log
//! that nobody reads holds no failpoint up. A point is set before the log says so, and whatever it
//! does comes after that line.
//!
//! A point that a later version of the file does not name is off. "Any task" below means any task
//! that fails the step. Where the last column says "crash or wait", the point can do nothing else.
//!
//! | name | where | what an error does |
//! |---|---|---|
//! | `log-before-sync` `log-after-sync` | entries, around write and fsync | ends the node |
//! | `vote-before-sync` `vote-after-sync` | the same for a vote | ends the node |
//! | `truncate-before-sync` `truncate-after-sync` | the same for a truncation | ends the node |
//! | `purge-before-sync` `purge-after-sync` | the same for a purge | ends the node |
//! | `identity-before-sync` `identity-after-sync` | the same for the identity | no start or join |
//! | `synced-before-write` `synced-after-write` | the rewrite of `SYNCED` | ends the node |
//! | `log-skip-sync` | any task: the log is written, not fsynced | nothing, until a power cut |
//! | `log-read` | a read of the log from disk | ends the node |
//! | `archive-sync` | a segment of the log archive, before its fsync | the purge waits |
//! | `state-before-flush` `state-after-flush` | the flush of the state | see below |
//! | `state-read` | a read of the newest state while an entry is applied | ends the node |
//! | `state-cramped` | any task, at the open of a state: see below | nothing |
//! | `state-piled` | any task, at the open of a state: see below | nothing |
//! | `view-read` | a read of the state for a query or a watch | ends the node |
//! | `checkpoint-before-make` | a checkpoint | no snapshot is made |
//! | `checkpoint-before-publish` | its rename | no snapshot is made |
//! | `checkpoint-after-publish` | after its rename | crash or wait |
//! | `install-before-flush` | a new state, before its flush | ends the node |
//! | `install-before-current` | a new state, before CURRENT names it | ends the node |
//! | `install-after-current` | a new state, after CURRENT names it | ends the node |
//! | `membership-caught-up` | a learner that is to vote has caught up: see below | crash or wait |
//! | `membership-before-voters` | before the entry that gives or takes a vote | crash or wait |
//! | `membership-after-voters` | that entry is applied on the leader: see below | crash or wait |
//! | `recover-after-identity` | `lockstep recover` has raised the incarnation | crash or wait |
//! | `recover-after-vote` | it has saved the vote of its new term: see below | crash or wait |
//! | `apply-diverge` | any task: this node's state differs from the cluster's | its hash differs |
//! | `guest-diverge` | any task: this node's guest writes other values | its hash differs |
//! | `build-differs` | any task: this node reports another engine build | the nodes warn |
//! | `apply-entry` | before an entry is applied | crash or wait |
//! | `change-prepared` | a member has compiled and kept the component of a change | crash or wait |
//! | `change-marked` | the marked entry is applied, and has its checkpoint | crash or wait |
//! | `rehearsal-migrated` | the first scratch state of a rehearsal is migrated | crash or wait |
//! | `change-before-propose` | all members are ready, nothing is proposed | crash or wait |
//! | `component-before-write` | the file of a component | it is not kept; the change ends |
//! | `change-before-migrate` | a change of the machine, before its migration | crash or wait |
//! | `change-before-commit` | its effects are known and not in the state | crash or wait |
//! | `change-after-commit` | they are in the state; readers wait: see below | crash or wait |
//! | `change-after-switch` | the new component is in use and shown | crash or wait |
//! | `shadow-running` | a shadow is about to run an entry once more | crash or wait |
//! | `rollback-before-install` | the old component's state is whole, not in force | crash or wait |
//! | `rollback-after-install` | it is in force on the disk; readers wait | crash or wait |
//! | `clock-shift` | the wall clock of log time: see below | |
//! | `peer-skip-append` | any task, before a stream begins: see below | nothing at first |
//! | `read-skip-index` | any task: a linearizable read asks no leader | a stale answer |
//! | `peer-append-refused` | an append has arrived on a stream of the leader | the stream ends |
//! | `peer-transfer-refused` | a hand-over of leadership has arrived | it is not taken |
//! | `probe-refused` | the check whether anybody listens at a peer's port | nobody does |
//! | `snapshot-send-frame` | a sender is about to hand over a frame | crash or wait |
//! | `snapshot-receive-frame` | a receiver has a frame and has not read it | crash or wait |
//! | `snapshot-install` | a received state is complete, not in force | openraft's core stops |
//! | `raft-core` | openraft's core is about to apply: see below | crash or wait |
//!
//! - `state-before-flush`, `state-after-flush`: ENOSPC and EMFILE are tried again; any other error
//!   ends the node. A wait there holds up no entry before the memtables are nearly
//!   full, except one that needs a checkpoint; and it holds up a close.
//! - `state-cramped`: no cache, small files, and compaction all the time.
//! - `state-piled`: files pile up, and are then all compacted into one.
//! - `membership-caught-up`: the leader has not yet checked again that it leads.
//! - `membership-after-voters`: nobody was told of the entry yet.
//! - `recover-after-vote`: the configuration is not written yet.
//! - `change-after-commit`: the new component is not in use yet.
//! - `clock-shift` moves the clock by a number of milliseconds. It stamps entries, other nodes hear
//!   of it, and it founds a cluster.
//! - `peer-skip-append`: a follower claims to have stored entries that it did not store. That shows
//!   when the leader is lost.
//! - `raft-core`: the task `panic` ends the core and not the process.

#[cfg(not(feature = "failpoints"))]
pub use switched_off::{end_wait, io, is_set, point, point_beside, semantics_max, shift_ms, start};
#[cfg(feature = "failpoints")]
pub use switched_on::{end_wait, io, is_set, point, point_beside, semantics_max, shift_ms, start};

#[cfg(not(feature = "failpoints"))]
mod switched_off {
    use std::io;
    use std::time::Duration;

    /// A step that a test can crash or hold up. Does nothing in this build.
    #[inline(always)]
    pub fn point(_name: &'static str) {}

    /// A step of a task that a test can hold up while the rest of the node continues. Does nothing
    /// in this build.
    #[inline(always)]
    pub async fn point_beside(_name: &'static str) {}

    /// A step that a test can also make fail. Always returns `Ok` in this build.
    #[inline(always)]
    pub fn io(_name: &'static str) -> io::Result<()> {
        Ok(())
    }

    /// Returns whether a test has set this point. Always false in this build.
    #[inline(always)]
    pub fn is_set(_name: &'static str) -> bool {
        false
    }

    /// Returns how far a test has moved a clock. Always 0 in this build.
    #[inline(always)]
    pub fn shift_ms(_name: &'static str) -> i64 {
        0
    }

    /// Returns the newest semantics that a test lets this process run. Always `None` in this build.
    #[inline(always)]
    pub fn semantics_max() -> Option<u32> {
        None
    }

    /// Returns how long a process that ends waits for whoever reads its log, where a test says so.
    /// Always `None` in this build.
    #[inline(always)]
    pub fn end_wait() -> Option<Duration> {
        None
    }

    /// Starts to watch the file that a test names. Does nothing in this build.
    pub fn start() {}
}

#[cfg(feature = "failpoints")]
mod switched_on {
    use std::collections::BTreeMap;
    use std::io;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::time::Duration;

    use parking_lot::Mutex;

    use crate::logs::stderr;

    /// Time between two reads of the file.
    const LOOK_PAUSE: Duration = Duration::from_millis(5);
    /// Longest wait of a crash for whoever reads the log.
    const CRASH_WAIT: Duration = Duration::from_secs(1);

    /// Held while a point is set and the log is told. A point that acts waits for that, so that its
    /// deeds come after the line.
    static CHANGING: Mutex<()> = Mutex::new(());

    /// A step that a test can crash or hold up.
    pub fn point(name: &'static str) {
        drop(io(name));
    }

    /// A step of a task that a test can hold up while the rest of the node continues.
    pub async fn point_beside(name: &'static str) {
        tokio::task::spawn_blocking(move || point(name)).await.expect("a failpoint does not panic");
    }

    /// A step that a test can also make fail.
    pub fn io(name: &'static str) -> io::Result<()> {
        let Some(word) = fail::eval(name, |word| word.unwrap_or_default()) else { return Ok(()) };
        drop(CHANGING.lock());
        match word.as_str() {
            "crash" => {
                say(&format!("failpoint {name}: crash"));
                stderr::flush(CRASH_WAIT);
                // No destructor and no flush of anything but the log, like kill -9.
                std::process::abort();
            }
            "error" => Err(io::Error::from_raw_os_error(libc::EIO)),
            "full" => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            "descriptors" => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            word => unreachable!("failpoint {name}: {word:?} is none of crash, error, full, descriptors"),
        }
    }

    /// Returns whether a test has set this point to a task that fails.
    pub fn is_set(name: &'static str) -> bool {
        io(name).is_err()
    }

    /// Returns how far a test has moved a clock, in milliseconds.
    pub fn shift_ms(name: &'static str) -> i64 {
        let word = fail::eval(name, |word| word.unwrap_or_default());
        word.map_or(0, |word| word.parse().expect("a clock moves by a number of milliseconds"))
    }

    /// Returns the newest semantics that a test lets this process run. It is read once.
    pub fn semantics_max() -> Option<u32> {
        static MAX: OnceLock<Option<u32>> = OnceLock::new();
        *MAX.get_or_init(|| {
            let word = std::env::var("LOCKSTEP_SEMANTICS_MAX").ok()?;
            Some(word.parse().expect("LOCKSTEP_SEMANTICS_MAX is a number"))
        })
    }

    /// Returns how long a process that ends waits for whoever reads its log, where a test says so.
    pub fn end_wait() -> Option<Duration> {
        let word = std::env::var("LOCKSTEP_END_WAIT_MS").ok()?;
        Some(Duration::from_millis(word.parse().expect("LOCKSTEP_END_WAIT_MS is a number")))
    }

    /// Starts to watch the file that a test names, if one is named.
    pub fn start() {
        let Some(path) = std::env::var_os("LOCKSTEP_FAILPOINTS").map(PathBuf::from) else { return };
        let mut seen = String::new();
        let mut look = move || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text != seen {
                apply(&parse(&seen), &parse(&text));
                seen = text;
            }
        };
        look();
        std::thread::Builder::new()
            .name("failpoints".into())
            .spawn(move || {
                loop {
                    std::thread::sleep(LOOK_PAUSE);
                    look();
                }
            })
            .expect("a thread can be started");
    }

    fn parse(text: &str) -> BTreeMap<String, String> {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        lines.map(|(name, task)| (name.trim().to_owned(), task.trim().to_owned())).collect()
    }

    fn apply(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
        for name in before.keys().filter(|name| !now.contains_key(*name)) {
            fail::remove(name);
        }
        for (name, task) in now.iter().filter(|(name, task)| before.get(*name) != Some(task)) {
            let changing = CHANGING.lock();
            fail::cfg(name, task).expect("a test writes tasks that can be read");
            say(&format!("failpoint {name} is now {task}"));
            drop(changing);
        }
    }

    /// Hands a line over to the log, also where other lines are dropped.
    fn say(line: &str) {
        stderr::write_last(format!("{line}\n").as_bytes(), lost);
    }

    /// Returns the line that says that lines before it are missing.
    fn lost(count: u64) -> String {
        format!("{count} lines before this one could not be written")
    }
}
