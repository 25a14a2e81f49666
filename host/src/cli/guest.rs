//! `lockstep guest`: the tools that an author needs between the compiler and the cluster. They use
//! no node and no network; they read a file. Where they run a guest, the machine's own code runs
//! it. They have no rules of their own: they call the same admission code that a node calls.

mod against;
mod bench;
mod blanks;
mod check;
mod expect;
/// The protocol of `guest serve`. The SDK's harness compiles the same file.
#[path = "../../../guest-sdk/src/test/frames.rs"]
mod frames;
mod inspect;
mod new;
mod pack;
mod remote;
mod rows;
mod script;
mod sdk;
mod serve;
pub(super) mod shrink;
pub(super) mod state_lock;
mod test;
mod trial;

use std::path::Path;

use anyhow::Context;
use clap::Subcommand;

use crate::guest::{self, Component, Engine, Limits};
use lockstep_contract::Contract;

const AFTER_HELP: &str = "\
Examples:
  lockstep guest new my-machine
  lockstep guest check target/wasm32-unknown-unknown/release/my_machine.wasm
  lockstep guest test target/wasm32-unknown-unknown/release/my_machine.wasm --script calls.jsonl
  LOCKSTEP_COMPONENT=target/wasm32-unknown-unknown/release/my_machine.wasm cargo test";

/// Make, look at, check, test and measure guests; no cluster is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct GuestArgs {
    #[command(subcommand)]
    command: GuestCommand,
}

#[derive(Debug, Subcommand)]
enum GuestCommand {
    /// Make a project that builds, tests and deploys as it stands
    New(new::NewArgs),
    /// Say whether a node would take a guest, and if not, what to change
    Check(check::CheckArgs),
    /// Show a guest's services, hash, size and version, without running anything of it
    Inspect(inspect::InspectArgs),
    /// Run a script of calls in every way a cluster may run it, and compare
    Test(test::TestArgs),
    /// Add the protobuf descriptor to a guest of a language whose compiler adds none
    Pack(pack::PackArgs),
    /// Measure what commands cost
    Bench(bench::BenchArgs),
    /// Write the guest's rows out of a backup, for the SDK's test harness and for programs
    Rows(rows::RowsArgs),
    /// Run a guest's calls for the SDK's test harness, which starts this by itself
    Serve(serve::ServeArgs),
}

/// Runs one of the tools.
pub(crate) fn run(args: &GuestArgs) -> anyhow::Result<()> {
    crate::guest::write_every_line();
    match &args.command {
        GuestCommand::New(args) => new::run(args),
        GuestCommand::Check(args) => check::run(args),
        GuestCommand::Inspect(args) => inspect::run(args),
        GuestCommand::Test(args) => test::run(args),
        GuestCommand::Pack(args) => pack::run(args),
        GuestCommand::Bench(args) => bench::run(args),
        GuestCommand::Rows(args) => rows::run(args),
        GuestCommand::Serve(args) => serve::run(args),
    }
}

/// A guest that a node would take.
struct Admitted {
    component: Component,
    routes: Contract,
}

/// Does what a node does with the file of `--fsm`, under the limits of a new cluster. Call it
/// inside [`on_guest_stack`].
fn admit(bytes: &[u8]) -> anyhow::Result<Admitted> {
    admit_under(&Limits::default(), bytes)
}

fn admit_under(limits: &Limits, bytes: &[u8]) -> anyhow::Result<Admitted> {
    let engine = Engine::new(limits)?;
    let component = Component::load(&engine, &Component::encode(bytes)?)?;
    let routes = crate::api::admit(&component)?;
    Ok(Admitted { component, routes })
}

/// Does the same as [`admit`] for a file, and names the file in the error.
fn admit_file(path: &Path) -> anyhow::Result<Admitted> {
    admit_file_under(&Limits::default(), path)
}

fn admit_file_under(limits: &Limits, path: &Path) -> anyhow::Result<Admitted> {
    admit_under(limits, &read(path)?).with_context(|| format!("a node would refuse {}", path.display()))
}

/// Returns a text about services in files that the guest only imports. Empty when there are none.
fn imported(title: &str, routes: &Contract) -> String {
    match routes.imported() {
        [] => String::new(),
        names => format!("{title}{}, which it does not serve", names.join(", ")),
    }
}

/// Returns a declared version for people.
fn shown_version(version: &str) -> &str {
    if version.is_empty() { "none declared" } else { version }
}

/// Returns for people whether a guest migrates.
fn shown_migrates(has_migrator: bool) -> &'static str {
    if has_migrator { "the state of an earlier version" } else { "no, it takes the state as it is" }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Runs `work` on a thread whose stack is large enough to call guests.
fn on_guest_stack<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    guest::on_guest_stack("guest", work).context("cannot start a thread")?
}
