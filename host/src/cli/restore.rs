//! `lockstep restore`: makes a data directory from a backup, on this machine, with no node running.
//! `node/restore.rs` does the work; this file says what came of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lockstep_contract::Difference;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::called::as_called;
use super::progress::{Line, mebibytes};
use super::report::{Failure, print_line};
use super::set_log_time::milliseconds;
use crate::config::NodeConfig;
use crate::machine::backup::Until;
use crate::machine::rehearsal::report::MigrationKind;
use crate::node::restore::{Behind, NotSucceeded, Plan, Progress, Restored, Succession, Tell, restore};

const AFTER_HELP: &str = "\
The directory <raft_data_dir>/<raft_id> must be empty or not there. What is made is the first node of a *new* cluster, with an id of its
own, that goes on from the state and the index of the backup; the component comes with the backup, and no --raft_bootstrap is needed. Members of the old cluster
do not belong to it. Other nodes are added to it as to any cluster. If members of the old cluster still run and speak to the addresses of this
node, it serves nothing and says so: stop them, or start it once with --raft_bootstrap=force.

With --log, the log behind the backup is applied to its state, by the same calls as on a node, to its end or to --to_index or --to_time.
It comes from --log_archive of a node, and from `lockstep backup --incremental`; several may be given, and overlap. What the entries say
of the state's hash is compared on the way. Changes of the guest and rollbacks are followed: --components names where the other guests
are, and that of --fsm is known, too. docs/archive.md tells all of it.

With --fsm, another guest takes the state over: its migration runs here, by the same calls as in `lockstep upgrade`, but without the bound
on what all calls write together. If it refuses or fails, nothing is left. With --dry_run, the result also passes through the guest's own
snapshot and restore, and all of it is removed; what remains is the report. docs/rows.md tells when this is the way to a new version.

Exit codes: 0 restored, or the dry run went well; 1 not; 2 the command cannot work as it was typed.

Examples:
  lockstep restore --from today.backup --raft_id=nodeA --raft_data_dir /srv/lockstep
  lockstep restore --from today.backup --log /mnt/archive/nodeA --to_time 2026-11-29T08:30:00Z --raft_id=nodeA --raft_data_dir /srv/lockstep
  lockstep restore --from today.backup --raft_id=nodeA --raft_data_dir /srv/lockstep --fsm my_machine-2.wasm --dry_run
  lockstep node --raft_id=nodeA --raft_data_dir /srv/lockstep";

/// Prepare the data directory of a new cluster's first node from a backup.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RestoreArgs {
    /// A file that `lockstep backup` wrote
    #[arg(long = "from", value_name = "FILE")]
    from: PathBuf,

    /// Name of the node, unique in its cluster; also the name of its data directory
    #[arg(long = "raft_id", env = "LOCKSTEP_RAFT_ID", value_name = "NAME")]
    raft_id: String,

    /// Directory that holds one directory for each node
    #[arg(long = "raft_data_dir", env = "LOCKSTEP_RAFT_DATA_DIR", value_name = "DIR", default_value = crate::config::RAFT_DATA_DIR)]
    raft_data_dir: PathBuf,

    /// Segment files of the log behind the backup, or a directory of them, such as
    /// <log_archive>/<raft_id>; may be given several times
    #[arg(long = "log", value_name = "DIR|FILE")]
    log: Vec<PathBuf>,

    /// Apply the log up to this entry [default: all of it]
    #[arg(long = "to_index", value_name = "INDEX", requires = "log", conflicts_with = "to_time")]
    to_index: Option<u64>,

    /// Apply the log up to the last entry whose log time is not later, such as
    /// 2026-11-29T08:30:00Z, or milliseconds since 1970
    #[arg(long = "to_time", value_name = "TIME", requires = "log", value_parser = time)]
    to_time: Option<u64>,

    /// Where the guests are that the log changes to: components/ of a node's data directory, or the
    /// file of one; may be given several times
    #[arg(long = "components", value_name = "DIR|FILE", requires = "log")]
    components: Vec<PathBuf>,

    /// The guest that takes the state over [default: that of the backup]
    #[arg(long = "fsm", value_name = "FILE")]
    fsm: Option<PathBuf>,

    /// Leave nothing behind; say what would become of the state
    #[arg(long = "dry_run", requires = "fsm")]
    dry_run: bool,

    /// One JSON object, for programs; with --fsm, also if the guest does not take the state over
    #[arg(long = "json")]
    json: bool,
}

