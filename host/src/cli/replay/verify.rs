//! Says whether the hashes of a replay are those that history recorded.

use super::{ReplayArgs, script};
use crate::cli::report::{Failure, print_line};
use crate::machine::replay::{HashDifference, Replay, Tell, Verified};
use crate::node::replay::Opened;

/// Runs the entries, and says what was compared.
pub(super) fn verify(
    args: &ReplayArgs,
    opened: &Opened,
    replay: &mut Replay<'_>,
    last: u64,
    tell: Tell<'_>,
) -> anyhow::Result<()> {
    let found = replay.verify(last, &opened.landmarks, tell)?;
    if args.json {
        print_line(serde_json::to_string(&found)?)?;
    } else {
        print_line(words(&found, &opened.base.words()))?;
    }
    match &found.difference {
        Some(difference) => Err(differs(args, replay, difference)?.into()),
        None if found.hashes == 0 => Err(Failure::new("nothing was compared: no hash is recorded of these entries")
            .hint("an entry has the hash of an earlier one, so a longer range has more of them")
            .into()),
        None => Ok(()),
    }
}

fn words(found: &Verified, base: &str) -> String {
    let Verified { first_index, last_index, entries, commands, hashes, hash, .. } = found;
    let compared = match &found.difference {
        None => format!("all of the {hashes} hashes that are recorded are the same"),
        Some(_) => format!("the last of {hashes} hashes differs"),
    };
    format!(
        "ran entries {first_index} to {last_index} from {base}: {entries} entries, {commands} commands\n{compared}; the hash behind entry \
         {last_index} is {hash}"
    )
}

fn differs(args: &ReplayArgs, replay: &Replay<'_>, difference: &HashDifference) -> anyhow::Result<Failure> {
    let HashDifference { after_index, index, replayed, recorded, told_by } = difference;
    let which = match after_index == index {
        true => format!("entry {index} ended differently here"),
        false => format!("an entry from {after_index} to {index} ended differently here"),
    };
    let failure = Failure::new(format!("the replay is not what history recorded: {which}"))
        .note(format!("behind entry {index} the hash of the replay is {replayed}"))
        .note(format!("{told_by} has {recorded}"));
    let failure = match &args.script {
        Some(path) => script::of_history(replay, path)?.into_iter().fold(failure, Failure::note),
        None => failure,
    };
    Ok(failure.hint(format!(
        "--at {after_index} shows what the entry does here; verify the directory of another node, and with the build that the node ran"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compared_is_told_in_numbers() {
        let found =
            Verified { first_index: 3, last_index: 9, entries: 7, commands: 12, hashes: 6, ..Verified::default() };
        let said = words(&found, "the empty state");
        assert!(said.contains("entries 3 to 9 from the empty state: 7 entries, 12 commands"), "{said}");
        assert!(said.contains("all of the 6 hashes"), "{said}");
    }
}
