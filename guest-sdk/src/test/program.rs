//! Runs one `lockstep guest serve`: starts it, exchanges frames with it, and ends it. The program
//! ends when this end of its pipe closes, however this process ends. This file does not interpret
//! the frames.

use std::ffi::OsStr;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use super::frames::{self, Answer, Call, FromGuest, Hello, PROTOCOL, Said, ToGuest, Told};

/// A running program. Dropping it ends the program.
pub(super) struct Program {
    name: String,
    child: Child,
    from: BufReader<ChildStdout>,
    /// Collects the program's stderr, so that the program never waits for a reader.
    complaints: Option<JoinHandle<String>>,
}

impl Program {
    /// Starts the program with a component. Fails if a node would refuse the component.
    pub(super) fn start(program: &Path, file: &Path) -> Result<(Self, Hello), String> {
        let mut command = Command::new(program);
        command.args([OsStr::new("guest"), OsStr::new("serve"), file.as_os_str()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| not_started(program, &error))?;
        let from = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut stderr = child.stderr.take().expect("it is piped");
        let complaints = std::thread::spawn(move || {
            let mut text = Vec::new();
            match stderr.read_to_end(&mut text) {
                Ok(_) => String::from_utf8_lossy(&text).into_owned(),
                Err(error) => format!("{}\n(and no more can be read: {error})", String::from_utf8_lossy(&text)),
            }
        });
        let mut program = Self { name: program.display().to_string(), child, from, complaints: Some(complaints) };
        match program.hello() {
            Ok(hello) => Ok((program, hello)),
            Err(problem) => Err(program.end(&problem)),
        }
    }

    fn hello(&mut self) -> Result<Hello, String> {
        let Said::Hello(hello) = self.listen()? else {
            return Err("it does not say hello first".to_owned());
        };
        if hello.protocol != PROTOCOL {
            return Err(format!(
                "it is Lockstep {} and speaks version {} of the harness's protocol; this SDK speaks version {PROTOCOL}: take both from the same \
                 checkout",
                hello.program, hello.protocol
            ));
        }
        Ok(hello)
    }

    pub(super) fn call(&mut self, call: Call) -> Result<(), String> {
        self.tell(Told::Call(call))
    }

    pub(super) fn answer(&mut self, answer: Answer) -> Result<(), String> {
        self.tell(Told::Answer(answer))
    }

    fn tell(&mut self, told: Told) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        frames::write(stdin, &ToGuest { told: Some(told) }).map_err(|error| format!("it cannot be told: {error}"))
    }

    pub(super) fn listen(&mut self) -> Result<Said, String> {
        let frame: Option<FromGuest> =
            frames::read(&mut self.from).map_err(|error| format!("it cannot be understood: {error}"))?;
        let frame = frame.ok_or("it ended")?;
        frame.said.ok_or_else(|| "it says what this SDK does not know".to_owned())
    }

    /// Ends the program and describes how it ended, with its stderr if it wrote any.
    pub(super) fn end(mut self, problem: &str) -> String {
        // A program that has ended by itself keeps its exit code. Otherwise it is killed.
        drop(self.child.stdin.take());
        let ended = match self.child.try_wait() {
            Ok(None) => self.child.kill().and_then(|()| self.child.wait()),
            Ok(Some(status)) => Ok(status),
            Err(error) => Err(error),
        };
        let ended = ended.map_or_else(|error| format!("unknown end: {error}"), |status| status.to_string());
        let complaints = self.complaints.take().map(|reader| reader.join().expect("reading does not panic"));
        let complaints = complaints.unwrap_or_default();
        let name = &self.name;
        format!("`{name} guest serve`: {problem} ({ended})\n{}", complaints.trim_end())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both calls fail for a program that has ended, which is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn not_started(program: &Path, error: &std::io::Error) -> String {
    let name = program.display();
    let what = match error.kind() {
        ErrorKind::NotFound => {
            let place = if program.components().count() < 2 { " in PATH" } else { "" };
            format!("it runs in the program `{name}`, and there is none{place}")
        }
        _ => format!("it runs in the program `{name}`, which cannot be started: {error}"),
    };
    format!("{what}\nset LOCKSTEP to the path of `lockstep`, or unset LOCKSTEP_COMPONENT to run the tests natively")
}
