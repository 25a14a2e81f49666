//! Runs a built component under test: finds the file, and starts the programs that run it,
//! `lockstep guest serve`. The programs hold no state: the call's host in this process answers the
//! guest's requests. A broken program is not an outcome of the guest; it ends the test.

use std::any::Any;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::frames::{self, Answer, Came, Hello, Said};
use super::host::{self, Call};
use super::program::Program;
use crate::context::Predecessor;
use crate::dispatch::Machine;
use crate::log::Level;
use crate::status::Status;

/// Environment variable with the path of the component for all tests of a run.
const COMPONENT: &str = "LOCKSTEP_COMPONENT";

/// Environment variable with the path of the program that runs the component. Without it,
/// `lockstep` is looked up in PATH.
const PROGRAM: &str = "LOCKSTEP";

/// A built component that a [`Harness`](super::Harness) runs in the sandbox of a node.
///
/// The sandbox has a node's limits of fuel, memory and stack.
///
/// With `LOCKSTEP_COMPONENT=<file.wasm>` every harness gets a component. Use this type in a test
/// that needs a component even when that variable is not set.
#[derive(Clone)]
pub struct Component(Arc<Inner>);

struct Inner {
    file: PathBuf,
    program: PathBuf,
    hello: Hello,
    /// Programs that run no call now. Tests run in parallel, and a program runs one call at a time.
    idle: Mutex<Vec<Program>>,
}

/// The error when a component cannot be tested.
#[derive(Clone, PartialEq, Eq)]
pub struct ComponentError(String);

impl Component {
    /// Starts the program that `LOCKSTEP` names, or `lockstep`, with a component.
    ///
    /// A relative path is looked for in the directory of the package, where cargo runs tests, and
    /// in the directories above it up to the workspace's.
    ///
    /// # Errors
    /// When the program or the file does not exist, or when a node would refuse the component.
    pub fn open(file: impl AsRef<Path>) -> Result<Self, ComponentError> {
        Self::open_with(named_program(), file)
    }

    /// Does what [`open`](Self::open) does, with the `lockstep` program of this path.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(program: impl Into<OsString>, file: impl AsRef<Path>) -> Result<Self, ComponentError> {
        let here = std::env::current_dir().map_err(|error| ComponentError(format!("no current directory: {error}")))?;
        let file = found(&here, file.as_ref())?;
        let program = program_at(&here, program.into());
        let (first, hello) = Program::start(&program, &file).map_err(|problem| ComponentError::of(&file, &problem))?;
        Ok(Self(Arc::new(Inner { file, program, hello, idle: Mutex::new(vec![first]) })))
    }

    /// Returns the component that `LOCKSTEP_COMPONENT` names, opened once per process.
    ///
    /// # Panics
    /// When the component cannot be tested.
    pub(super) fn given() -> Option<Self> {
        static GIVEN: OnceLock<Option<Result<Component, ComponentError>>> = OnceLock::new();
        let given = GIVEN.get_or_init(|| {
            let file = std::env::var_os(COMPONENT).filter(|file| !file.is_empty())?;
            Some(Self::open(PathBuf::from(file)))
        });
        match given {
            None => None,
            Some(Ok(component)) => Some(component.clone()),
            Some(Err(error)) => panic!("{error}"),
        }
    }

    /// Returns the path of the program that runs the component.
    pub(super) fn program(&self) -> &Path {
        &self.0.program
    }

    /// Checks that the component serves all methods of the machine.
    ///
    /// # Panics
    /// When it does not.
    pub(super) fn assert_serves<M: Machine>(&self) {
        let own: BTreeSet<String> =
            M::METHODS.iter().flat_map(|service| service.iter()).map(|method| format!("{method:?}")).collect();
        let lacking: Vec<&str> =
            own.iter().filter(|method| !self.0.hello.methods.contains(method)).map(String::as_str).collect();
        assert!(
            lacking.is_empty(),
            "{} (component {}) does not serve what these tests are for: it lacks\n  {}\nand has\n  {}\nIs it the component of another guest, or \
             older than its source?",
            self.0.file.display(),
            self.0.hello.component,
            lacking.join("\n  "),
            self.0.hello.methods.join("\n  "),
        );
    }

    /// Checks that the component exports what the machine's `migrate!` makes.
    ///
    /// # Panics
    /// When it does not.
    pub(super) fn assert_migrates(&self) {
        let file = self.0.file.display();
        assert!(self.0.hello.migrates, "{file} does not export `migrator`; is it older than its source?");
    }

    /// Returns hash and version, as the successor sees them.
    pub(super) fn as_predecessor(&self) -> Predecessor {
        let Hello { component, version, .. } = &self.0.hello;
        let byte = |at: usize| component.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let hash = std::array::from_fn(|at| byte(2 * at).unwrap_or_default());
        Predecessor { hash, version: version.clone() }
    }

    /// Runs a call in an instance of its own, with `call` as its host. On an error its writes are
    /// undone.
    ///
    /// # Panics
    /// When the program breaks.
    pub(super) fn run(&self, call: Call, frame: frames::Call) -> (Call, Result<Came, Status>) {
        let frame = frames::Call { caller: call.caller.clone(), ..frame };
        let mut broken = None;
        let ran = call.run(|| match self.ask(frame) {
            Ok(Came::Status(status)) => Err(Status::from_parts(status.code, status.message, status.details)),
            Ok(came) => Ok(came),
            Err(problem) => {
                let status = Status::internal("the program that runs the component broke");
                broken = Some(problem);
                Err(status)
            }
        });
        match broken {
            Some(problem) => panic!("{problem}"),
            None => ran,
        }
    }

    fn ask(&self, call: frames::Call) -> Result<Came, ComponentError> {
        let broke = |problem: String| ComponentError::of(&self.0.file, &problem);
        // A test that panics does not hold this lock, and the list contains only programs between
        // calls, so a poisoned lock is harmless.
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut program = match idle {
            Some(program) => program,
            None => Program::start(&self.0.program, &self.0.file).map_err(broke)?.0,
        };
        match converse(&mut program, call) {
            Err(problem) => Err(broke(program.end(&problem))),
            Ok(ended) => {
                self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).push(program);
                ended.or_else(|status| resume_unwind(status))
            }
        }
    }
}

