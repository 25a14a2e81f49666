//! One running process, from its start to its end. It is killed at the latest when the value is
//! dropped. What the process prints goes where its starter says, and is not interpreted.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time between two looks whether a process has ended.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Longest wait for the last lines of a process that has ended. A child of it may hold its output
/// open.
const LAST_LINES_TIME_MAX: Duration = Duration::from_millis(500);

/// One of the two outputs of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its stdout.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// Takes one line of the output.
pub type TakeLine = dyn Fn(Stream, &str) + Send + Sync;

/// Where the output of a process goes.
pub enum Output {
    /// Both streams go to this file.
    File(File),
    /// Each line goes to this function, on a thread for each stream. See [`Output::lines`].
    Lines(Arc<TakeLine>),
}

impl Output {
    /// Gives each line, without its end, to `take`. Bytes that are not UTF-8 are replaced.
    pub fn lines(take: impl Fn(Stream, &str) + Send + Sync + 'static) -> Output {
        Output::Lines(Arc::new(take))
    }
}

/// A process that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Threads that read the output.
    readers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command in a process group of its own: Ctrl-C reaches a whole group, and only this
    /// program may stop the process.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn start(name: &str, command: &mut Command, output: Output) -> io::Result<Process> {
        match &output {
            Output::File(file) => command.stdout(file.try_clone()?).stderr(file.try_clone()?),
            Output::Lines(_) => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        };
        let child = command.process_group(0).spawn()?;
        let mut process = Process { name: name.to_owned(), child, readers: Vec::new(), ended: None };
        if let Output::Lines(take) = output {
            if let Some(stdout) = process.child.stdout.take() {
                process.read(stdout, Stream::Stdout, take.clone())?;
            }
            if let Some(stderr) = process.child.stderr.take() {
                process.read(stderr, Stream::Stderr, take)?;
            }
        }
        Ok(process)
    }

    fn read(&mut self, from: impl Read + Send + 'static, stream: Stream, take: Arc<TakeLine>) -> io::Result<()> {
        let work = move || read_lines(from, |line| take(stream, line));
        self.readers.push(std::thread::Builder::new().name("output".into()).spawn(work)?);
        Ok(())
    }

    /// Returns the name that was given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns how the process ended, if it has. By then its lines were handed out.
    ///
    /// # Errors
    /// The system does not say.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
            if self.ended.is_some() {
                self.take_last_lines();
            }
        }
        Ok(self.ended)
    }

    /// Waits until the process has ended, for `limit` at most. Returns `None` if it goes on.
    ///
    /// # Errors
    /// The system does not say.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended, as far as this value knows.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.ended.is_some() {
            return Err(io::Error::other(format!("{} has ended", self.name)));
        }
        // Its number belongs to nobody else, because it was not waited for to its end.
        let id = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(id), signal)?)
    }

    /// Closes the process's stdin. A node stops then, as it does when the program that started it
    /// has died.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends SIGKILL and waits for the end.
    ///
    /// # Errors
    /// The system does not allow it.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        self.child.kill()?;
        let ended = self.child.wait()?;
        self.ended = Some(ended);
        self.take_last_lines();
        Ok(ended)
    }

    fn take_last_lines(&mut self) {
        let deadline = Instant::now() + LAST_LINES_TIME_MAX;
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that there is nothing left to kill.
        drop(self.kill());
    }
}

fn read_lines(from: impl Read, take: impl Fn(&str)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match from.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let text = text.strip_suffix('\n').unwrap_or(&text);
                take(text.strip_suffix('\r').unwrap_or(text));
            }
            Err(error) => return take(&format!("(its output cannot be read: {error})")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::sync::mpsc::{self, Receiver};

    use super::*;

    /// Far more than anything here needs.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> (Process, Receiver<(Stream, String)>) {
        let (sender, lines) = mpsc::channel();
        let output = Output::lines(move |stream, line| drop(sender.send((stream, line.to_owned()))));
        let mut command = Command::new("sh");
        let process = Process::start("it", command.args(["-c", script]).stdin(Stdio::piped()), output).unwrap();
        (process, lines)
    }

    #[test]
    fn lines_of_both_streams_are_handed_out_before_the_end_is_said() {
        let (mut process, lines) = shell("echo one; printf 'tw\\377' >&2; exit 3");
        assert_eq!(process.wait(PATIENCE).unwrap().unwrap().code(), Some(3));
        let mut said: Vec<_> = lines.try_iter().map(|(stream, line)| (format!("{stream:?}"), line)).collect();
        said.sort();
        assert_eq!(said, [("Stderr".into(), "tw\u{fffd}".into()), ("Stdout".into(), "one".into())]);
    }

    #[test]
    fn a_closed_stdin_and_a_signal_are_noticed() {
        let (mut process, _lines) = shell("read nothing; exit 7");
        assert_eq!(process.try_wait().unwrap(), None);
        process.close_stdin();
        assert_eq!(process.wait(PATIENCE).unwrap().unwrap().code(), Some(7));
        assert!(process.signal(Signal::SIGTERM).is_err(), "nobody else gets it");

        let (mut process, _lines) = shell("read nothing");
        process.signal(Signal::SIGTERM).unwrap();
        assert_eq!(process.wait(PATIENCE).unwrap().unwrap().signal(), Some(Signal::SIGTERM as i32));
    }

    #[test]
    fn what_goes_on_is_left_after_the_limit_and_killed_when_it_is_dropped() {
        let (mut process, lines) = shell("echo up; exec sleep 600");
        assert_eq!(lines.recv_timeout(PATIENCE).unwrap().1, "up");
        assert_eq!(process.wait(Duration::from_millis(20)).unwrap(), None);
        let id = i32::try_from(process.id()).unwrap();
        drop(process);
        assert!(kill(Pid::from_raw(id), None).is_err(), "it runs");
    }

    #[test]
    fn ctrl_c_does_not_reach_it() {
        let (process, _lines) = shell("exec sleep 600");
        let group = nix::unistd::getpgid(Some(Pid::from_raw(i32::try_from(process.id()).unwrap()))).unwrap();
        assert_ne!(group, nix::unistd::getpgrp());
    }

    #[test]
    fn both_streams_go_to_a_file() {
        let directory = std::env::temp_dir().join(format!("lockstep-processes-{}", std::process::id()));
        let file = File::create(&directory).unwrap();
        let mut command = Command::new("sh");
        let mut process = Process::start("it", command.args(["-c", "echo a; echo b >&2"]), Output::File(file)).unwrap();
        process.wait(PATIENCE).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&directory).unwrap(), "a\nb\n");
        std::fs::remove_file(directory).unwrap();
    }
}
