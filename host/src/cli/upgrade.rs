//! `lockstep upgrade`: sends a new guest to the leader of a running cluster, has it take the steps
//! of the change, and prints them. The leader decides and does all; this file only asks.

mod probation;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use futures::stream;
use lockstep_proto::v1::admin_client::AdminClient;
use lockstep_proto::v1::upgrade_event::Step;
use lockstep_proto::v1::{PutComponentRequest, PutComponentResponse, UpgradeEvent, UpgradeRequest};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::client::Client;
use super::credentials::Credentials;
use super::progress::{Line, mebibytes};
use super::report::{Failure, print_line};
use super::{door, leader};
use crate::guest::Component;
use crate::machine::rehearsal::COMMANDS_MAX;
use crate::types::hex;
use probation::{Figures, Place, Watching};

/// Bytes of the file in one message.
const CHUNK_BYTES: usize = 256 << 10;
/// Most bytes of one step as it is told.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Commands of the log that a rehearsal runs again if nobody says how many.
pub(super) const REHEARSE_DEFAULT: u32 = 1_000;
/// What is not known when the node stops telling of a change.
pub(super) const WHETHER: &str = "the change was made";
/// Time after which the line of progress is drawn anew.
const TICK: Duration = Duration::from_secs(1);
/// Begins the text of a difference of the state, as the leader tells it.
const STATE_SUBJECT: &str = "state tag ";
/// Where an operator sees which guest runs.
pub(super) const STATUS_SHOWS: &str = "`lockstep admin <addr> status` shows under fsm what the cluster runs";
/// Most commands that a rehearsal runs again.
pub(super) const REHEARSE_MAX: u32 = COMMANDS_MAX as u32;

const AFTER_HELP: &str = "\
The leader checks the guest, and compares what it serves with what is served now. Every member of the cluster fetches and
compiles it. Then all of them try the change out on their states as of one log entry: the guest's migration, its snapshot and
restore, and the last commands of the log by the old guest and the new one. Only if all come to the same result, one log
entry makes the change, on every node at once. Clients may go on meanwhile. What can go wrong before that entry leaves
everything as it was. docs/upgrade.md tells more.

Exit codes: 0 changed, or the dry run went well; 1 not changed, or taken back; 2 the command cannot work as it was typed;
3 not known whether the change was made.

Examples:
  lockstep upgrade localhost:40051 my_machine-2.wasm --dry_run
  lockstep upgrade localhost:40051 my_machine-2.wasm
  lockstep upgrade localhost:40051,localhost:40052 my_machine-2.wasm --rehearse 10000 --quiet
  lockstep upgrade localhost:40051 my_machine-2.wasm --auto_rollback --max_failed 2% --max_slower 3x
  lockstep upgrade localhost:40051 my_machine-2.wasm --allow_breaking --json";

/// Replace the guest of a running cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct UpgradeArgs {
    /// End before the change is made
    #[arg(long = "dry_run")]
    dry_run: bool,

    /// Make the change although clients of the present guest would fail, or misread replies, or
    /// although the new guest would misread rows that it does not migrate
    #[arg(long = "allow_breaking")]
    allow_breaking: bool,

    /// Most commands of the log that the rehearsal runs again
    #[arg(long = "rehearse", value_name = "COUNT", default_value_t = REHEARSE_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(REHEARSE_MAX)))]
    rehearse: u32,

    /// Leave the rehearsal out
    #[arg(long = "no_rehearsal", conflicts_with = "rehearse")]
    no_rehearsal: bool,

    /// How long the change may be taken back, in log time; 0s means never. The log is kept from the
    /// change on until then
    #[arg(long = "probation", value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    probation: Duration,

    /// Say of replies that differ only that they do, and nothing of what clients sent and got
    #[arg(long = "quiet")]
    quiet: bool,

    /// One JSON object a line, for programs: {"step": "checked"}, then "prepared", "rehearsed", and
    /// "changed" or "not_changed", each with what was found
    #[arg(long = "json")]
    json: bool,

    #[command(flatten)]
    watching: Watching,

    #[command(flatten)]
    credentials: Credentials,

    /// The grpc_addr of a node; or of several, separated by commas. The leader is found through
    /// them
    #[arg(value_name = "HOST:PORT,…")]
    addr: String,

    /// The new guest: a component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Whom `lockstep admin` asks for the steps of a change, and how it prints them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Addresses through which the leader is found.
    pub(crate) addr: &'a str,
    pub(crate) credentials: &'a Credentials,
    /// Limit of each call.
    pub(crate) timeout: Option<Duration>,
    /// Whether programs read it.
    pub(crate) json: bool,
}

