//! `lockstep guest serve`: runs the calls of the SDK's test harness, each in a fresh instance of a
//! component, in a node's sandbox. The harness holds the state: each store access of the guest goes
//! over the pipe, and the harness answers it. This file keeps nothing between calls, and decides
//! nothing about the answers of a store. `api/status.rs` defines how an outcome looks to a client.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, anyhow};

use super::remote::Remote;
use super::{Admitted, admit_file_under, on_guest_stack};
use crate::api::status;
use crate::cli::report::Failure;
use crate::guest::{
    self, ApplyInstance, Call, Cause, Component, Context as Place, HostFault, Limits, Migrated, Predecessor,
    QueryInstance, Rows, StatusSource, Stepped, Verdict,
};
use crate::types::hex;
use lockstep_contract::Contract;

use super::frames::{self, Came, Hello, Mode};

const AFTER_HELP: &str = "\
You do not start it yourself: the SDK's test harness does, for tests whose component is named by
LOCKSTEP_COMPONENT. It finds the program as `lockstep` in PATH, or where LOCKSTEP says.

Examples:
  LOCKSTEP_COMPONENT=target/wasm32-unknown-unknown/release/my_machine.wasm cargo test
  LOCKSTEP=../lockstep/build/lockstep LOCKSTEP_COMPONENT=my_machine.wasm cargo test

What the harness starts is
  lockstep guest serve my_machine.wasm";

/// Longest time for a query. A node's limit of a few seconds would depend on this machine's pipes
/// and on other tests. Fuel and the store budget, which are counted, end every query before this
/// limit does.
const QUERY_DEADLINE_MS: u32 = 10 * 60 * 1000;

/// Run a guest's calls for the SDK's test harness, which starts this by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ServeArgs {
    /// A component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Serves calls until the harness closes the pipe.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    if std::io::stdin().is_terminal() || std::io::stdout().is_terminal() {
        let failure = Failure::usage("the SDK's test harness starts this, and speaks with it through pipes");
        let file = args.file.display();
        return Err(failure.hint(format!("run your tests with LOCKSTEP_COMPONENT={file} cargo test")).into());
    }
    on_guest_stack(|| {
        // Does not use Rust's own stdout, which looks for line ends and holds back what follows the
        // last one.
        let stdout = File::from(std::io::stdout().as_fd().try_clone_to_owned().context("cannot write to stdout")?);
        // Opened before the component is compiled, so that compiling ends with the harness, too.
        let harness = Remote::open(stdout, |gone| crate::cli::exit_at_once(gone))?;
        let limits = Limits { query_deadline_ms: QUERY_DEADLINE_MS, ..Limits::default() };
        let Admitted { component, routes } = admit_file_under(&limits, &args.file)?;
        harness.greet(hello(&component, &routes))?;
        loop {
            let call = harness.next_call()?;
            let came = serve(&component, &call, &harness)?;
            harness.finish(came)?;
        }
    })
}

fn hello(component: &Component, routes: &Contract) -> Hello {
    let methods = routes.methods();
    Hello {
        protocol: frames::PROTOCOL,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        component: hex(&component.hash()),
        methods: methods.iter().map(|method| format!("{} {}", method.kind.name(), method.name)).collect(),
        version: component.version().to_owned(),
        migrates: component.has_migrator(),
    }
}

/// Runs one call. Returns `None` if the harness ended the call.
fn serve(component: &Component, call: &frames::Call, harness: &Remote) -> anyhow::Result<Option<Came>> {
    let came = run_mode(component, call, harness);
    if harness.take_ended() {
        return Ok(None);
    }
    Ok(Some(came?))
}

