//! Brings flags to one spelling before clap sees them: `--raft-id`, `-raft_id` and `--raft_id` are
//! the same flag. It never changes values, single letters or anything after `--`.

use std::ffi::OsString;

/// Returns the arguments with every flag as `--snake_case`.
pub(crate) fn normalise(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut flags_are_over = false;
    arguments
        .map(|argument| {
            flags_are_over |= argument == "--";
            let flag = argument.to_str().filter(|_| !flags_are_over).and_then(flag);
            flag.map_or(argument.clone(), OsString::from)
        })
        .collect()
}

/// Returns the flag in the normal spelling, or `None` if `text` is a value or a single letter.
fn flag(text: &str) -> Option<String> {
    let stripped = text.strip_prefix('-')?;
    let stripped = stripped.strip_prefix('-').unwrap_or(stripped);
    let (name, value) = match stripped.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (stripped, None),
    };
    let is_long = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    is_long.then(|| {
        let name = name.replace('-', "_");
        value.map_or_else(|| format!("--{name}"), |value| format!("--{name}={value}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_flag_become_one() {
        let table = [
            ("--raft_id=nodeA", "--raft_id=nodeA"),
            ("--raft-id=node-A", "--raft_id=node-A"),
            ("-raft_id=x", "--raft_id=x"),
            ("-raft-bootstrap", "--raft_bootstrap"),
            ("-help", "--help"),
            ("-h", "-h"),
            ("-V", "-V"),
            ("-", "-"),
            ("-5", "-5"),
            ("{\"a-b\": 1}", "{\"a-b\": 1}"),
            ("node-a", "node-a"),
        ];
        for (typed, meant) in table {
            assert_eq!(normalise([OsString::from(typed)].into_iter()), [OsString::from(meant)]);
        }
    }

    #[test]
    fn nothing_changes_behind_a_double_dash() {
        let typed = ["-raft_id", "--", "-raft-id"].map(OsString::from);
        assert_eq!(normalise(typed.into_iter()), ["--raft_id", "--", "-raft-id"].map(OsString::from));
    }
}
