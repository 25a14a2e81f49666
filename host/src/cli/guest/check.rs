//! `lockstep guest check`: runs a node's admission offline, and warns of what an author should know
//! even if a node would take the guest. `guest/load.rs` and the crate `contract` decide what is
//! refused, and with which words. `against` compares the guest with an older one, `state_lock` its
//! state with the record of it.

use std::path::PathBuf;

use serde_json::json;

use super::against::{Comparison, Old};
use super::state_lock::{Compared, StateArgs};
use super::{Admitted, admit, imported, on_guest_stack, read, shown_migrates, shown_version};
use crate::cli::report::print_line;
use crate::guest::{Component, HiddenStack, hidden_stack};
use crate::machine::Replica;
use crate::types::hex;

const AFTER_HELP: &str = "\
Compiles the guest and makes one instance of it, as the first start of a node does, then lets it
write a snapshot of an empty state and restore that. Exits with 0 when a node would take it, with 1
when not. Warnings are about what a node takes all the same: a snapshot or a restore that fails, and
a stack whose overflow would overwrite the guest's own data without a word.

With --against it also compares the contract with that of an older guest: services, methods, their
kinds and consistency, and the messages that they use. It exits with 1 when a client that was made
for the older guest would fail with this one, or misread its replies.

With --lock it compares the state with a state.lock: the file beside the guest's Cargo.toml that
records what lies under each tag. It exits with 1 when they differ. --write_lock writes that file.

Examples:
  lockstep guest check target/wasm32-unknown-unknown/release/my_machine.wasm
  lockstep guest check my_machine.wasm --against my_machine-1.0.wasm
  lockstep guest check my_machine.wasm --write_lock state.lock
  lockstep guest check my_machine.wasm --json";

/// Say whether a node would take a guest, and if not, what to change.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CheckArgs {
    /// A component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// An older guest: say what differs, and fail if its clients would break
    #[arg(long = "against", value_name = "FILE")]
    against: Option<PathBuf>,

    /// Do not fail if clients of the older guest would break
    #[arg(long = "allow_breaking", requires = "against")]
    allow_breaking: bool,

    #[command(flatten)]
    state: StateArgs,

    /// One JSON object, for programs: {"file", "ok", "component", "version", "migrates",
    /// "services", "imported", "warnings", "against", "lock"} or {"file", "ok", "problem"}. "ok"
    /// says that a node takes the guest; "breaks" in "against" and the exit code say whether old
    /// clients break, "breaks" in "lock" whether old rows do. A file that cannot be read is told on
    /// stderr alone
    #[arg(long = "json")]
    json: bool,
}

/// Checks one file.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let bytes = read(&args.file)?;
    // First, because a wrong path should not cost the time of a trial.
    let old = args.against.as_deref().map(Old::read).transpose()?;
    let admitted = on_guest_stack(|| {
        let admitted = admit(&bytes)?;
        let warnings = warnings(&admitted.component)?;
        Ok((admitted, warnings))
    });
    let file = args.file.display().to_string();
    match admitted {
        Ok((Admitted { component, routes }, warnings)) => {
            let (hash, services) = (hex(&component.hash()), routes.services());
            let comparison = old.map(|old| old.compare(&routes));
            let verdict = comparison.as_ref().map_or(Ok(()), |comparison| comparison.verdict(args.allow_breaking));
            let state = args.state.apply(component.encoded())?;
            let verdict = verdict.and_then(|()| state.as_ref().map_or(Ok(()), Compared::verdict));
            if args.json {
                print_line(json!({
                    "file": file, "ok": true, "component": hash, "version": component.version(),
                    "migrates": component.has_migrator(), "services": services, "imported": routes.imported(),
                    "warnings": warnings, "against": comparison.as_ref().map(Comparison::json),
                    "lock": state.as_ref().map(Compared::json),
                }))?;
                return verdict;
            }
            print_line(format!(
                "{file} is a guest that nodes take\n  component  {hash}\n  version    {}\n  migrates   {}\n  serves     {} ({} methods){}",
                shown_version(component.version()),
                shown_migrates(component.has_migrator()),
                services.join(", "),
                routes.methods().len(),
                imported("\n  imports    ", &routes),
            ))?;
            warnings.iter().try_for_each(|warning| print_line(format!("warning: {warning}")))?;
            comparison.iter().try_for_each(Comparison::print)?;
            state.iter().try_for_each(Compared::print)?;
            verdict
        }
        Err(error) => {
            if args.json {
                print_line(json!({ "file": file, "ok": false, "problem": format!("{error:#}") }))?;
            }
            Err(error.context(format!("a node would refuse {file}")))
        }
    }
}

/// Returns warnings about things that a node takes, but that an author should change.
fn warnings(component: &Component) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    if let Some(HiddenStack { top, data }) = hidden_stack(component.encoded())? {
        warnings.push(format!(
            "the stack is not first in memory: it grows down from {top} towards the data at {data}, so an overflow changes statics instead of ending \
             the call; link with --stack-first (clang: -Wl,--stack-first)"
        ));
    }
    if let Some(problem) = snapshot_problem(component)? {
        warnings.push(format!(
            "snapshot and restore do not work, tried with an empty state: {problem}; nodes would send the rows as they are instead, and log it each \
             time. Does the guest export both?"
        ));
    }
    Ok(warnings)
}

fn snapshot_problem(component: &Component) -> anyhow::Result<Option<String>> {
    let place = tempfile::Builder::new().prefix("lockstep-guest-").tempdir()?;
    let mut replica = Replica::open(place.path(), component.clone())?;
    match replica.snapshot_restore() {
        Ok(()) => Ok(None),
        Err(error) if error.is_of_the_guest() => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}
