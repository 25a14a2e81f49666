//! A network of a test's own whose links can be cut. Every node is in a network namespace. One more
//! namespace, the hub, connects them, routes between them, and drops or rejects what the test tells
//! it to. The test itself runs in the hub, so clients reach every node even when its peers cannot.
//! All namespaces have this process's number in their names and are deleted when the value is
//! dropped. The machine's own network is never changed.

use std::future::Future;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, bail, ensure};

use crate::place::Place;

/// Directory in which `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// Prefix of the names. The process id, a number, and the owner of the namespace follow.
const PREFIX: &str = "lockstep";

/// What the hub does to the traffic between nodes, which are named by their places in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Everything from one node to another is dropped silently, including TCP acknowledgements.
    Lost {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
    },
    /// TCP between the two is answered with a reset, at once and in both directions, as by a
    /// firewall that rejects.
    Refused(usize, usize),
}

/// The hub and the nodes' namespaces.
pub struct Network {
    number: usize,
    hub: Arc<Namespace>,
    nodes: Vec<Arc<Namespace>>,
}

/// Runs `test` in a network of its own. Where the system does not allow that, prints so and passes.
pub fn in_network<F, Fut>(test: F) -> Result<()>
where
    F: FnOnce(Network) -> Fut + Send,
    Fut: Future<Output = Result<()>>,
{
    match Network::available() {
        Ok(()) => Network::run(test),
        Err(reason) => {
            // Written to stderr directly, because the captured output of a test is thrown away when
            // the test passes.
            Ok(writeln!(std::io::stderr(), "SKIPPED, because this needs network namespaces: {reason}")?)
        }
    }
}

impl Network {
    /// Tells whether this process may make such networks, or why not. It tries only once.
    pub fn available() -> Result<(), String> {
        static AVAILABLE: OnceLock<Result<(), String>> = OnceLock::new();
        let attempt = || {
            let mut network = Network::new()?;
            network.place()?;
            network.place()?;
            network.cut(&[Cut::Lost { from: 0, to: 1 }, Cut::Refused(0, 1)])
        };
        let advice = "it needs Linux, root, and the commands ip (iproute2) and nft (nftables)";
        AVAILABLE.get_or_init(|| attempt().map_err(|error| format!("{error:#}; {advice}"))).clone()
    }

    /// Runs `work` in a new network, on a runtime whose threads and children are in the hub.
    pub fn run<T, F, Fut>(work: F) -> Result<T>
    where
        T: Send,
        F: FnOnce(Network) -> Fut + Send,
        Fut: Future<Output = Result<T>>,
    {
        let network = Network::new()?;
        let hub = network.hub.clone();
        hub.enter(|| tokio::runtime::Runtime::new()?.block_on(work(network)))?
    }

    fn new() -> Result<Network> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        remove_leftovers();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let hub = Arc::new(Namespace::new(number, "hub")?);
        hub.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))?.context("the hub cannot route")?;
        Ok(Network { number, hub, nodes: Vec::new() })
    }

    /// Makes the place of the next node: a namespace with one link, to the hub.
    pub(crate) fn place(&mut self) -> Result<Place> {
        let n = self.nodes.len();
        let node = Arc::new(Namespace::new(self.number, &n.to_string())?);
        let (link, hub_ip, node_ip) = (format!("node{n}"), format!("10.83.{n}.1"), address(n));
        let hub = self.hub.name.as_str();
        run("ip", &["-n", hub, "link", "add", &link, "type", "veth", "peer", "name", "hub", "netns", &node.name])?;
        run("ip", &["-n", hub, "address", "add", &format!("{hub_ip}/24"), "dev", &link])?;
        run("ip", &["-n", hub, "link", "set", &link, "up"])?;
        run("ip", &["-n", &node.name, "address", "add", &format!("{node_ip}/24"), "dev", "hub"])?;
        run("ip", &["-n", &node.name, "link", "set", "hub", "up"])?;
        run("ip", &["-n", &node.name, "route", "add", "default", "via", &hub_ip])?;
        self.nodes.push(node.clone());
        Ok(Place::inside(node, node_ip))
    }

    /// Replaces all cuts by `cuts`, in one step. Links between the test and a node are never cut.
    pub fn cut(&self, cuts: &[Cut]) -> Result<()> {
        let rule = |from, to, what: &str| format!("ip saddr {} ip daddr {} {what}\n", address(from), address(to));
        let refuse = "meta l4proto tcp reject with tcp reset";
        let rules: String = cuts
            .iter()
            .map(|cut| match *cut {
                Cut::Lost { from, to } => rule(from, to, "drop"),
                Cut::Refused(one, other) => rule(one, other, refuse) + &rule(other, one, refuse),
            })
            .collect();
        // The table is declared first, so that deleting it works whether or not it existed. nft
        // applies a file as a whole or not at all.
        let table = format!(
            "table inet cuts\ndelete table inet cuts\ntable inet cuts {{\nchain forward {{\ntype filter hook forward priority 0\n{rules}}}\n}}\n"
        );
        self.hub.enter(|| nft(&table))?
    }

    /// Cuts a node off from all others, in both directions.
    pub fn isolate(&self, node: usize) -> Result<()> {
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        let both = |other| [Cut::Lost { from: node, to: other }, Cut::Lost { from: other, to: node }];
        self.cut(&others.flat_map(both).collect::<Vec<_>>())
    }

    /// Removes all cuts.
    pub fn heal(&self) -> Result<()> {
        self.cut(&[])
    }
}

/// Returns a node's address. Such addresses exist inside these namespaces only.
fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 83, node as u8, 2)
}

/// One network namespace, deleted when dropped.
pub(crate) struct Namespace {
    name: String,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "delete", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}

impl Namespace {
    fn new(number: usize, whose: &str) -> Result<Namespace> {
        let name = format!("{PREFIX}-{}-{number}-{whose}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        let namespace = Namespace { name };
        run("ip", &["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs `work` on a thread inside the namespace. Its threads and processes are inside as well.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || {
            move_thread_into(&self.name)?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

#[cfg(target_os = "linux")]
fn move_thread_into(namespace: &str) -> Result<()> {
    let file = std::fs::File::open(format!("{NAMESPACES}/{namespace}"))?;
    Ok(nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?)
}

#[cfg(not(target_os = "linux"))]
fn move_thread_into(_: &str) -> Result<()> {
    bail!("this system has no network namespaces")
}

/// Deletes the namespaces of processes that were killed before they could delete them.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(&format!("{PREFIX}-")).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|id| id.parse::<u32>().is_ok() && !std::path::Path::new("/proc").join(id).exists()) {
            // Another test may be faster. A namespace that cannot be deleted does no harm.
            drop(run("ip", &["netns", "delete", &name]));
        }
    }
}

fn nft(table: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("nft does not start")?;
    child.stdin.take().context("piped")?.write_all(table.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} does not start"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
