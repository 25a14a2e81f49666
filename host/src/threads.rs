//! Which threads of a node give way to which. Raft, the log, the machine and operators come first;
//! what clients can make as much of as they like, their connections and their queries, takes what
//! is left, and so does what can wait. Knows nothing of what the threads do.
//!
//! ```text
//! main runtime    Raft, peers, operators' calls, duties             first
//! own threads     log writer, state machine, flushes, snapshots     first
//! client runtime  accepting, connections, calls, watches            gives way
//! port runtime    the http port and its pages, peers' handshakes    gives way
//! query threads   queries and steps of watches                      give way
//! rehearsal       a change tried out on a copy of the state         gives way
//! rollback        commands run once more, to take a change back     gives way
//! tidy-state      rewriting the files of a state above its quota    gives way
//! ```

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// By how much a thread gives way: it gets about a third of the time of a thread that does not,
/// when both want all of a core.
#[cfg(target_os = "linux")]
const NICE: libc::c_int = 5;

/// Fewest threads of the main runtime. Disk, network and apply must not wait for each other even on
/// one core.
const MAIN_THREADS_MIN: usize = 2;

/// Fewest threads of the client runtime. One that works on a large message leaves the others one.
const CLIENT_THREADS_MIN: usize = 2;

/// Threads of the port runtime. One that makes a handshake leaves `/livez` the other.
const PORT_THREADS: usize = 2;

/// Longest time that the client runtime or the port runtime may take to end, after its connections
/// were closed.
const CLIENTS_END: Duration = Duration::from_secs(1);

/// The runtimes of a node's process.
#[derive(Debug)]
pub struct Runtimes {
    /// Of Raft, peers, operators and whatever the node does by itself.
    pub main: Runtime,
    /// Of the clients' port.
    pub clients: Runtime,
    /// Of the http port, and of the handshakes at the peer port: no flood of clients' calls is
    /// before them, and they are before nothing of the main runtime.
    pub ports: Runtime,
}

/// The runtimes that give way, for those who start work there.
#[derive(Clone, Debug)]
pub struct Handles {
    /// See [`Runtimes::clients`].
    pub clients: Handle,
    /// See [`Runtimes::ports`].
    pub ports: Handle,
}

impl Runtimes {
    /// Starts their threads.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> io::Result<Runtimes> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let main = Builder::new_multi_thread()
            .worker_threads(cores.max(MAIN_THREADS_MIN))
            .thread_name("lockstep")
            .enable_all()
            .build()?;
        let giving_way = |name: &str, threads: usize| {
            Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name(name)
                .on_thread_start(give_way)
                .enable_all()
                .build()
        };
        let clients = giving_way("clients", cores.max(CLIENT_THREADS_MIN))?;
        let ports = giving_way("ports", PORT_THREADS)?;
        Ok(Runtimes { main, clients, ports })
    }

    /// Returns the runtimes that give way.
    pub fn handles(&self) -> Handles {
        Handles { clients: self.clients.handle().clone(), ports: self.ports.handle().clone() }
    }

    /// Ends all. What clients still wait for is dropped; what the node does itself is waited for
    /// when the result is dropped.
    pub fn end(self) -> Runtime {
        self.clients.shutdown_timeout(CLIENTS_END);
        self.ports.shutdown_timeout(CLIENTS_END);
        self.main
    }
}

/// Makes the calling thread give way to the others of this process that do not. Threads that it
/// starts give way as well.
///
/// Does nothing where a thread has no priority of its own, and where the system refuses: then all
/// share alike.
#[allow(unsafe_code)]
pub fn give_way() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the calls have no pointers. On Linux they are about one thread: 0 is the calling
        // one, and the number of the process is the first one, which gives way to nobody.
        let done = unsafe {
            let first = libc::getpriority(libc::PRIO_PROCESS, libc::getpid().unsigned_abs());
            libc::setpriority(libc::PRIO_PROCESS, 0, first + NICE)
        };
        if done != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "a thread for clients has the priority of all others");
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Returns by how much the calling thread gives way.
    fn nice() -> i64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The name is in parentheses and may have spaces. Of those after it, this is the 17th.
        stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn only_threads_for_clients_give_way() {
        let before = nice();
        let runtimes = Runtimes::start().unwrap();
        let of = |runtime: &Runtime| runtime.block_on(async { tokio::spawn(async { nice() }).await.unwrap() });
        assert_eq!(of(&runtimes.main), before);
        for runtime in [&runtimes.clients, &runtimes.ports] {
            assert_eq!(of(runtime), (before + i64::from(NICE)).min(19));
        }
        assert_eq!(nice(), before);
        drop(runtimes.end());
    }

    #[test]
    fn a_call_that_never_ends_does_not_hold_the_process() {
        let runtimes = Runtimes::start().unwrap();
        runtimes.clients.spawn(std::future::pending::<()>());
        let (begun, blocked) = (std::time::Instant::now(), std::sync::mpsc::channel::<()>());
        runtimes.clients.spawn_blocking(move || blocked.1.recv());
        drop(runtimes.end());
        assert!(begun.elapsed() < CLIENTS_END * 10, "{:?}", begun.elapsed());
        drop(blocked.0);
    }
}
