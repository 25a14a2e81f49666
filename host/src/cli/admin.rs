//! `lockstep admin`: calls one RPC of a node's manager, or of its service `lockstep.v1.Admin`, and
//! prints the request and the reply. It decides nothing about membership; the node does.

use std::time::Duration;

use prost_reflect::DynamicMessage;

use super::client::{self, CONNECT_PATIENCE};
use super::credentials::Credentials;
use super::door;
use super::leader;
use super::manager::{self, Manager, is_operation, known, operation_error, text_field};
use super::profile;
use super::progress::with_transfers;
use super::raise;
use super::read_only;
use super::report::{Failure, print_line, print_notice};
use super::resync;
use super::rpcs::{self, Answered, Extra, Rpc};
use super::set_log_time;
use super::text::{self, Defaults};
use super::upgrade::Asked;

/// Call one RPC of a node's manager, and wait for the operation it starts.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArgs {
    /// Find the leader through the addresses, and call the leader
    #[arg(long = "leader")]
    leader: bool,

    /// Give up on a call after this long [default: never]
    #[arg(long = "timeout", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    /// Of read_only on: patterns of the methods whose commands are refused
    #[arg(long = "methods", value_name = "PATTERN,…", value_delimiter = ',')]
    methods: Vec<String>,

    /// JSON, for programs: one object; of raise and profile set, one object a line, as of upgrade
    #[arg(long = "json")]
    json: bool,

    #[command(flatten)]
    credentials: Credentials,

    /// The grpc_addr of a node; with --leader, and where the leader is found anyway (raise, profile
    /// set, read_only), of several nodes, separated by commas
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
const EXTRAS: [Extra; 5] = [profile::EXTRA, read_only::EXTRA, resync::EXTRA, set_log_time::EXTRA, STATUS];

/// The reply of `status` is JSON already, and is printed as it is.
const STATUS: Extra = Extra {
    rpc: "lockstep.v1.Admin.Status",
    about: "status prints the node's status as one JSON object.",
    answer: Some(status_json),
    json: Some(status_json),
    ..Extra::NONE
};

fn status_json(answered: &Answered<'_>) -> anyhow::Result<String> {
    Ok(text_field(answered.reply, "json").unwrap_or_default())
}

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
    help.push_str(&format!("  {}\n\n{}\n", raise::USAGE, raise::ABOUT));
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
    let words = words(args, &rpcs)?;
    let AdminArgs { addr, credentials, timeout, json, .. } = args;
    let asked = Asked { addr, credentials, timeout: *timeout, json: *json };
    if args.rpc == raise::NAME {
        return super::client_runtime()?.block_on(raise::run(asked, &words));
    }
    if let Some(words) = profile::set_words(&args.rpc, &words) {
        return super::client_runtime()?.block_on(profile::set(asked, words));
    }
    let rpc = rpcs::find(&rpcs, &args.rpc)?;
    if args.json && rpc.extra.json.is_none() {
        let failure = Failure::usage(format!("{} prints no JSON", rpc.name()));
        return Err(failure.hint("--json is for status, profile, profile set, raise and read_only").into());
    }
    if let (true, Some(refuse)) = (args.leader, rpc.extra.refuse_leader) {
        return Err(refuse().into());
    }
    let request = rpc.request(&words)?;
    super::client_runtime()?.block_on(async {
        let manager = reach(args, rpc).await?;
        invoke(&manager, args, rpc, &request).await
    })
}

/// Returns the words behind the name of the RPC. The patterns of `--methods` are the last ones.
fn words(args: &AdminArgs, rpcs: &[Rpc]) -> Result<Vec<String>, Failure> {
    let takes_methods = rpcs::find(rpcs, &args.rpc).is_ok_and(|rpc| rpc.extra.rpc == read_only::EXTRA.rpc);
    if !args.methods.is_empty() && !takes_methods {
        return Err(Failure::usage(format!("--methods is for read_only, and not for {}", args.rpc)));
    }
    Ok([&args.arguments[..], &args.methods[..]].concat())
}