fn time(text: &str) -> Result<u64, String> {
    let hint = "write it in UTC, as `date -u +%FT%TZ` does: 2026-11-29T08:30:00Z; or as milliseconds since 1970";
    milliseconds(text).ok_or_else(|| format!("this is no time; {hint}"))
}

/// Restores one backup.
pub(crate) fn run(args: &RestoreArgs) -> anyhow::Result<()> {
    let config = NodeConfig {
        name: args.raft_id.clone(),
        raft_data_dir: std::path::absolute(&args.raft_data_dir)?,
        ..NodeConfig::default()
    };
    config.validate()?;
    let directory = config.data_dir();
    let plan = Plan {
        file: &args.from,
        directory: &directory,
        name: &config.name,
        behind: behind(args),
        fsm: args.fsm.as_deref(),
        is_dry_run: args.dry_run,
    };
    let line = Arc::new(Mutex::new(Line::new()));
    let shown = line.clone();
    let tell: Tell = Arc::new(move |progress| shown.lock().draw(&doing(progress)));
    let restored = restore(&plan, &tell);
    line.lock().erase();
    match restored {
        Ok(restored) if args.json => print_line(json_of(args, &restored)?),
        Ok(restored) => say(args, restored),
        Err(error) => {
            if let (true, Some(succession)) = (args.json, not_succeeded(&error)) {
                print_line(json_of_succession(Some(succession))?)?;
            }
            Err(failed(error))
        }
    }
}

/// Says how far it has come.
fn doing(progress: Progress) -> String {
    match progress {
        Progress::Reading { bytes, of } => format!("reading the backup: {} of {}", mebibytes(bytes), mebibytes(of)),
        Progress::Applying { index, last } => format!("applying the log: entry {index} of {last}"),
        Progress::Migrating { calls } => format!("the guest migrates the state: {calls} calls so far"),
    }
}

/// Returns what programs read.
fn json_of(args: &RestoreArgs, restored: &Restored) -> serde_json::Result<Value> {
    let mut object = json_of_succession(restored.succession.as_ref())?;
    object["directory"] = json!(restored.directory.to_string_lossy());
    object["index"] = json!(restored.index);
    object["rows"] = json!(restored.rows);
    object["cluster"] = json!(restored.cluster);
    object["component"] = json!(restored.component);
    object["forwarded"] = serde_json::to_value(restored.forwarded)?;
    object["read_only"] = json!(restored.is_read_only);
    object["operation"] = json!(restored.operation);
    object["dry_run"] = json!(args.dry_run);
    Ok(object)
}

/// Returns what programs read of a guest that was to take the state over. It has nulls if none was.
fn json_of_succession(succession: Option<&Succession>) -> serde_json::Result<Value> {
    let Some(Succession { differences, report }) = succession else {
        return Ok(json!({ "differences": null, "report": null }));
    };
    let of = |found: &Difference| json!({ "text": found.to_string(), "breaking": found.breaks });
    let differences: Vec<Value> = differences.iter().map(of).collect();
    Ok(json!({ "differences": differences, "report": serde_json::to_value(report)? }))
}

/// Says what was restored.
fn say(args: &RestoreArgs, restored: Restored) -> anyhow::Result<()> {
    let Restored { directory, index, rows, cluster, component, forwarded, succession, is_read_only, operation } =
        restored;
    forwarded.iter().try_for_each(print_line)?;
    match (&succession, &args.fsm) {
        (Some(succession), _) => lines(succession).iter().try_for_each(print_line)?,
        (None, Some(fsm)) => print_line(format!("{} is the guest of the state already", fsm.display()))?,
        (None, None) => {}
    }
    if args.dry_run {
        return print_line("this was a dry run: nothing was restored");
    }
    // A migration has changed what the backup had.
    let rows = succession.map_or(format!("{rows} rows"), |succession| {
        format!("{} rows of the guest", succession.report.migration.rows_after)
    });
    print_line(format!(
        "restored {rows} as of index {index} into {}\nnew cluster {cluster}, component {component}",
        directory.display()
    ))?;
    kept(is_read_only, &operation).iter().try_for_each(print_line)?;
    print_line(as_called(&format!(
        "start it with: lockstep node --raft_id={} --raft_data_dir={}",
        args.raft_id,
        args.raft_data_dir.display()
    )))
}

