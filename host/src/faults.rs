//! The places where a test can make this process crash, fail or wait: `faults::point` and `faults::io`, by name.
//! In a build without the feature `failpoints` every call is empty. Owns no policy: which point fails, and how, a test writes to a file.
//!
//! With the feature, `LOCKSTEP_FAILPOINTS` names a file that is looked at every few milliseconds. Each of its lines is `name=task`, the
//! task in the words of the `fail` crate. `return(crash)` ends the process as `kill -9` would, `return(error)` and `return(full)` make
//! an IO step fail (EIO, ENOSPC), `sleep(500)` holds it up, `5*off->1*return(error)` skips five first, `off` ends it. Points that a later version of the file does
//! not name are off.
//!
//! | point | where | crash | fail |
//! |---|---|---|---|
//! | `snapshot-send-frame` | a sender is about to hand over a frame | yes | no |
//! | `snapshot-receive-frame` | a receiver has got a frame and not looked at it | yes | no |
//! | `snapshot-install` | a received state is complete, nothing of it is in force | yes | openraft's core stops |
//! | `raft-core` | openraft's core is about to apply; `panic` ends the core and not the process | yes | no |

#[cfg(not(feature = "failpoints"))]
pub use switched_off::{io, point, start};
#[cfg(feature = "failpoints")]
pub use switched_on::{io, point, start};

#[cfg(not(feature = "failpoints"))]
mod switched_off {
    use std::io;

    /// A step that a test can crash or hold up. Nothing in this build.
    #[inline(always)]
    pub fn point(_name: &'static str) {}

    /// A step that a test can also make fail. Always `Ok` in this build.
    #[inline(always)]
    pub fn io(_name: &'static str) -> io::Result<()> {
        Ok(())
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
