//! `lockstep admin`: calls one RPC of a node's manager and prints the request and the reply. It
//! decides nothing about membership; the node does.

use std::time::Duration;

use prost_reflect::{DynamicMessage, MethodDescriptor};

use super::client::{self, CONNECT_PATIENCE};
use super::door;
use super::manager::{self, Manager, is_operation, known, operation_error, text_field};
use super::progress::with_transfers;
use super::report::{Failure, print_line, print_notice};
use super::resync;
use super::set_log_time;
use super::similar::{similar, suggestion};
use super::text::{self, Defaults};

/// Call one RPC of a node's RaftManager service, and wait for the operation it starts.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// Find the leader among the addresses, and call the leader
    #[arg(long = "leader")]
    leader: bool,

    /// Give up on a call after this long [default: never]
    #[arg(long = "timeout", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    /// The grpc_addr of a node; with --leader, of several nodes, separated by commas
    #[arg(value_name = "HOST:PORT")]
    addr: String,

    /// Name of the RPC; see the list below
    #[arg(value_name = "RPC")]
    rpc: String,

    /// Arguments of the RPC, in the order of the list
    #[arg(value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// Returns the list of RPCs with their arguments, and examples.
pub(crate) fn help() -> String {
    let mut help = String::from("RPCs:\n");
    for rpc in manager::rpcs() {
        help.push_str(&format!("  {}\n", manager::usage(&rpc)));
    }
    help.push_str(&format!("  {}\n", resync::USAGE));
    help.push_str(&format!("  {}\n", set_log_time::USAGE));
    help.push_str(
        "\n\
        resync makes a node in quarantine anew, from the node with the grpc_addr `from` or from any voter.\n\
        set_log_time moves log time ahead, for clocks that cannot bring it where it belongs; it says what that ends until you are sure.\n\
        A previous_index other than 0 refuses the change if the configuration changed after that index.\n\
        Bytes are text, hex:… or @file. What an operation waits for is awaited; an error exits with code 1.\n\
        \n\
        Examples:\n  \
          lockstep admin localhost:40051 add_voter nodeB localhost:50052\n  \
          lockstep admin localhost:40051 get_configuration\n  \
          lockstep admin --leader localhost:40051,localhost:40052 leadership_transfer",
    );
    help
}

/// Runs one RPC to its end.
pub(crate) fn run(args: &AdminArgs) -> anyhow::Result<()> {
    if args.rpc == "resync" {
        if args.leader {
            let failure = Failure::usage("resync is asked of the node in quarantine itself, which never leads");
            return Err(failure.hint("leave --leader out and give that node's grpc_addr").into());
        }
        return resync::run(&args.addr, &args.arguments, args.timeout);
    }
    if args.rpc.replace('-', "_") == "set_log_time" {
        let request = set_log_time::request(&args.arguments)?;
        return super::client_runtime()?.block_on(async {
            let manager = reach(args).await?;
            set_log_time::run(manager.server().clone(), request, args.timeout).await
        });
    }
    let rpc = manager::rpc(&args.rpc).ok_or_else(|| unknown_rpc(&args.rpc))?;
    let request = manager::request(&rpc, &args.arguments)?;
    super::client_runtime()?.block_on(async {
        let manager = reach(args).await?;
        invoke(&manager, &rpc, &request).await
    })
}

/// Connects to the node to call.
async fn reach(args: &AdminArgs) -> anyhow::Result<Manager> {
    match args.leader {
        true => find_leader(&args.addr, args.timeout).await,
        false => Ok(Manager::new(client::connect(&args.addr, CONNECT_PATIENCE).await?, args.timeout)),
    }
}

async fn invoke(manager: &Manager, rpc: &MethodDescriptor, request: &DynamicMessage) -> anyhow::Result<()> {
    let reply = say(manager, rpc, request).await?;
    if !is_operation(&reply) {
        return Ok(());
    }
    let outcome = with_transfers(manager.server(), say(manager, &known("Await"), &reply)).await?;
    // The operation is over, whatever happens to its token. A node that was shut down may be gone
    // already.
    if let Err(error) = say(manager, &known("Forget"), &reply).await {
        print_notice(format_args!("the operation ended, but its token was not forgotten: {error}"));
    }
    match operation_error(&outcome) {
        Some(error) => Err(Failure::new(format!("{} failed: {error}", rpc.name())).into()),
        None => Ok(()),
    }
}

/// Calls the RPC, and prints request and reply.
async fn say(manager: &Manager, rpc: &MethodDescriptor, request: &DynamicMessage) -> anyhow::Result<DynamicMessage> {
    print_line(format!("Invoking {}({})", rpc.name(), text::format(request, Defaults::Hidden)))?;
    let reply = match manager.call(rpc, request).await {
        Ok(reply) => reply,
        Err(status) => return Err(door::failure(manager.server(), status).await.into()),
    };
    let shown = text::format(&reply, Defaults::Shown);
    let separator = if shown.contains('\n') { "\n" } else { " " };
    print_line(format!("Response:{separator}{shown}").trim_end())?;
    Ok(reply)
}

async fn find_leader(addrs: &str, timeout: Option<Duration>) -> anyhow::Result<Manager> {
    // Groups the addresses by answer, so that an answer that several nodes give is printed once.
    let mut answers: Vec<(String, Vec<&str>)> = Vec::new();
    for addr in addrs.split(',') {
        // Does not wait for a dead node: another one may lead.
        let answer = match client::connect(addr, Duration::ZERO).await {
            Ok(server) => {
                let manager = Manager::new(server, timeout);
                let reply = manager.run("State", &[]).await;
                match reply.map(|reply| text_field(&reply, "state").unwrap_or_default()) {
                    Ok(state) if state == "Leader" => return Ok(manager),
                    Ok(state) => state,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string().replace(&format!(" to {addr}"), ""),
        };
        match answers.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, from)) => from.push(addr),
            None => answers.push((answer, vec![addr])),
        }
    }
    let failure = Failure::new("none of these nodes leads");
    let failure =
        answers.iter().fold(failure, |failure, (answer, from)| failure.note(format!("{}: {answer}", from.join(", "))));
    Err(failure.hint("give the --grpc_addr of every node that runs; without a majority there is no leader").into())
}

fn unknown_rpc(name: &str) -> Failure {
    let rpcs = manager::rpcs();
    let names = rpcs.iter().map(|rpc| text::snake_case(rpc.name())).chain(["resync".into(), "set_log_time".into()]);
    let names: Vec<String> = names.collect();
    let close: Vec<String> = similar(name, names.iter().map(String::as_str)).into_iter().map(str::to_owned).collect();
    Failure::usage(format!("there is no RPC {name:?}")).hint(suggestion(&close, &names))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_rpc_with_its_arguments() {
        let help = help();
        for rpc in manager::rpcs() {
            assert!(help.contains(&format!("  {}\n", manager::usage(&rpc))), "{}", rpc.name());
        }
    }

    #[test]
    fn unknown_rpc_is_answered_with_what_was_meant() {
        assert!(format!("{:?}", unknown_rpc("add_votr")).contains("did you mean add_voter"));
        assert!(format!("{:?}", unknown_rpc("xyzzy")).contains("get_configuration"));
    }
}
