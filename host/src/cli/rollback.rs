//! `lockstep rollback`: has the leader of a cluster take the last change of the guest back, and
//! prints the steps. The leader decides and does all; this file only asks.

use lockstep_proto::v1::admin_client::AdminClient;
use lockstep_proto::v1::upgrade_event::Step;
use lockstep_proto::v1::{RollbackRequest, UpgradeEvent};

use super::client::Client;
use super::credentials::Credentials;
use super::leader;
use super::report::Failure;
use super::upgrade::{MESSAGE_BYTES_MAX, STATUS_SHOWS, end_dry_run, failed, stopped_telling, tell};

/// What is not known when the node stops telling.
const WHETHER: &str = "the change was taken back";

const AFTER_HELP: &str = "\
While a change is on probation, every node has the state from before it, and the log since. On every member of the cluster the
old guest runs all commands since the change once more, while the new one goes on serving. What it answers differently than
clients were told is listed. Then one log entry puts the old guest in force over the result, on every node at once: no command
is lost. docs/upgrade.md tells more.

Exit codes: 0 rolled back, or the dry run went well; 1 not rolled back; 2 the command cannot work as it was typed; 3 not known
whether the change was taken back.

Examples:
  lockstep rollback localhost:40051 --dry_run
  lockstep rollback localhost:40051,localhost:40052
  lockstep rollback localhost:40051 --without nodeC";

/// Take the last change of the guest back, without losing a command.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RollbackArgs {
    /// End before anything is changed
    #[arg(long = "dry_run")]
    dry_run: bool,

    /// Leave a member out that cannot prepare, by its raft_id; may be repeated. If it has not got
    /// the state from before the change, it leaves service at the rollback, until `lockstep admin
    /// <addr> resync` gives it another node's state
    #[arg(long = "without", value_name = "RAFT_ID")]
    without: Vec<String>,

    /// Say of answers that differ only that they do, and nothing of what clients sent and got
    #[arg(long = "quiet")]
    quiet: bool,

    /// One JSON object a line, for programs: {"step": "prepared"}, then "rolled_back" or
    /// "not_rolled_back"
    #[arg(long = "json")]
    json: bool,

    #[command(flatten)]
    credentials: Credentials,

    /// The grpc_addr of a node; or of several, separated by commas. The leader is found through
    /// them
    #[arg(value_name = "HOST:PORT,…")]
    addr: String,
}

/// Takes the steps of one rollback.
pub(crate) fn run(args: &RollbackArgs) -> anyhow::Result<()> {
    super::client_runtime()?.block_on(async {
        let manager = leader::find(&args.addr, &args.credentials, None).await?;
        let request = RollbackRequest { dry_run: args.dry_run, without: args.without.clone(), quiet: args.quiet };
        let last = ask(manager.server(), request, args.json).await?;
        end(args, last)
    })
}

/// Has the leader roll back, and prints its steps. Returns the last one.
pub(super) async fn ask(server: &Client, request: RollbackRequest, json: bool) -> anyhow::Result<Option<UpgradeEvent>> {
    let is_dry_run = request.dry_run;
    let whether = (!is_dry_run).then_some(WHETHER);
    let mut client = AdminClient::new(server.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let events = match client.rollback(request).await {
        Ok(events) => events.into_inner(),
        Err(status) => return Err(failed(server, status, whether).await),
    };
    let next = |event: Option<&UpgradeEvent>| match event.map(|event| event.step()) {
        None => Some("every member runs the commands since the change once more"),
        Some(Step::Prepared) if !is_dry_run => Some("the change is taken back"),
        Some(_) => None,
    };
    tell(server, events, json, whether, next).await
}

/// Says how the rollback ended, by its last step.
fn end(args: &RollbackArgs, last: Option<UpgradeEvent>) -> anyhow::Result<()> {
    match last {
        Some(event) if event.step() == Step::RolledBack => Ok(()),
        Some(event) if event.step() == Step::NotRolledBack => Err(Failure::new(event.text).into()),
        _ if args.dry_run => end_dry_run(last.is_some_and(|event| event.step() == Step::Prepared), args.json),
        _ => Err(stopped_telling(WHETHER, STATUS_SHOWS)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        args: RollbackArgs,
    }

    fn typed(words: &[&str]) -> RollbackArgs {
        let words = ["rollback"].iter().chain(words).chain(&["localhost:1"]);
        Typed::try_parse_from(words).unwrap().args
    }

    #[test]
    fn the_end_is_told_by_the_last_step() {
        let (full, dry) = (typed(&["--json"]), typed(&["--dry_run", "--json"]));
        for (args, step, is_fine) in [
            (&full, Step::RolledBack, true),
            (&full, Step::NotRolledBack, false),
            (&full, Step::Prepared, false),
            (&dry, Step::Prepared, true),
            (&dry, Step::NotRolledBack, false),
        ] {
            let event = UpgradeEvent { step: step.into(), text: "said".into(), json: "{}".into() };
            assert_eq!(end(args, Some(event)).is_ok(), is_fine, "{step:?} {args:?}");
        }
        assert!(end(&full, None).is_err());
        assert_eq!(typed(&["--without", "nodeB", "--without", "nodeC"]).without, ["nodeB", "nodeC"]);
    }
}