/// Says what the new cluster keeps of what the operator of the old one had set.
fn kept(is_read_only: bool, operation: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    if is_read_only {
        lines.push(
            "the backup is of a cluster in read-only mode, and so the new cluster refuses the same commands; once it runs, \
             `lockstep admin <its grpc_addr> read_only off` ends that"
                .to_owned(),
        );
    }
    if !operation.is_empty() {
        let values: Vec<String> = operation.iter().map(|(key, value)| format!("{key}={value}")).collect();
        lines.push(format!(
            "the backup is of a cluster with retention or quotas in its profile, and the new cluster keeps them: {}; once it runs, \
             `lockstep admin <its grpc_addr> profile set <value>=none` ends one",
            values.join(" ")
        ));
    }
    lines
}

/// Returns the log to apply, and how far.
fn behind(args: &RestoreArgs) -> Behind<'_> {
    let until = match (args.to_index, args.to_time) {
        (Some(index), _) => Until::Index(index),
        (None, Some(time_ms)) => Until::TimeMs(time_ms),
        (None, None) => Until::End,
    };
    Behind { log: &args.log, until, components: &args.components }
}

/// Returns what is known of a guest that did not take the state over.
fn not_succeeded(error: &anyhow::Error) -> Option<&Succession> {
    error.chain().find_map(|cause| cause.downcast_ref::<NotSucceeded>()).map(|not| &*not.0)
}

/// Puts what is known of the state beside the error, if the guest did not take it over.
fn failed(error: anyhow::Error) -> anyhow::Error {
    let Some(succession) = not_succeeded(&error) else { return error };
    let report = &succession.report;
    let words = match report.snapshot.as_ref().and_then(|snapshot| snapshot.problem.as_ref()) {
        Some(problem) => format!("the guest cannot restore the state from its own snapshot: {problem}"),
        None => format!(
            "the guest does not take the state over ({}): {}",
            kind(report.migration.kind),
            report.migration.detail
        ),
    };
    let failure = Failure::new(format!("{words}; nothing was restored"));
    let failure = lines(succession).into_iter().fold(failure, Failure::note);
    report.migration.hint().into_iter().fold(failure, Failure::hint).into()
}

/// Returns what becomes of the state, in words.
fn kind(kind: MigrationKind) -> &'static str {
    match kind {
        MigrationKind::TooLarge => "too large",
        kind => kind.words(),
    }
}

