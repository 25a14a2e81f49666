//! Environment variables that stand for flags, such as `LOCKSTEP_RAFT_ID` for `--raft_id`. An empty
//! variable counts as not set. An error says when its value came from a variable. This file sets no
//! variable.

use std::ffi::OsString;

use clap::builder::{OsStr, Resettable, StyledStr};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};

use super::argv;

/// Prefix of a variable's name. The flag's name in capitals follows.
const PREFIX: &str = "LOCKSTEP_";
/// The same for the TLS of clients. Flags of a node have the same names, and both may run on one
/// machine.
const CLIENT_PREFIX: &str = "LOCKSTEP_CLIENT_";

/// Returns the command line, in which an empty variable counts as not set. Scripts and manifests
/// leave variables empty.
pub(crate) fn without_empty(command: Command) -> Command {
    let is_empty = |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| if is_empty(&arg) { arg.env(Resettable::<OsStr>::Reset) } else { arg });
    let below: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    below.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_empty))
}

/// Returns where the value of a flag came from, when that is not the command line.
pub(crate) fn note(flag: &str) -> Option<String> {
    let name = variable(flag, is_of_client());
    let is_set = std::env::var_os(&name).is_some_and(|value| !value.is_empty());
    (is_set && typed(flag, arguments()).is_none()).then(|| format!("the value is that of {name} in the environment"))
}

/// Returns the value of a flag, from any source. It works before the whole command line could be
/// parsed.
pub(crate) fn value(flag: &str) -> Option<String> {
    let typed = typed(flag, arguments());
    typed.or_else(|| std::env::var(variable(flag, is_of_client())).ok().filter(|value| !value.is_empty()))
}

/// Adds a note to the error when the refused value came from a variable.
pub(crate) fn explain(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return error };
    // The text looks like `--raft_id <NAME>`.
    let note = shown.split([' ', '=', '[']).next().and_then(note);
    if let Some(note) = note {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(note)]));
    }
    error
}

fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1)
}

/// Returns the last value that was typed for the flag.
fn typed(flag: &str, arguments: impl Iterator<Item = OsString>) -> Option<String> {
    let arguments = argv::normalise(arguments);
    let words: Vec<_> =
        arguments.iter().map(|argument| argument.to_string_lossy()).take_while(|word| word != "--").collect();
    let mut values = words.iter().enumerate().filter_map(|(at, word)| match word.strip_prefix(flag)? {
        "" => Some(words.get(at + 1).map_or("", |next| next)),
        more => more.strip_prefix('='),
    });
    values.next_back().map(str::to_owned)
}

fn is_of_client() -> bool {
    arguments().next().is_none_or(|subcommand| subcommand != "node")
}

fn variable(flag: &str, is_of_client: bool) -> String {
    let prefix = if is_of_client && flag.trim_start_matches('-').starts_with("tls_") { CLIENT_PREFIX } else { PREFIX };
    format!("{prefix}{}", flag.trim_start_matches('-').to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_named_as_its_flag() {
        let mut unread = vec![crate::cli::command()];
        let mut seen = 0;
        while let Some(command) = unread.pop() {
            for arg in command.get_arguments().filter(|arg| arg.get_env().is_some()) {
                let flag = arg.get_long().map(|flag| variable(flag, command.get_name() != "node"));
                assert_eq!(arg.get_env().map(|name| name.to_string_lossy().into_owned()), flag, "{arg}");
                seen += 1;
            }
            unread.extend(command.get_subcommands().cloned());
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn the_last_value_that_was_typed_is_found() {
        let value = |words: &[&str]| typed("--log_format", words.iter().map(OsString::from));
        assert_eq!(value(&["node", "--log-format", "json"]).as_deref(), Some("json"));
        assert_eq!(
            value(&["node", "-log_format=text", "--log_format=json", "--log_formats=x"]).as_deref(),
            Some("json")
        );
        assert_eq!(value(&["node", "--", "--log_format=json"]), None);
        assert_eq!(value(&["node", "--log_format"]).as_deref(), Some(""));
    }
}
