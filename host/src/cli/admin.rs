//! `lockstep admin`: calls one RPC of a node's manager, or of its service `lockstep.v1.Admin`, and
//! prints the request and the reply. It decides nothing about membership; the node does.

use std::time::Duration;

use prost_reflect::DynamicMessage;

use super::client::{self, CONNECT_PATIENCE};
use super::credentials::Credentials;
use super::door;
use super::manager::{self, Manager, is_operation, known, operation_error, text_field};
use super::progress::with_transfers;
use super::report::{Failure, print_line, print_notice};
use super::resync;
use super::rpcs::{self, Answered, Extra, Rpc};
use super::set_log_time;
use super::text::{self, Defaults};

/// Call one RPC of a node's manager, and wait for the operation it starts.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// Find the leader among the addresses, and call the leader
    #[arg(long = "leader")]
    leader: bool,

    /// Give up on a call after this long [default: never]
    #[arg(long = "timeout", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    credentials: Credentials,

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

/// What some RPCs have beyond what their descriptor says.
const EXTRAS: [Extra; 3] = [resync::EXTRA, set_log_time::EXTRA, STATUS];

/// The reply of `status` is JSON already, and is printed as it is.
const STATUS: Extra = Extra {
    rpc: "lockstep.v1.Admin.Status",
    about: "status prints the node's status as one JSON object.",
    answer: Some(|answered| Ok(text_field(answered.reply, "json").unwrap_or_default())),
    ..Extra::NONE
};

/// Returns all RPCs: those of the manager, and those of `lockstep.v1.Admin`.
pub(crate) fn rpcs() -> Vec<Rpc> {
    let own = manager::descriptors().get_service_by_name("lockstep.v1.Admin");
    rpcs::of(&[manager::service(), own.expect("the build compiles admin.proto")], &EXTRAS)
}

/// Returns the list of RPCs with their arguments, and examples.
pub(crate) fn help() -> String {
    let mut help = String::from("RPCs:\n");
    let rpcs = rpcs();
    for rpc in &rpcs {
        help.push_str(&format!("  {}\n", rpc.usage()));
    }
    help.push('\n');
    for rpc in rpcs.iter().filter(|rpc| !rpc.extra.about.is_empty()) {
        help.push_str(&format!("{}\n", rpc.extra.about));
    }
    help.push_str(
        "\
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
    let rpcs = rpcs();
    let rpc = rpcs::find(&rpcs, &args.rpc)?;
    if let (true, Some(refuse)) = (args.leader, rpc.extra.refuse_leader) {
        return Err(refuse().into());
    }
    let request = rpc.request(&args.arguments)?;
    super::client_runtime()?.block_on(async {
        let manager = reach(args).await?;
        invoke(&manager, &args.addr, rpc, &request).await
    })
}

/// Connects to the node to call.
async fn reach(args: &AdminArgs) -> anyhow::Result<Manager> {
    if !args.leader && args.addr.contains(',') {
        let failure = Failure::usage("these are several addresses, and an RPC is asked of one node");
        return Err(failure.hint("give one address, or --leader to find the leader among them").into());
    }
    match args.leader {
        true => find_leader(&args.addr, &args.credentials, args.timeout).await,
        false => {
            let server = client::connect(&args.addr, &args.credentials, CONNECT_PATIENCE).await?;
            Ok(Manager::new(server, args.timeout))
        }
    }
}

async fn invoke(manager: &Manager, addr: &str, rpc: &Rpc, request: &DynamicMessage) -> anyhow::Result<()> {
    let reply = say(manager, addr, rpc, request).await?;
    if !is_operation(&reply) {
        return Ok(());
    }
    let outcome = with_transfers(manager.server(), say(manager, addr, &known("Await"), &reply)).await?;
    // The operation is over, whatever happens to its token. A node that was shut down may be gone
    // already.
    if let Err(error) = say(manager, addr, &known("Forget"), &reply).await {
        print_notice(format_args!("the operation ended, but its token was not forgotten: {error}"));
    }
    match operation_error(&outcome) {
        Some(error) => Err(Failure::new(format!("{} failed: {error}", rpc.method.name())).into()),
        None => Ok(()),
    }
}

/// Calls the RPC. Prints request and reply, or what the RPC says in words of its own.
async fn say(manager: &Manager, addr: &str, rpc: &Rpc, request: &DynamicMessage) -> anyhow::Result<DynamicMessage> {
    let Extra { answer, hint, .. } = rpc.extra;
    if answer.is_none() {
        print_line(format!("Invoking {}({})", rpc.method.name(), text::format(request, Defaults::Hidden)))?;
    }
    let reply = match manager.call(&rpc.method, request).await {
        Ok(reply) => reply,
        Err(status) => {
            let hint = hint.and_then(|hint| hint(request, &status));
            let failure = door::failure(manager.server(), status).await;
            return Err(hint.into_iter().fold(failure, Failure::hint).into());
        }
    };
    match answer {
        Some(answer) => print_line(answer(&Answered { addr, request, reply: &reply })?)?,
        None => {
            let shown = text::format(&reply, Defaults::Shown);
            let separator = if shown.contains('\n') { "\n" } else { " " };
            print_line(format!("Response:{separator}{shown}").trim_end())?;
        }
    }
    Ok(reply)
}

async fn find_leader(addrs: &str, credentials: &Credentials, timeout: Option<Duration>) -> anyhow::Result<Manager> {
    client::check(&addrs.split(',').collect::<Vec<_>>(), credentials)?;
    // Groups the addresses by answer, so that an answer that several nodes give is printed once.
    let mut answers: Vec<(String, Vec<&str>)> = Vec::new();
    for addr in addrs.split(',') {
        // Does not wait for a dead node: another one may lead.
        let answer = match client::connect(addr, credentials, Duration::ZERO).await {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_rpc_with_its_arguments() {
        let help = help();
        for rpc in rpcs() {
            assert!(help.contains(&format!("  {}\n", rpc.usage())), "{}", rpc.name());
        }
        for service in ["RaftManager", "lockstep.v1.Admin"] {
            let service = manager::descriptors().get_service_by_name(service).unwrap();
            for method in service.methods().filter(|method| !method.is_server_streaming()) {
                assert!(help.contains(&format!("\n  {}", text::snake_case(method.name()))), "{}", method.name());
            }
        }
        for usage in ["resync [from]", "set_log_time <time> [sure]", "status"] {
            assert!(help.contains(&format!("  {usage}\n")), "{usage}");
        }
    }

    #[test]
    fn each_name_is_of_one_rpc() {
        let mut names: Vec<String> = rpcs().iter().map(Rpc::name).collect();
        names.sort();
        assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
    }

    #[test]
    fn extras_are_of_rpcs_and_fields_that_exist() {
        let rpcs = rpcs();
        for extra in EXTRAS {
            let rpc = rpcs.iter().find(|rpc| rpc.method.full_name() == extra.rpc).unwrap();
            for argument in extra.arguments {
                assert!(rpc.method.input().get_field_by_name(argument.field).is_some(), "{argument:?}");
            }
        }
    }

    #[test]
    fn unknown_rpc_is_answered_with_what_was_meant() {
        let rpcs = rpcs();
        let hint = |name: &str| format!("{:?}", rpcs::find(&rpcs, name).unwrap_err());
        assert!(hint("add_votr").contains("did you mean add_voter"));
        assert!(hint("resink").contains("did you mean resync"));
        assert!(hint("xyzzy").contains("get_configuration"));
    }
}
