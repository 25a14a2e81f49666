//! Writes the script that shows a difference, for `lockstep guest test`. `cli/guest/shrink.rs`
//! makes it. Where no script can show the difference, this file says why, and what to do instead.

use std::io::Write;
use std::path::Path;

use anyhow::Context;

use super::create;
use crate::cli::guest::shrink::{Shrunk, plain, shrink};
use crate::machine::replay::{Base, Kept, RanCommand, Replay};
use crate::node::replay::Opened;

/// Writes the script of the commands up to the one that the candidate answers differently. Returns
/// what to say about it.
pub(super) fn of_candidate(
    replay: &Replay<'_>,
    opened: &Opened,
    candidate: &[u8],
    path: &Path,
) -> anyhow::Result<Vec<String>> {
    let commands = commands(replay);
    let Some(last) = commands.last() else { return Ok(Vec::new()) };
    let place = format!("entry {}.{}", last.index, last.position);
    match shrink(&commands, replay.component().encoded(), candidate)? {
        Shrunk::Script { lines, attempts, old, new } => {
            let head = [
                format!("# {place} of the log, {}: the candidate answers differently than history.", last.method),
                format!("# The recorded guest answers {old}"),
                format!("# The candidate answers      {new}"),
            ];
            write(path, &head, &lines)?;
            Ok(vec![format!(
                "{} shows it in {} calls, found in {attempts} attempts: lockstep guest test <candidate> --script {}",
                path.display(),
                lines.len(),
                path.display()
            )])
        }
        Shrunk::Impossible(why) => {
            let mut notes = vec![format!("no script was written: {why}")];
            notes.push(instead(replay.kept(), &opened.base));
            Ok(notes)
        }
    }
}

/// Writes the script of the last commands before a hash differs: what history answered is not
/// known, so nothing is left out, and nothing is expected. Returns what to say about it.
pub(super) fn of_history(replay: &Replay<'_>, path: &Path) -> anyhow::Result<Vec<String>> {
    let commands = commands(replay);
    let (lines, left_out) = plain(&commands, replay.component().encoded())?;
    let head = [
        "# The last commands before the hash of the replay differs from that of history.".to_owned(),
        "# What history answered is not recorded, so this expects nothing, and is not made smaller.".to_owned(),
        "# Run it by both builds or on both machines, and compare the digests at the end.".to_owned(),
    ];
    write(path, &head, &lines)?;
    let mut notes = vec![format!("{} has the last {} commands before it", path.display(), lines.len())];
    if left_out > 0 {
        notes.push(format!("{left_out} commands have no line, because their requests have no JSON form"));
    }
    Ok(notes)
}

fn commands<'a>(replay: &'a Replay<'_>) -> Vec<&'a RanCommand> {
    replay.kept().map(|kept| kept.commands().collect()).unwrap_or_default()
}

/// Says what to do where the state before the commands is a part of the difference.
fn instead(kept: Option<&Kept>, base: &Base) -> String {
    let is_whole = kept.is_some_and(|kept| kept.left_out() == 0) && matches!(base, Base::Empty);
    match is_whole {
        true => "look at the command with --at, here and in a replay of the candidate's own log".to_owned(),
        false => format!(
            "the difference may need rows from before the commands that were kept, which a script cannot have (it begins at {}): begin at entry 0 \
             with --log, or make two clusters of one backup with `lockstep restore --from`, one of them with --fsm, and call both",
            base.words()
        ),
    }
}

fn write(path: &Path, head: &[String], lines: &[String]) -> anyhow::Result<()> {
    let mut file = create(path)?;
    let text: String = head.iter().chain(lines).map(|line| format!("{}\n", line.replace(['\n', '\r'], " "))).collect();
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_instead_depends_on_where_the_replay_began() {
        assert!(instead(Some(&Kept::default()), &Base::Empty).contains("--at"));
        assert!(instead(None, &Base::Empty).contains("lockstep restore"));
    }
}