/// Connects to the node to call.
async fn reach(args: &AdminArgs, rpc: &Rpc) -> anyhow::Result<Manager> {
    let finds_leader = args.leader || rpc.extra.finds_leader;
    if !finds_leader && args.addr.contains(',') {
        let failure = Failure::usage("these are several addresses, and an RPC is asked of one node");
        return Err(failure.hint("give one address, or --leader to find the leader among them").into());
    }
    match finds_leader {
        true => leader::find(&args.addr, &args.credentials, args.timeout).await,
        false => {
            let server = client::connect(&args.addr, &args.credentials, CONNECT_PATIENCE).await?;
            Ok(Manager::new(server, args.timeout))
        }
    }
}

async fn invoke(manager: &Manager, args: &AdminArgs, rpc: &Rpc, request: &DynamicMessage) -> anyhow::Result<()> {
    let reply = say(manager, args, rpc, request).await?;
    if !is_operation(&reply) {
        return Ok(());
    }
    let outcome = with_transfers(manager.server(), say(manager, args, &known("Await"), &reply)).await?;
    // The operation is over, whatever happens to its token. A node that was shut down may be gone
    // already.
    if let Err(error) = say(manager, args, &known("Forget"), &reply).await {
        print_notice(format_args!("the operation ended, but its token was not forgotten: {error}"));
    }
    match operation_error(&outcome) {
        Some(error) => Err(Failure::new(format!("{} failed: {error}", rpc.method.name())).into()),
        None => Ok(()),
    }
}

/// Calls the RPC. Prints request and reply, or what the RPC says in words of its own.
async fn say(
    manager: &Manager,
    args: &AdminArgs,
    rpc: &Rpc,
    request: &DynamicMessage,
) -> anyhow::Result<DynamicMessage> {
    let Extra { answer, json, hint, .. } = rpc.extra;
    let answer = if args.json { json } else { answer };
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
        Some(answer) => print_line(answer(&Answered { addr: &args.addr, request, reply: &reply })?)?,
        None => {
            let shown = text::format(&reply, Defaults::Shown);
            let separator = if shown.contains('\n') { "\n" } else { " " };
            print_line(format!("Response:{separator}{shown}").trim_end())?;
        }
    }
    Ok(reply)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use prost_reflect::MethodDescriptor;

    #[test]
    fn help_lists_every_rpc_with_its_arguments() {
        let help = help();
        for rpc in rpcs() {
            assert!(help.contains(&format!("  {}\n", rpc.usage())), "{}", rpc.name());
        }
        for service in ["RaftManager", "lockstep.v1.Admin"] {
            let service = manager::descriptors().get_service_by_name(service).unwrap();
            let has_one_request =
                |method: &MethodDescriptor| !method.is_client_streaming() && !method.is_server_streaming();
            for method in service.methods().filter(has_one_request) {
                assert!(help.contains(&format!("\n  {}", text::snake_case(method.name()))), "{}", method.name());
            }
        }
        for usage in [
            raise::USAGE,
            "profile",
            "read_only <on|off> [methods]...",
            "resync [from]",
            "set_log_time <time> [sure]",
            "status",
        ] {
            assert!(help.contains(&format!("  {usage}\n")), "{usage}");
        }
    }

    #[derive(Debug, clap::Parser)]
    struct Typed {
        #[command(flatten)]
        args: AdminArgs,
    }

    fn typed(line: &str) -> AdminArgs {
        let words = ["admin", "localhost:1"].into_iter().chain(line.split(' '));
        <Typed as clap::Parser>::try_parse_from(words).unwrap().args
    }

    #[test]
    fn methods_are_patterns_of_read_only_alone() {
        let words = |line: &str| words(&typed(line), &rpcs());
        let expected = ["on", "a.B/C", "a.D/*"];
        for line in
            ["read_only on --methods a.B/C,a.D/*", "read_only on a.B/C a.D/*", "ReadOnly on a.B/C --methods a.D/*"]
        {
            assert_eq!(words(line).unwrap(), expected, "{line}");
        }
        for line in ["raise --methods a.B/C", "profile set a=1 --methods a.B/C", "stats --methods a.B/C"] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn json_is_refused_where_there_is_none() {
        let error = run(&typed("stats --json")).unwrap_err();
        assert!(error.to_string().contains("stats prints no JSON"), "{error}");
        let rpcs = rpcs();
        for name in ["status", "profile", "read_only"] {
            assert!(rpcs::find(&rpcs, name).unwrap().extra.json.is_some(), "{name}");
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