/// Takes the steps of one change.
pub(crate) fn run(args: &UpgradeArgs) -> anyhow::Result<()> {
    if args.probation.as_millis() == 0 && args.watching.thresholds().is_some() {
        let failure = Failure::usage("without a probation there is nothing to watch, and nothing can be taken back");
        return Err(failure.hint("leave out --probation 0s, or --auto_rollback and the thresholds").into());
    }
    let file = read(&args.file)?;
    super::client_runtime()?.block_on(async {
        let manager = leader::find(&args.addr, &args.credentials, None).await?;
        let server = manager.server();
        let kept = send(server, file).await?;
        let before = match args.watching.thresholds() {
            Some(_) => Some(Figures::ask(server).await?),
            None => None,
        };
        let component = hex(&kept.component_hash);
        let (Some(change_index), Some(before)) = (follow(args, server, kept).await?, before) else {
            return Ok(());
        };
        let UpgradeArgs { addr, credentials, json, quiet, .. } = args;
        let place = Place { addrs: addr, credentials, change_index, component, json: *json, quiet: *quiet };
        args.watching.watch(place, server, before).await
    })
}

/// Reads the guest. What no node would take is refused before anything is sent.
fn read(path: &Path) -> anyhow::Result<Bytes> {
    let read = std::fs::read(path);
    let file = read.map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Component::check(&file).with_context(|| format!("nodes would refuse {}", path.display()))?;
    Ok(file.into())
}

