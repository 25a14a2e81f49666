//! Other people's clients, as they come from their registries: gRPC for Python and for Go, and
//! `openssl s_client`. They know nothing of Lockstep. Python needs `python3` with `venv`, Go needs
//! `go`; each needs the network at its first use, and is kept in the target directory after that.
//! None is left out unless [`LEFT_OUT`] names it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;

use crate::PATIENCE;

/// The variable with the languages, separated by commas, whose clients this machine cannot have.
pub const LEFT_OUT: &str = "LOCKSTEP_CLIENTS_LEFT_OUT";

/// How a client of HTTP/2 begins, with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Kind, flags and stream of the frame with which a server answers.
const SETTINGS: &[u8] = &[4, 0, 0, 0, 0, 0];
/// Kind, flags and stream of the frame with which a server takes the client's.
const TAKEN: &[u8] = &[4, 1, 0, 0, 0, 0];
/// Time between two looks at what was printed.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Version of gRPC for Python.
const GRPCIO: &str = "grpcio==1.75.1";

/// A client that was installed.
#[derive(Clone, Debug)]
pub struct Stock {
    /// Its language.
    pub name: &'static str,
    words: Vec<String>,
}

/// What a client shows and trusts. All are files but the token.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The authorities that it trusts. Without them it does not speak TLS.
    pub ca: Option<PathBuf>,
    /// Its certificate and the key of it.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Its token.
    pub token: Option<String>,
    /// The name that it expects in the node's certificate.
    pub server_name: Option<String>,
}

/// Installs the client of a language, and returns the words that run it.
type Install = fn() -> Result<Vec<String>>;

