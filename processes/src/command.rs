//! The command line of one node, and the surroundings in which its process starts. It knows flags
//! of `lockstep node`, and does not wait for anything.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Node, Output, Process};

/// Variables with this prefix are settings of a node. Those that a person set for an ordinary node
/// are not meant for the nodes that are started here.
const VARIABLES: &str = "LOCKSTEP_";

/// Stops the node when its end of the pipe closes, which happens even when the program that started
/// it is killed. It is no flag for people.
const EXIT_WITH_ITS_PARENT: &str = "--exit_on_stdin_close";

/// The files with which a node speaks TLS, at either port.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Its certificate.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The authorities that it trusts.
    pub authorities: PathBuf,
}

impl TlsFiles {
    /// Returns the files of a node in a directory that `lockstep tls init` made.
    pub fn of(directory: &Path, node: &str) -> TlsFiles {
        TlsFiles {
            certificate: directory.join(format!("{node}.pem")),
            key: directory.join(format!("{node}.key")),
            authorities: directory.join("ca.pem"),
        }
    }
}

/// What starts one node.
#[derive(Clone, Debug)]
pub struct NodeCommand {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    before: Vec<OsString>,
}

impl NodeCommand {
    /// Makes the command for a node of a plan. Its data goes to a directory of its name within
    /// `data_dir`.
    pub fn new(program: impl Into<PathBuf>, node: &Node, data_dir: &Path) -> NodeCommand {
        let command = NodeCommand {
            name: node.name.clone(),
            program: program.into(),
            arguments: vec!["node".into()],
            variables: Vec::new(),
            before: Vec::new(),
        };
        command
            .flag("raft_id", &node.name)
            .flag("grpc_addr", &node.grpc_addr)
            .flag("raft_addr", &node.raft_addr)
            .flag("raft_data_dir", data_dir)
    }

    /// Adds `--name=value`.
    pub fn flag(mut self, name: &str, value: impl AsRef<OsStr>) -> NodeCommand {
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        self.arguments.push(word);
        self
    }

    /// Adds arguments as they are.
    pub fn arguments(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> NodeCommand {
        self.arguments.extend(words.into_iter().map(Into::into));
        self
    }

    /// Adds `--raft_bootstrap`: this node founds the cluster.
    pub fn bootstrap(self) -> NodeCommand {
        self.arguments(["--raft_bootstrap"])
    }

    /// Serves clients over TLS, and knows clients by certificates of the same authorities.
    pub fn client_tls(self, files: &TlsFiles) -> NodeCommand {
        self.flag("tls_cert", &files.certificate).flag("tls_key", &files.key).flag("tls_client_ca", &files.authorities)
    }

    /// Speaks TLS with peers. `mode` is that of --peer_tls_mode: off, prefer or require.
    pub fn peer_tls(self, files: &TlsFiles, mode: &str) -> NodeCommand {
        self.flag("peer_tls_cert", &files.certificate)
            .flag("peer_tls_key", &files.key)
            .flag("peer_tls_ca", &files.authorities)
            .flag("peer_tls_mode", mode)
    }

    /// Sets an environment variable. The node has no variable `LOCKSTEP_...` apart from these.
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> NodeCommand {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Starts the node through another program, which gets these words and then the command. It
    /// must become the node by `exec`.
    pub fn through(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> NodeCommand {
        self.before = words.into_iter().map(Into::into).collect();
        self
    }

    /// Returns the arguments as a person would type them behind the program.
    pub fn words(&self) -> Vec<String> {
        self.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    /// Starts the node and returns at once.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&self, output: Output) -> io::Result<Process> {
        let mut words = self.before.iter().map(OsString::as_os_str).chain([self.program.as_os_str()]);
        let mut command = Command::new(words.next().expect("there is a program"));
        command.args(words).args(&self.arguments).arg(EXIT_WITH_ITS_PARENT).stdin(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(VARIABLES) {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Process::start(&self.name, &mut command, output)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::Stream;

    fn node() -> Node {
        Node { name: "nodeA".into(), grpc_addr: "a:1".into(), raft_addr: "a:2".into() }
    }

    #[test]
    fn a_person_could_type_the_words() {
        let command = NodeCommand::new("lockstep", &node(), Path::new("/data")).flag("fsm", "kv.wasm").bootstrap();
        let expected =
            "node --raft_id=nodeA --grpc_addr=a:1 --raft_addr=a:2 --raft_data_dir=/data --fsm=kv.wasm --raft_bootstrap";
        assert_eq!(command.words().join(" "), expected);
    }

    #[test]
    fn tls_is_three_flags_a_port() {
        let files = TlsFiles::of(Path::new("certs"), "nodeA");
        let command = NodeCommand::new("lockstep", &node(), Path::new("/data")).client_tls(&files);
        let words = command.peer_tls(&files, "prefer").words().join(" ");
        let expected = "--tls_cert=certs/nodeA.pem --tls_key=certs/nodeA.key --tls_client_ca=certs/ca.pem \
             --peer_tls_cert=certs/nodeA.pem --peer_tls_key=certs/nodeA.key --peer_tls_ca=certs/ca.pem \
             --peer_tls_mode=prefer";
        assert!(words.ends_with(expected), "{words}");
    }

    #[test]
    fn a_node_is_started_with_the_flag_that_ends_it_and_the_variables_that_were_set() {
        let (sender, lines) = mpsc::channel();
        let command = NodeCommand::new("/bin/echo", &node(), Path::new("/data"))
            .variable("LOCKSTEP_FAILPOINTS", "points")
            .through(["sh", "-c", "env | grep ^LOCKSTEP_; exec \"$0\" \"$@\""]);
        let output = Output::lines(move |stream, line| {
            assert_eq!(stream, Stream::Stdout);
            sender.send(line.to_owned()).unwrap();
        });
        let mut process = command.start(output).unwrap();
        assert!(process.wait(Duration::from_secs(60)).unwrap().unwrap().success());
        let said: Vec<String> = lines.iter().collect();
        assert_eq!(said[0], "LOCKSTEP_FAILPOINTS=points");
        assert!(said[1].starts_with("node --raft_id=nodeA") && said[1].ends_with(EXIT_WITH_ITS_PARENT), "{said:?}");
    }
}