/// Has the leader take in the guest.
async fn send(server: &Client, file: Bytes) -> anyhow::Result<PutComponentResponse> {
    let mut line = Line::new();
    line.draw(&format!("sending {} and compiling it there", mebibytes(file.len() as u64)));
    let mut client = AdminClient::new(server.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    match client.put_component(stream::iter(messages(&file))).await {
        Ok(kept) => Ok(kept.into_inner()),
        Err(status) => Err(failed(server, status, None).await),
    }
}

/// Cuts the file into messages.
fn messages(file: &Bytes) -> Vec<PutComponentRequest> {
    let chunk = |at: usize| file.slice(at..file.len().min(at + CHUNK_BYTES));
    let bytes = |at: usize| if at == 0 { file.len() as u64 } else { 0 };
    let starts = (0..file.len().max(1)).step_by(CHUNK_BYTES);
    starts.map(|at| PutComponentRequest { bytes: bytes(at), chunk: chunk(at) }).collect()
}

/// Has the leader make the change, and prints its steps. Returns the index of its entry if it was
/// made.
async fn follow(args: &UpgradeArgs, server: &Client, kept: PutComponentResponse) -> anyhow::Result<Option<u64>> {
    let request = UpgradeRequest {
        component_hash: kept.component_hash,
        dry_run: args.dry_run,
        allow_breaking: args.allow_breaking,
        rehearse: if args.no_rehearsal { 0 } else { args.rehearse },
        probation_ms: u64::try_from(args.probation.as_millis()).unwrap_or(u64::MAX),
        quiet: args.quiet,
    };
    let whether = (!args.dry_run).then_some(WHETHER);
    let mut client = AdminClient::new(server.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let events = match client.upgrade(request).await {
        Ok(events) => events.into_inner(),
        Err(status) => return Err(failed(server, status, whether).await),
    };
    let next = |event: Option<&UpgradeEvent>| event.and_then(|event| next_step(event.step(), args));
    let last = tell(server, events, args.json, whether, next).await?;
    let change_index = last.as_ref().filter(|event| event.step() == Step::Changed).map(index_of);
    end(args, last)?;
    Ok(change_index)
}

/// Prints the steps of an upgrade or of a rollback as they are told. `next` says what goes on
/// behind a step, or before the first. `whether` is what is not known if the stream breaks; `None`
/// in a dry run. Returns the last step.
pub(super) async fn tell(
    server: &Client,
    mut events: Streaming<UpgradeEvent>,
    json: bool,
    whether: Option<&str>,
    mut next: impl FnMut(Option<&UpgradeEvent>) -> Option<&'static str>,
) -> anyhow::Result<Option<UpgradeEvent>> {
    let (mut line, mut last) = (Line::new(), None);
    let mut doing = next(None).map(|words| Doing::new(words, None));
    loop {
        if let Some(doing) = &doing {
            line.draw(&doing.words());
        }
        let event = match timeout(TICK, events.message()).await {
            Err(_) => continue,
            Ok(Ok(Some(event))) => event,
            Ok(Ok(None)) => break,
            // Also a node that ends the stream does not end what it has proposed.
            Ok(Err(status)) => return Err(broken(server, status, whether).await),
        };
        line.erase();
        if json {
            print_line(&event.json)?;
        } else if !matches!(event.step(), Step::NotChanged | Step::NotRolledBack) {
            print_line(&event.text)?;
        }
        doing = next(Some(&event)).map(|words| Doing::new(words, Some(&event)));
        last = Some(event);
    }
    line.erase();
    Ok(last)
}

/// What goes on behind a step.
struct Doing {
    words: &'static str,
    /// Who takes part, as far as the step says.
    members: String,
    began: Instant,
}

impl Doing {
    fn new(words: &'static str, behind: Option<&UpgradeEvent>) -> Doing {
        Doing { words, members: behind.map(members).unwrap_or_default(), began: Instant::now() }
    }

    fn words(&self) -> String {
        let Doing { words, members, began } = self;
        let who = if members.is_empty() { String::new() } else { format!(" ({members})") };
        format!("{words}{who}: {} s", began.elapsed().as_secs())
    }
}

/// Returns the members that a step names.
fn members(event: &UpgradeEvent) -> String {
    let object = serde_json::from_str::<serde_json::Value>(&event.json).unwrap_or_default();
    let named = ["members", "reports"].iter().find_map(|part| object[part].as_array());
    let names: Vec<&str> = named.into_iter().flatten().filter_map(|member| member["name"].as_str()).collect();
    names.join(", ")
}

/// Returns what goes on behind a step.
fn next_step(step: Step, args: &UpgradeArgs) -> Option<&'static str> {
    match step {
        Step::Checked => Some("every member fetches and compiles it"),
        Step::Prepared if !args.no_rehearsal => Some("every member rehearses the change on its state"),
        Step::Prepared | Step::Rehearsed if !args.dry_run => Some("the change is made"),
        _ => None,
    }
}

/// Says how the change ended, by its last step.
fn end(args: &UpgradeArgs, last: Option<UpgradeEvent>) -> anyhow::Result<()> {
    let went_well = if args.no_rehearsal { Step::Prepared } else { Step::Rehearsed };
    match last {
        Some(event) if event.step() == Step::Changed => Ok(()),
        Some(event) if event.step() == Step::NotChanged => {
            let failure = Failure::new(event.text);
            Err(match what_would_break(&event.json) {
                Some(hint) => failure.hint(hint).into(),
                None => failure.into(),
            })
        }
        _ if args.dry_run => end_dry_run(last.is_some_and(|event| event.step() == went_well), args.json),
        _ => Err(stopped_telling(WHETHER, STATUS_SHOWS)),
    }
}

/// Says how a dry run ended. It went well if its last step was told.
pub(super) fn end_dry_run(went_well: bool, json: bool) -> anyhow::Result<()> {
    match (went_well, json) {
        (true, true) => Ok(()),
        (true, false) => print_line("this was a dry run: nothing was changed"),
        (false, _) => Err(Failure::new("the node stopped telling of the dry run").into()),
    }
}

/// Returns the failure for a change of which the node told no end. `whether` is what is not known,
/// and `hint` says where it is shown.
pub(super) fn stopped_telling(whether: &str, hint: &str) -> anyhow::Error {
    Failure::new("the node stopped telling of it").not_known(whether).hint(hint).into()
}

/// Returns the index of the entry that an event names; 0 if it names none.
fn index_of(event: &UpgradeEvent) -> u64 {
    let object = serde_json::from_str::<serde_json::Value>(&event.json).unwrap_or_default();
    object["index"].as_u64().unwrap_or(0)
}

/// Returns what to do about a change that was not made because clients would break, or because rows
/// would be misread; `None` if it was not made for another reason.
fn what_would_break(json: &str) -> Option<&'static str> {
    let event = serde_json::from_str::<serde_json::Value>(json).ok()?;
    let mut texts = event["differences"].as_array()?.iter().filter_map(|difference| difference["text"].as_str());
    Some(match texts.any(|text| text.starts_with(STATE_SUBJECT)) {
        true => {
            "give the new guest a `migrate!` rule for the version that runs now, which rewrites these rows; with --allow_breaking \
             it misreads them"
        }
        false => "if no such client is left, or all can bear it: --allow_breaking",
    })
}

/// Returns the failure for a gRPC error. `whether` is what the call does, if it changes something.
pub(super) async fn failed(server: &Client, status: Status, whether: Option<&str>) -> anyhow::Error {
    match whether {
        Some(whether) => door::failure_of_change(server, status, whether).await.into(),
        None => door::failure(server, status).await.into(),
    }
}

