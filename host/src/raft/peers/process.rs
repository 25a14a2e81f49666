//! One process of a node, and how the wire names it: in the routes of requests, in the headers of
//! responses, and in the refusal of a process that runs on a copy. `processes` decides which of two
//! processes takes part.

use std::fmt;

use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use lockstep_proto::peer::Route;

/// Header of a peer's response: the process that answers.
const PROCESS: &str = "lockstep-process";

/// Header of a refusal: which process is refused, and which one takes part.
const COPY: &str = "lockstep-copy";

/// One process of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The number of its directory's start.
    pub boot: u64,
    /// Random; 0 for a build that has none.
    pub nonce: u64,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {:016x} of start {}", self.nonce, self.boot)
    }
}

impl Process {
    /// Returns the process that sent a message.
    pub fn of(route: &Route) -> Process {
        Process { boot: route.boot, nonce: route.nonce }
    }

    /// Adds this process to the headers of a response.
    pub(in crate::raft) fn sign(self, headers: &mut MetadataMap) {
        if self.nonce != 0 {
            headers.insert(PROCESS, ascii(&self.text()));
        }
    }

    /// Returns the process that signed a response.
    pub(in crate::raft) fn that_signed(headers: &MetadataMap) -> Option<Process> {
        Process::parse(headers.get(PROCESS)?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Process> {
        let (nonce, boot) = text.split_once(' ')?;
        Some(Process { nonce: u64::from_str_radix(nonce, 16).ok()?, boot: boot.parse().ok()? })
    }

    fn text(self) -> String {
        format!("{:016x} {}", self.nonce, self.boot)
    }
}

/// The process that takes part in place of one that runs on a copy. The latter is told so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// The process that takes part.
    pub process: Process,
    /// Its peer port, as the members know it; empty when they do not.
    pub raft_addr: String,
}

impl Original {
    /// Returns the process that takes part in place of `mine`, if a refusal says that `mine` runs
    /// on a copy.
    pub(in crate::raft) fn named_by(refusal: &Status, mine: Process) -> Option<Original> {
        let value = refusal.metadata().get(COPY)?;
        let (refused, rest) = value.to_str().ok()?.split_once(", ")?;
        let (original, raft_addr) = rest.split_once(", ")?;
        let original = Original { process: Process::parse(original)?, raft_addr: raft_addr.to_owned() };
        (Process::parse(refused)? == mine && original.process != mine).then_some(original)
    }

    /// Says in a refusal that `refused` runs on a copy of this process's directory.
    pub(in crate::raft) fn name_in(&self, refusal: &mut Status, refused: Process) {
        let words = format!("{}, {}, {}", refused.text(), self.process.text(), self.raft_addr);
        refusal.metadata_mut().insert(COPY, ascii(&words));
    }
}

fn ascii(text: &str) -> MetadataValue<tonic::metadata::Ascii> {
    // An address in the membership may hold anything.
    MetadataValue::try_from(text).unwrap_or_else(|_| MetadataValue::from_static(""))
}
