//! The places where a test can make this process crash, fail or wait: `faults::point` and `faults::io`, by name.
//! In a build without the feature `failpoints` every call is empty. Owns no policy: which point fails, and how, a test writes to a file.
//!
//! With the feature, `LOCKSTEP_FAILPOINTS` names a file that is looked at every few milliseconds. Each of its lines is `name=task`, the
//! task in the words of the `fail` crate. `return(crash)` ends the process as `kill -9` would, `return(error)` and `return(full)` make
//! an IO step fail (EIO, ENOSPC), `sleep(500)` holds it up, `5*off->1*return(error)` skips five first, `off` ends it. Points that a later version of the file does
//! not name are off. At a clock, `return(-2000)` sets it back by two seconds.
//!
//! | name | where | what an error does |
//! |---|---|---|
//! | `log-before-sync` `log-after-sync` | entries, before and after their write and fsync | ends the node |
//! | `vote-before-sync` `vote-after-sync` | the same for a vote | ends the node |
//! | `truncate-before-sync` `truncate-after-sync` | the same for a cut of the log's end | ends the node |
//! | `purge-before-sync` `purge-after-sync` | the same for a cut of its beginning | ends the node |
//! | `identity-before-sync` `identity-after-sync` | the same for the identity | the start fails, or the join |
//! | `synced-before-write` `synced-after-write` | the rewrite of `SYNCED` after an fsync | ends the node |
//! | `log-skip-sync` | any task: the log is written and not fsynced | nothing, until a power cut |
//! | `log-read` | a read of the log from disk | ends the node |
//! | `state-before-flush` `state-after-flush` | the flush of the state | ENOSPC: tried again; else ends the node |
//! | `state-read` | a read of the newest state while an entry is applied | ends the node |
//! | `state-cramped` | any task, when a state is opened: no cache, small files, compaction all the time | nothing |
//! | `state-piled` | any task, when a state is opened: files pile up, and are compacted all into one | nothing |
//! | `view-read` | a read of the state for a query or a watch | ends the node |
//! | `checkpoint-before-make` `checkpoint-before-publish` | a checkpoint, and its rename | no snapshot is made |
//! | `checkpoint-after-publish` | after that; can only crash or wait | |
//! | `install-before-flush` `install-before-current` `install-after-current` | a new state, before and after CURRENT names it | ends the node |
//! | `membership-caught-up` | a learner that is to vote has caught up, and the leader has not looked again at its own lead | can only crash or wait |
//! | `membership-before-voters` | the leader is about to propose the entry that gives or takes a vote | can only crash or wait |
//! | `membership-after-voters` | that entry is applied on the leader, and nobody was told yet | can only crash or wait |
//! | `recover-after-identity` | `lockstep recover` has raised the incarnation | can only crash or wait |
//! | `recover-after-vote` | and saved the vote of its new term; the configuration is not written | can only crash or wait |
//! | `apply-diverge` | any task: the state of this node becomes another one than the cluster's | its hash differs |
//! | `guest-diverge` | any task: the guest of this node writes other values than those of the others | its hash differs |
//! | `build-differs` | any task: this node says that it runs guests by another build of the engine | the nodes warn |
//! | `apply-entry` | before an entry is applied | can only crash or wait |
//! | `clock-shift` | the wall clock of log time (what stamps entries, what other nodes hear, what founds a cluster), moved by a number of milliseconds | |
//! | `peer-skip-append` | any task, before a stream begins: a follower says to have stored what it did not | nothing, until the leader is lost |
//! | `read-skip-index` | any task: a linearizable read asks no leader | a stale answer |
//! | `peer-append-refused` | an append has arrived on a stream of the leader | the stream ends |
//! | `peer-transfer-refused` | a hand-over of leadership has arrived | it is not taken |
//! | `probe-refused` | whether anybody listens at a peer's port | nobody does |
//! | `snapshot-send-frame` | a sender is about to hand over a frame | can only crash or wait |
//! | `snapshot-receive-frame` | a receiver has got a frame and not looked at it | can only crash or wait |
//! | `snapshot-install` | a received state is complete, nothing of it is in force | openraft's core stops |
//! | `raft-core` | openraft's core is about to apply; `panic` ends the core and not the process | can only crash or wait |

#[cfg(not(feature = "failpoints"))]
pub use switched_off::{io, is_set, point, point_beside, shift_ms, start};
#[cfg(feature = "failpoints")]
pub use switched_on::{io, is_set, point, point_beside, shift_ms, start};

#[cfg(not(feature = "failpoints"))]
mod switched_off {
    use std::io;

    /// A step that a test can crash or hold up. Nothing in this build.
    #[inline(always)]
    pub fn point(_name: &'static str) {}

    /// A step of a task that a test can hold up while the rest of the node goes on. Nothing in this build.
    #[inline(always)]
    pub async fn point_beside(_name: &'static str) {}

    /// A step that a test can also make fail. Always `Ok` in this build.
    #[inline(always)]
    pub fn io(_name: &'static str) -> io::Result<()> {
        Ok(())
    }

    /// Whether a test has asked for this. Never in this build.
    #[inline(always)]
    pub fn is_set(_name: &'static str) -> bool {
        false
    }

    /// How far a test has moved a clock. Always 0 in this build.
    #[inline(always)]
    pub fn shift_ms(_name: &'static str) -> i64 {
        0
    }

    /// Begins to look at the file that a test names. Nothing in this build.
    pub fn start() {}
}

#[cfg(feature = "failpoints")]
mod switched_on {
    use std::collections::BTreeMap;
    use std::io;
    use std::path::PathBuf;
    use std::time::Duration;

    /// Between two looks at the file.
    const LOOK_PAUSE: Duration = Duration::from_millis(5);

    /// A step that a test can crash or hold up.
    pub fn point(name: &'static str) {
        drop(io(name));
    }

    /// A step of a task that a test can hold up while the rest of the node goes on.
    pub async fn point_beside(name: &'static str) {
        tokio::task::spawn_blocking(move || point(name)).await.expect("a failpoint does not panic");
    }

    /// A step that a test can also make fail.
    pub fn io(name: &'static str) -> io::Result<()> {
        match fail::eval(name, |word| word.unwrap_or_default()).as_deref() {
            None => Ok(()),
            Some("crash") => {
                eprintln!("failpoint {name}: crash");
                // No destructor and no flush, like kill -9.
                std::process::abort();
            }
            Some("error") => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some("full") => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Some(word) => unreachable!("failpoint {name}: {word:?} is none of crash, error, full"),
        }
    }

    /// Whether a test has asked for this, with a task that fails.
    pub fn is_set(name: &'static str) -> bool {
        io(name).is_err()
    }

    /// How far a test has moved a clock, in milliseconds.
    pub fn shift_ms(name: &'static str) -> i64 {
        let word = fail::eval(name, |word| word.unwrap_or_default());
        word.map_or(0, |word| word.parse().expect("a clock moves by a number of milliseconds"))
    }

    /// Begins to look at the file that a test names, if one is named.
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
            eprintln!("failpoint {name} is now {task}");
            fail::cfg(name, task).expect("a test writes tasks that can be read");
        }
    }
}
