//! Shows this program's name as the person typed it: who typed `build/lockstep` is told to type
//! that again. It changes only text that is shown.

use std::borrow::Cow;
use std::path::Path;
use std::sync::LazyLock;

use clap::Command;

/// The name of this program in the host's own texts.
const NAME: &str = "lockstep";
/// The subcommands that the host's own texts name. A text such as `/tmp/lockstep is gone` is not
/// about this program.
const SUBCOMMANDS: [&str; 15] = [
    "node", "dev", "call", "admin", "recover", "upgrade", "rollback", "backup", "restore", "rows", "replay", "bench",
    "tls", "token", "guest",
];

static CALLED: LazyLock<String> = LazyLock::new(|| {
    let called = std::env::args_os().next().unwrap_or_default();
    quoted(&called.to_string_lossy()).into_owned()
});

/// Returns the text with this program's name as the person typed it. It replaces the name only
/// where one of its subcommands follows.
pub(crate) fn as_called(text: &str) -> String {
    replace(text, &CALLED)
}

/// Returns how to call this program from another directory. That is its name if it was found by
/// name, otherwise its absolute path.
pub(crate) fn called_from_elsewhere() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let is_a_path = Path::new(&called).components().count() > 1;
    match std::path::absolute(&called) {
        Ok(whole) if is_a_path => quoted(&whole.to_string_lossy()).into_owned(),
        _ => quoted(&called.to_string_lossy()).into_owned(),
    }
}

/// Returns the command line, with help texts that call this program as it was typed.
pub(crate) fn help_as_called(command: Command) -> Command {
    let shown = command.get_after_help().map(|help| as_called(&help.to_string()));
    let command = match shown {
        Some(help) => command.after_help(help),
        None => command,
    };
    let below: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    below.into_iter().fold(command, |command, name| command.mut_subcommand(name, help_as_called))
}

/// Quotes the text for a shell, if necessary.
fn quoted(called: &str) -> Cow<'_, str> {
    if called.is_empty() {
        return Cow::Borrowed(NAME);
    }
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+~".contains(c);
    if called.chars().all(is_plain) {
        Cow::Borrowed(called)
    } else {
        Cow::Owned(format!("'{}'", called.replace('\'', r"'\''")))
    }
}

fn replace(text: &str, called: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(NAME) {
        let (before, after) = (&rest[..at], &rest[at + NAME.len()..]);
        let begins_a_word = before.chars().next_back().is_none_or(|c| c.is_whitespace() || "`('\"".contains(c))
            && (!before.is_empty() || shown.is_empty());
        let subcommand = after.strip_prefix(' ').and_then(|words| words.split(|c: char| !c.is_alphanumeric()).next());
        let is_this = begins_a_word && subcommand.is_some_and(|word| SUBCOMMANDS.contains(&word));
        shown.push_str(before);
        shown.push_str(if is_this { called } else { NAME });
        rest = after;
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_this_program_are_changed() {
        let table = [
            ("lockstep dev", "build/lockstep dev"),
            (
                "add it with `lockstep admin a:1 add_voter b a:2`",
                "add it with `build/lockstep admin a:1 add_voter b a:2`",
            ),
            ("  lockstep call x\n  lockstep backup x", "  build/lockstep call x\n  build/lockstep backup x"),
            ("Lockstep and lockstep are names", "Lockstep and lockstep are names"),
            ("lockstep developers", "lockstep developers"),
            ("/tmp/lockstep node", "/tmp/lockstep node"),
            ("lockstep:machine is not lockstep/node", "lockstep:machine is not lockstep/node"),
            ("lockstep", "lockstep"),
        ];
        for (text, expected) in table {
            assert_eq!(replace(text, "build/lockstep"), expected);
        }
    }

    #[test]
    fn a_name_that_a_shell_would_split_is_quoted() {
        assert_eq!(quoted("build/lockstep"), "build/lockstep");
        assert_eq!(quoted("/my files/lockstep"), "'/my files/lockstep'");
        assert_eq!(quoted(""), "lockstep");
    }

    #[test]
    fn every_subcommand_is_known_here() {
        for subcommand in crate::cli::command().get_subcommands() {
            assert!(SUBCOMMANDS.contains(&subcommand.get_name()), "{}", subcommand.get_name());
        }
    }
}