/// Says what differs, and what the migration did.
fn lines(succession: &Succession) -> Vec<String> {
    let Succession { differences, report } = succession;
    let named = |version: &str, hash: &str| match version {
        "" => hash.to_owned(),
        version => format!("{hash}, version {version}"),
    };
    let mut lines = vec![
        format!("from      {}", named(&report.old.version, &report.old.hash)),
        format!("to        {}", named(&report.new.version, &report.new.hash)),
    ];
    lines.extend(differences.iter().map(|difference| {
        let mark = if difference.breaks { "BREAKS" } else { "fine" };
        format!("  {mark:<8}{difference}")
    }));
    let found = &report.migration;
    let state = match found.kind {
        MigrationKind::Migrated => "migrated",
        other => kind(other),
    };
    lines.push(format!("state     {state}; {} rows before, digest {}", found.rows_before, found.digest_before));
    if found.has_result() {
        lines.push(format!("          {} rows now, digest {}", found.rows_after, found.digest_after));
    }
    if found.calls > 0 {
        lines.push(format!(
            "          {} calls wrote {} rows and removed {}, {} bytes in all; fuel {}, {} ms, and {} ms to store the result",
            found.calls, found.rows_written, found.rows_removed, found.bytes_written, found.fuel, found.migrate_ms, found.store_ms
        ));
    }
    if let Some(snapshot) = &report.snapshot {
        let verdict = if snapshot.problem.is_some() { "wrong" } else { "exact" };
        lines.push(format!("snapshot  {verdict}, {} ms for both ways", snapshot.elapsed_ms));
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::machine::RehearsalReport;
    use crate::machine::rehearsal::report::{ComponentReport, MigrationReport, SnapshotReport};

    fn succession(migration: MigrationReport, snapshot: Option<SnapshotReport>) -> Succession {
        let component = |version: &str| ComponentReport { hash: "ab".into(), version: version.into() };
        let (old, new) = (component("1"), component(""));
        let report = RehearsalReport { old, new, migration, snapshot, ..RehearsalReport::default() };
        Succession { differences: Vec::new(), report }
    }

    #[test]
    fn what_the_new_cluster_keeps_is_said() {
        assert!(kept(false, &BTreeMap::new()).is_empty());
        let quotas = [("state_bytes_max", "65536"), ("watches_per_node_max", "7")];
        let quotas = quotas.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let lines = kept(true, &quotas);
        assert!(lines[0].contains("in read-only mode") && lines[0].contains("read_only off"), "{lines:?}");
        assert!(lines[1].contains("keeps them: state_bytes_max=65536 watches_per_node_max=7;"), "{lines:?}");
        assert!(lines[1].contains("profile set <value>=none") && lines.len() == 2, "{lines:?}");
    }

    #[test]
    fn programs_get_the_report_and_people_how_far_it_is() {
        let object = json_of_succession(Some(&succession(MigrationReport::default(), None))).unwrap();
        assert_eq!((&object["differences"], &object["report"]["migration"]["kind"]), (&json!([]), &json!("kept")));
        assert!(json_of_succession(None).unwrap()["report"].is_null());
        assert_eq!(doing(Progress::Reading { bytes: 1 << 20, of: 3 << 20 }), "reading the backup: 1.0 MiB of 3.0 MiB");
        assert_eq!(doing(Progress::Applying { index: 7, last: 9 }), "applying the log: entry 7 of 9");
    }

    #[test]
    fn what_becomes_of_the_state_is_said() {
        let migration = MigrationReport {
            kind: MigrationKind::Migrated,
            rows_before: 3,
            rows_after: 2,
            rows_written: 2,
            rows_removed: 1,
            bytes_written: 40,
            calls: 1,
            fuel: 500,
            migrate_ms: 2,
            store_ms: 1,
            digest_before: "01".into(),
            digest_after: "02".into(),
            ..MigrationReport::default()
        };
        let snapshot = Some(SnapshotReport { problem: None, elapsed_ms: 4 });
        let expected = [
            "from      ab, version 1",
            "to        ab",
            "state     migrated; 3 rows before, digest 01",
            "          2 rows now, digest 02",
            "          1 calls wrote 2 rows and removed 1, 40 bytes in all; fuel 500, 2 ms, and 1 ms to store the result",
            "snapshot  exact, 4 ms for both ways",
        ];
        assert_eq!(lines(&succession(migration, snapshot)), expected);
    }

    #[test]
    fn a_guest_that_does_not_take_the_state_over_is_told_of() {
        let told = |kind, snapshot| {
            let migration = MigrationReport { kind, detail: "why".into(), ..MigrationReport::default() };
            let not = NotSucceeded(Box::new(succession(migration, snapshot)));
            failed(anyhow::Error::from(not).context("not restored")).to_string()
        };
        let refused = told(MigrationKind::Refused, None);
        assert_eq!(refused, "the guest does not take the state over (refused): why; nothing was restored");
        assert!(told(MigrationKind::TooLarge, None).contains("(too large)"));
        let problem = Some(SnapshotReport { problem: Some("a row is gone".into()), elapsed_ms: 1 });
        assert!(told(MigrationKind::Kept, problem).contains("its own snapshot: a row is gone"));
        assert_eq!(failed(anyhow::Error::msg("disk")).to_string(), "disk");
    }
}