impl Stock {
    /// Returns the clients, which are installed at the first call. None, if [`LEFT_OUT`] names all.
    ///
    /// # Errors
    /// One cannot be installed, and [`LEFT_OUT`] does not name it.
    pub fn all() -> Result<Vec<Stock>> {
        // Two tests would install the same at once.
        static ALL: Mutex<Option<Vec<Stock>>> = Mutex::new(None);
        let mut all = ALL.lock().expect("no holder panics");
        if let Some(known) = &*all {
            return Ok(known.clone());
        }
        let left_out = std::env::var(LEFT_OUT).unwrap_or_default();
        let languages: [(&'static str, Install); 2] = [("python", python), ("go", go)];
        let mut installed = Vec::new();
        for (name, install) in languages {
            if left_out.split(',').any(|word| word.trim() == name) {
                eprintln!("LEFT OUT: no client in {name} is tried, for {LEFT_OUT} names it");
                continue;
            }
            let problem = || format!("there is no client in {name} here; {LEFT_OUT}={name} would leave it out");
            installed.push(Stock { name, words: install().with_context(problem)? });
        }
        *all = Some(installed.clone());
        Ok(installed)
    }

    /// Makes a call with one message each way. Returns `OK: ` and the reply in base64, which
    /// [`reply`] reads, or the code of the status and its text.
    pub fn call(&self, address: &str, shown: &Shown, method: &str, request: &impl Message) -> Result<String> {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).arg(address);
        command.args(["--method", method, "--request", &STANDARD.encode(request.encode_to_vec())]);
        let mut give = |flag: &str, value: &Option<String>| {
            if let Some(value) = value {
                command.arg(flag).arg(value);
            }
        };
        let text = |path: &PathBuf| path.display().to_string();
        give("--ca", &shown.ca.as_ref().map(text));
        give("--cert", &shown.identity.as_ref().map(|(certificate, _)| text(certificate)));
        give("--key", &shown.identity.as_ref().map(|(_, key)| text(key)));
        give("--token", &shown.token);
        give("--server_name", &shown.server_name);
        let out = command.stdin(Stdio::null()).output().with_context(|| format!("{} does not start", self.name))?;
        ensure!(out.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    }
}

/// Returns the reply in what [`Stock::call`] returned.
pub fn reply<M: Message + Default>(said: &str) -> Result<M> {
    let text = said.strip_prefix("OK:").with_context(|| format!("it was refused: {said}"))?;
    Ok(M::decode(&*STANDARD.decode(text.trim())?)?)
}

/// Returns whether the other end has served HTTP/2, by what [`openssl`] returned.
pub fn is_served(heard: &[u8]) -> bool {
    heard.windows(SETTINGS.len()).any(|part| part == SETTINGS)
}

/// Sends the beginning of HTTP/2 without TLS. Returns what the other end sends until it ends the
/// connection. Fails if it serves: it has then taken the client's SETTINGS. Who only says why it
/// ends the connection has not.
pub fn in_plain_text(address: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(PREFACE)?;
    let (mut heard, mut part) = (Vec::new(), [0; 4096]);
    loop {
        ensure!(!heard.windows(TAKEN.len()).any(|part| part == TAKEN), "plain text is served: {heard:?}");
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => heard.extend_from_slice(&part[..count]),
            // What it did not read makes its end a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error).context("the other end neither serves nor ends the connection"),
        }
    }
    Ok(heard)
}

/// Runs `openssl s_client` with these words against an address, until the other end refuses it or
/// sends the first frame of HTTP/2. Returns all that it printed.
pub fn openssl(address: &str, words: &[&str]) -> Result<String> {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", address])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("openssl is needed")?;
    let printed = Arc::<Mutex<Vec<u8>>>::default();
    let readers = [
        collect(child.stdout.take().context("piped")?, printed.clone()),
        collect(child.stderr.take().context("piped")?, printed.clone()),
    ];
    // With TLS 1.3 a refusal comes after the handshake, so the client has to go on. Whether it can
    // write does not matter.
    let mut stdin = child.stdin.take().context("piped")?;
    drop(stdin.write_all(PREFACE).and_then(|()| stdin.flush()));
    let deadline = Instant::now() + PATIENCE;
    let is_done = |child: &mut Child| -> Result<bool> {
        Ok(child.try_wait()?.is_some() || is_served(&printed.lock().expect("no holder panics")))
    };
    let mut done = is_done(&mut child);
    while matches!(done, Ok(false)) && Instant::now() < deadline {
        std::thread::sleep(LOOK_PAUSE);
        done = is_done(&mut child);
    }
    // Also before a failure: no process outlives the test.
    child.kill()?;
    child.wait()?;
    readers.into_iter().for_each(|reader| drop(reader.join()));
    let printed = printed.lock().expect("no holder panics");
    let said = String::from_utf8_lossy(&printed).into_owned();
    ensure!(done?, "openssl neither ends nor is served, and printed:\n{said}");
    Ok(said)
}

/// Reads to the end in a thread of its own.
fn collect(mut from: impl Read + Send + 'static, to: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut part) {
            to.lock().expect("no holder panics").extend_from_slice(&part[..count]);
        }
    })
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("stock")
}

/// Returns the directory in which clients are kept.
fn kept() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    // The test lies in <target>/release/deps.
    let target = program.ancestors().nth(3).context("the test lies in a target directory")?;
    let kept = target.join("stock-clients");
    std::fs::create_dir_all(&kept)?;
    Ok(kept)
}

fn python() -> Result<Vec<String>> {
    let environment = kept()?.join("python");
    let python = environment.join("bin/python");
    let script = sources().join("client.py").display().to_string();
    let has_grpc = |python: &Path| {
        let probe =
            Command::new(python).args(["-c", "import grpc"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    if !has_grpc(&python) {
        succeeded(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        succeeded(Command::new(&python).args(["-m", "pip", "install", "--quiet", GRPCIO]))?;
    }
    Ok(vec![python.display().to_string(), script])
}

fn go() -> Result<Vec<String>> {
    let program = kept()?.join("go-client");
    let mut build = Command::new("go");
    build.current_dir(sources().join("go")).args(["build", "-o"]).arg(&program).arg(".");
    succeeded(&mut build)?;
    Ok(vec![program.display().to_string()])
}

fn succeeded(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("{program} does not start"))?;
    match out.status.success() {
        true => Ok(out),
        false => bail!("{program}: {}", String::from_utf8_lossy(&out.stderr)),
    }
}