fn run_mode(component: &Component, call: &frames::Call, harness: &Remote) -> anyhow::Result<Came> {
    let place = Place { index: call.index, position: call.position, time_ms: call.time_ms };
    let limits = component.engine().limits();
    let guest_call =
        |fuel| Call { context: place, method: &call.method, request: &call.request, caller: &call.caller, fuel };
    let store = Box::new(harness.clone());
    let verdict: Result<Verdict, HostFault> = match call.mode() {
        Mode::Apply => ApplyInstance::new(component)?.apply(guest_call(limits.fuel_per_command), store).0,
        Mode::Query => {
            let asked = harness.clone();
            let status: StatusSource = std::sync::Arc::new(move || asked.node_status());
            query_instance(component)?.query(guest_call(limits.fuel_per_query), store, status).0
        }
        Mode::Watch => {
            let (mut instance, cause) = (query_instance(component)?, cause(call.cause()));
            let stepped = instance.watch(guest_call(limits.fuel_per_query), cause, &call.memo, store).0?;
            return Ok(stepped_frame(stepped, call.index));
        }
        Mode::Migrate => return migrate(component, call, place, store),
        Mode::Snapshot => {
            let slot = guest::snapshot_slot(component).ok_or_else(pool_is_full)?;
            guest::snapshot(component, &slot, place, store, Box::new(harness.clone()))
        }
        Mode::Restore => {
            let slot = guest::restore_slot(component).ok_or_else(pool_is_full)?;
            guest::restore(component, &slot, place, store, Box::new(harness.clone())).0
        }
    };
    Ok(came(verdict?, call.index))
}

fn came(verdict: Verdict, index: u64) -> Came {
    match status::verdict(verdict, index, None) {
        Ok(reply) => Came::Reply(reply.into_inner().into()),
        Err(status) => status_frame(&status),
    }
}

fn migrate(component: &Component, call: &frames::Call, place: Place, store: Box<dyn Rows>) -> anyhow::Result<Came> {
    let from = call.from.as_ref().context("a migration starts from something")?;
    let hash = from.hash.as_slice().try_into().context("a hash has 32 bytes")?;
    let from = Predecessor { hash, version: &from.version };
    let fuel = component.engine().limits().migration_fuel();
    let (migrated, _) = guest::migrate(component, place, from, &call.cursor, fuel, store).0?;
    let verdict = match migrated {
        Migrated::Done => return Ok(Came::Migrated(frames::Migrated { done: true, cursor: Vec::new() })),
        Migrated::More(cursor) => {
            return Ok(Came::Migrated(frames::Migrated { done: false, cursor: cursor.into() }));
        }
        Migrated::Refused(refusal) => Verdict::Refused(refusal),
        Migrated::Failed(failure) => Verdict::Failed(failure),
    };
    Ok(came(verdict, call.index))
}

fn query_instance(component: &Component) -> anyhow::Result<QueryInstance> {
    QueryInstance::new(component)?.ok_or_else(pool_is_full)
}

fn pool_is_full() -> anyhow::Error {
    anyhow!("the pool has no instance for the only call there is")
}

fn cause(cause: frames::Cause) -> Cause {
    match cause {
        frames::Cause::Start => Cause::Start,
        frames::Cause::Change => Cause::Change,
        frames::Cause::Wake => Cause::Wake,
        frames::Cause::Reset => Cause::Reset,
    }
}

fn stepped_frame(stepped: Stepped, index: u64) -> Came {
    match stepped {
        Stepped::Step(step) => Came::Step(frames::Step {
            replies: step.replies.into_iter().map(Into::into).collect(),
            memo: step.memo.into(),
            wake_at_index: step.wake_at_index,
            wake_after_ms: step.wake_after_ms,
            done: step.done,
        }),
        Stepped::Refused(refusal) => status_frame(&status::watch_refused(refusal, index)),
        Stepped::Failed(failure) => status_frame(&status::watch_failed(&failure, index)),
    }
}

fn status_frame(status: &tonic::Status) -> Came {
    Came::Status(frames::Status {
        code: u32::try_from(i32::from(status.code())).expect("codes of gRPC are 0 to 16"),
        message: status.message().to_owned(),
        details: status.details().to_vec(),
    })
}