/// Returns the failure for a stream of steps that ended with a gRPC error.
async fn broken(server: &Client, status: Status, whether: Option<&str>) -> anyhow::Error {
    let failure = door::failure(server, status).await;
    match whether {
        Some(whether) => failure.not_known(whether).into(),
        None => failure.into(),
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
        args: UpgradeArgs,
    }

    fn typed(words: &[&str]) -> Result<UpgradeArgs, clap::Error> {
        let words = ["upgrade"].iter().chain(words).chain(&["localhost:1", "a.wasm"]);
        Typed::try_parse_from(words).map(|typed| typed.args)
    }

    fn event(step: Step, json: &str) -> Option<UpgradeEvent> {
        Some(UpgradeEvent { step: step.into(), text: "said".into(), json: json.into() })
    }

    #[test]
    fn a_file_is_sent_whole_and_its_size_first() {
        for size in [1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let file: Bytes = (0..size).map(|n| n as u8).collect::<Vec<_>>().into();
            let sent = messages(&file);
            assert_eq!(sent.iter().map(|message| message.bytes).sum::<u64>(), size as u64);
            assert_eq!(sent[0].bytes, size as u64);
            assert_eq!(sent.iter().flat_map(|message| message.chunk.to_vec()).collect::<Vec<_>>(), file);
        }
    }

    #[test]
    fn flags_have_defaults_and_contradictions_are_refused() {
        let args = typed(&[]).unwrap();
        assert_eq!((args.rehearse, args.probation, args.dry_run), (1000, Duration::from_secs(600), false));
        assert_eq!(typed(&["--probation", "90s"]).unwrap().probation, Duration::from_secs(90));
        assert!(typed(&["--no_rehearsal"]).unwrap().no_rehearsal);
        for words in [&["--no_rehearsal", "--rehearse", "5"][..], &["--rehearse", "0"], &["--probation", "soon"]] {
            assert_eq!(typed(words).unwrap_err().exit_code(), 2, "{words:?}");
        }
    }

    #[test]
    fn nothing_is_watched_without_a_probation() {
        for words in [&["--probation", "0s", "--auto_rollback"][..], &["--probation", "0s", "--max_failed", "1%"]] {
            let error = run(&typed(words).unwrap()).unwrap_err();
            assert!(error.to_string().contains("there is nothing to watch"), "{words:?}: {error}");
        }
    }

    #[test]
    fn what_goes_on_names_who_takes_part() {
        let prepared = event(Step::Prepared, r#"{"members": [{"name": "nodeA"}, {"name": "nodeB"}]}"#);
        let rehearsed = event(Step::Rehearsed, r#"{"reports": [{"name": "nodeA"}]}"#);
        assert_eq!(Doing::new("all rehearse", prepared.as_ref()).words(), "all rehearse (nodeA, nodeB): 0 s");
        assert_eq!(members(&rehearsed.unwrap()), "nodeA");
        assert_eq!(Doing::new("all prepare", None).words(), "all prepare: 0 s");
    }

    #[test]
    fn the_end_is_told_by_the_last_step() {
        let (full, dry) = (typed(&["--json"]).unwrap(), typed(&["--dry_run", "--json"]).unwrap());
        let untried = typed(&["--dry_run", "--no_rehearsal", "--json"]).unwrap();
        for (args, step, is_fine) in [
            (&full, Step::Changed, true),
            (&full, Step::NotChanged, false),
            (&full, Step::Rehearsed, false),
            (&dry, Step::Rehearsed, true),
            (&dry, Step::Prepared, false),
            (&untried, Step::Prepared, true),
            (&dry, Step::NotChanged, false),
        ] {
            assert_eq!(end(args, event(step, "{}")).is_ok(), is_fine, "{step:?} {args:?}");
        }
        assert!(end(&full, None).is_err());
    }

    #[test]
    fn clients_that_would_break_are_hinted_at() {
        let args = typed(&[]).unwrap();
        let hint =
            |json| format!("{:?}", end(&args, event(Step::NotChanged, json)).unwrap_err().downcast_ref::<Failure>());
        assert!(hint(r#"{"differences": []}"#).contains("--allow_breaking"));
        assert!(
            hint(r#"{"differences": [{"text": "S/A: it is gone", "breaking": true}]}"#).contains("--allow_breaking")
        );
        let state = hint(r#"{"differences": [{"text": "state tag 1: was a, and is b now", "breaking": true}]}"#);
        assert!(state.contains("a `migrate!` rule") && !state.contains("no such client"), "{state}");
        assert!(!hint(r#"{"reason": "no"}"#).contains("--allow_breaking"));
    }
}