/// Result of a call: what the program sent, or the unwinding payload of the call's host, which
/// ended the call.
type Ended = Result<Came, Box<dyn Any + Send>>;

fn converse(program: &mut Program, call: frames::Call) -> Result<Ended, String> {
    program.call(call)?;
    let mut stopped = None;
    loop {
        let said = match program.listen()? {
            Said::Log(line) => {
                host::log(level(line.level()), &line.text);
                continue;
            }
            Said::Outcome(outcome) => {
                return match (stopped, outcome.came) {
                    (Some(status), _) => Ok(Err(status)),
                    (None, Some(came)) => Ok(Ok(came)),
                    (None, None) => Err("a call has no outcome".to_owned()),
                };
            }
            Said::Hello(_) => return Err("it says hello in the middle of a call".to_owned()),
            asked => asked,
        };
        let answer = catch_unwind(AssertUnwindSafe(|| answer(said))).unwrap_or_else(|status| {
            stopped = Some(status);
            Answer { ended: true, ..Answer::default() }
        });
        program.answer(answer)?;
    }
}

/// Answers a request of the guest with the functions that also serve native code.
fn answer(asked: Said) -> Answer {
    let mut answer = Answer::default();
    match asked {
        Said::Get(key) => answer.bytes = host::get(&key),
        Said::Scan(range) => {
            let page = host::scan(&range.start, range.end.as_deref(), range.reverse, range.limit);
            (answer.bytes, answer.more) = (Some(page.rows), page.more);
        }
        Said::Put(row) => host::put(&row.key, &row.value),
        Said::Remove(key) => host::remove(&key),
        Said::RemoveRange(range) => {
            answer.removed = host::remove_range(&range.start, range.end.as_deref(), range.limit);
        }
        Said::NodeStatus(_) => answer.bytes = Some(host::node_status().into_bytes()),
        Said::SinkWrite(chunk) => host::sink_write(&chunk),
        Said::SourceRead(bytes_max) => answer.bytes = Some(host::source_read(bytes_max)),
        Said::Hello(_) | Said::Outcome(_) | Said::Log(_) => unreachable!("these ask for nothing"),
    }
    answer
}

fn level(level: frames::Level) -> Level {
    match level {
        frames::Level::Debug => Level::Debug,
        frames::Level::Info => Level::Info,
        frames::Level::Warn => Level::Warn,
        frames::Level::Error => Level::Error,
    }
}

/// Returns the absolute path of the component's file.
fn found(here: &Path, file: &Path) -> Result<PathBuf, ComponentError> {
    let tried: Vec<PathBuf> = above(here).into_iter().map(|directory| directory.join(file)).collect();
    if let Some(found) = tried.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let mut tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    tried.dedup();
    Err(ComponentError(format!(
        "there is no component {}\nlooked for\n  {}\nBuild it first, with `cargo build --release --target wasm32-unknown-unknown`, and name it with \
         {COMPONENT}; without {COMPONENT} the tests run natively",
        file.display(),
        tried.join("\n  "),
    )))
}

/// Returns the value of `LOCKSTEP`.
fn named_program() -> OsString {
    std::env::var_os(PROGRAM).unwrap_or_default()
}

/// Returns the program that `LOCKSTEP` names, or `lockstep`, for tests that run in this directory.
pub(super) fn program_in(here: &Path) -> PathBuf {
    program_at(here, named_program())
}

/// Looks for a path as for the component's file. A bare name is left to PATH.
fn program_at(here: &Path, program: OsString) -> PathBuf {
    if program.is_empty() {
        return PathBuf::from("lockstep");
    }
    let program = PathBuf::from(program);
    if program.components().count() < 2 {
        return program;
    }
    above(here).into_iter().map(|directory| directory.join(&program)).find(|path| path.is_file()).unwrap_or(program)
}

/// Returns the directory and those above it, up to the workspace's, which contains the lock file.
fn above(here: &Path) -> Vec<&Path> {
    let mut directories = Vec::new();
    for directory in here.ancestors() {
        directories.push(directory);
        if directory.join("Cargo.lock").is_file() {
            return directories;
        }
    }
    // There is no cargo workspace, so only the given directory counts.
    vec![here]
}

impl ComponentError {
    fn of(file: &Path, problem: &str) -> Self {
        Self(format!("the component {} cannot be tested: {problem}", file.display()))
    }
}

impl fmt::Display for ComponentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Shows the plain text, so that `expect` and `?` in a test print it unchanged.
impl fmt::Debug for ComponentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ComponentError {}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Component({}, {})", self.0.file.display(), self.0.hello.component)
    }
}
