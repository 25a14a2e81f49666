//! Says what a candidate answers differently than the recorded guest, and what both cost.

use std::path::Path;

use anyhow::Context;
use lockstep_contract::Contract;

use super::{ReplayArgs, component, script};
use crate::api::Answers;
use crate::cli::report::{Failure, print_line};
use crate::guest::Component;
use crate::machine::rehearsal::report::SideReport;
use crate::machine::replay::{Compared, Replay, Tell};
use crate::node::replay::{Opened, read_component};

/// Runs the entries of a range by both, and says what was found.
pub(super) fn compare(
    args: &ReplayArgs,
    opened: &Opened,
    replay: &mut Replay<'_>,
    candidate: &Path,
    (from, last): (Option<u64>, u64),
    tell: Tell<'_>,
) -> anyhow::Result<()> {
    let encoded = read_component(candidate)?;
    let contract = contract(&encoded).with_context(|| format!("nodes would refuse {}", candidate.display()))?;
    if let Some(before) = from.and_then(|from| from.checked_sub(1)).filter(|before| *before >= opened.base.next()) {
        replay.run_to(before, tell)?;
    }
    let recorded = replay.component().clone();
    let found = replay.compare(&encoded, last, args.break_on_difference, tell)?;
    let old = Contract::new(recorded.descriptor(), recorded.has_watcher()).ok();
    let answers = Answers::new(old.as_ref(), &contract, args.quiet);
    if args.json {
        print_line(answers.shown(&found, &found.differences))?;
    } else {
        print_line(format!("{}{}", words(&found), answers.lines_of(found.differences.iter())))?;
    }
    if found.different == 0 {
        return Ok(());
    }
    let (different, commands) = (found.different, found.commands);
    let mut failure = Failure::new(format!("the candidate answers {different} of {commands} commands differently"));
    if let Some(path) = &args.script {
        let notes = script::of_candidate(replay, opened, &encoded, path)?;
        failure = notes.into_iter().fold(failure, Failure::note);
    }
    Err(failure.into())
}

fn contract(encoded: &[u8]) -> anyhow::Result<Contract> {
    let checked = Component::check(encoded)?;
    Ok(Contract::new(checked.descriptor.as_deref(), checked.has_watcher)?)
}

fn words(found: &Compared) -> String {
    let Compared { first_index, last_index, entries, commands, different, .. } = found;
    let migration = &found.migration;
    let state = match migration.calls {
        0 => "kept as it is".to_owned(),
        calls => format!(
            "migrated by {calls} calls, {} rows written and {} removed",
            migration.rows_written, migration.rows_removed
        ),
    };
    let side = |side: &SideReport| {
        let SideReport { refused, failed, fuel, elapsed_us, .. } = side;
        format!("{refused} refused, {failed} failed, {fuel} fuel, {}.{} ms", elapsed_us / 1000, elapsed_us % 1000 / 100)
    };
    let ended = if found.is_broken_off { ", where the replay ended" } else { "" };
    format!(
        "ran entries {first_index} to {last_index} by both: {entries} entries, {commands} commands, {different} answered differently{ended}\n\
         recorded   {}: {}\ncandidate  {}: {}\nstate      {state}",
        component(&found.recorded.version, &found.recorded.hash),
        side(&found.old),
        component(&found.candidate.version, &found.candidate.hash),
        side(&found.new),
    )
}
