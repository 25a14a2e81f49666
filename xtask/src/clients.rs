//! Sets up what the tests' clients in other languages need, and knows whether the words after
//! `cargo xtask test` choose tests that need them. What cannot be had is left out, and named.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{apt_install, runs};

/// The languages whose gRPC clients the tests take, as `tests/src/stock.rs` names them, and the
/// packages that bring each.
const CLIENTS: [(&str, &[&str]); 2] = [("python", &["python3-venv"]), ("go", &["golang-go"])];
/// The oldest minor version of Go 1 that builds `tests/stock/go`.
const GO_MINOR_MIN: u32 = 24;
/// Read by `tests/src/stock.rs`.
pub(crate) const LEFT_OUT: &str = "LOCKSTEP_CLIENTS_LEFT_OUT";

/// The package, the target and the module of the tests that need clients.
const PACKAGE: &str = "lockstep-tests";
const TARGET: &str = "scenarios";
const MODULE: &str = "tls_clients";
/// Options of cargo and of a test program whose value may be the next word.
const VALUED: &[&str] = &[
    "--exclude",
    "--features",
    "-F",
    "--jobs",
    "-j",
    "--profile",
    "--target",
    "--target-dir",
    "--manifest-path",
    "--config",
    "-Z",
    "--color",
    "--format",
    "--message-format",
    "--logfile",
    "--skip",
    "--test-threads",
];

/// Returns the languages, separated by commas, whose clients the tests are told to leave out.
pub(crate) fn left_out() -> String {
    std::env::var(LEFT_OUT).unwrap_or_default()
}

/// Sets up what other people's clients need. Returns the languages, separated by commas, that
/// cannot be had here, in addition to those that the variable names. OpenSSL is never left out.
pub(crate) fn set_up() -> Result<String> {
    let has_openssl = || runs("openssl", &["version"]);
    if !(has_openssl() || apt_install(&["openssl"])? && has_openssl()) {
        bail!("openssl not found; install it and run this again");
    }
    let named = left_out();
    let mut left_out: Vec<&str> = named.split(',').map(str::trim).filter(|language| !language.is_empty()).collect();
    for (language, packages) in CLIENTS {
        if left_out.contains(&language) || has_client(language) {
            continue;
        }
        println!("missing: what a client in {language} needs");
        if !install(language, packages)? {
            left_out.push(language);
        }
    }
    Ok(left_out.join(","))
}

/// Installs what a client needs through apt-get. Returns whether it is there then. Packages that do
/// not help, such as those of an old Go, are remembered and not installed at every run.
fn install(language: &str, packages: &[&str]) -> Result<bool> {
    let marker = crate::target_dir()?.join("apt-does-not-help").join(language);
    if marker.exists() {
        println!("apt-get was of no help with it; to try that again, remove {}", marker.display());
        return Ok(false);
    }
    if !apt_install(packages)? {
        return Ok(false);
    }
    let has_client = has_client(language);
    if !has_client {
        std::fs::create_dir_all(marker.parent().context("the marker lies in a directory")?)?;
        std::fs::write(&marker, packages.join(" "))?;
    }
    Ok(has_client)
}

fn has_client(language: &str) -> bool {
    match language {
        "python" => runs("python3", &["-c", "import ensurepip, venv"]),
        _ => go_minor().is_some_and(|minor| minor >= GO_MINOR_MIN),
    }
}

/// Returns the minor version of the Go that builds the client: a newer Go fetches the one that is
/// asked for.
fn go_minor() -> Option<u32> {
    let mut go = Command::new("go");
    let asked = go.args(["env", "GOVERSION"]).current_dir(crate::root().join("tests/stock/go")).output().ok()?;
    let version = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
    version.strip_prefix("go1.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Tells whether `cargo test` with these words may run tests that need clients.
pub(crate) fn are_needed(words: &[&str]) -> Result<bool> {
    let path: PathBuf = crate::root().join(format!("tests/{TARGET}/{MODULE}.rs"));
    let source = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(may_run(words, &names(&source)))
}

/// Returns the names of all functions of the tests' module, as a filter sees them.
fn names(source: &str) -> Vec<String> {
    let functions = source.lines().filter_map(|line| {
        let name = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "))?;
        name.split(['(', '<']).next()
    });
    functions.map(|name| format!("{MODULE}::{name}")).collect()
}

/// Tells whether words for `cargo test` may choose one of the tests. It says so in doubt.
fn may_run(words: &[&str], tests: &[String]) -> bool {
    let (mut packages, mut targets, mut filters) = (Vec::new(), Vec::new(), Vec::new());
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        let (option, joined) = match word.split_once('=') {
            Some((option, value)) if option.starts_with('-') => (option, Some(value)),
            _ => (word, None),
        };
        match option {
            "-p" | "--package" => packages.extend(joined.or_else(|| words.next())),
            "--test" => targets.extend(joined.or_else(|| words.next())),
            "--tests" | "--all-targets" => targets.push(TARGET),
            "--lib" | "--bins" | "--examples" | "--benches" | "--doc" => targets.push(option),
            "--bin" | "--example" | "--bench" => {
                targets.push(option);
                _ = joined.or_else(|| words.next());
            }
            _ if VALUED.contains(&option) => _ = joined.or_else(|| words.next()),
            _ if option.starts_with('-') => {}
            _ => filters.push(word),
        }
    }
    // Cargo takes patterns such as `lockstep*` for packages and targets.
    let chooses = |chosen: &[&str], name: &str| {
        chosen.is_empty() || chosen.iter().any(|one| *one == name || one.contains(['*', '?', '[', '@', '#']))
    };
    let names_one = |filter: &&str| tests.iter().any(|test| test.contains(filter));
    chooses(&packages, PACKAGE) && chooses(&targets, TARGET) && (filters.is_empty() || filters.iter().any(names_one))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_needed_wherever_their_tests_may_run() {
        for words in [
            &[][..],
            &["--test", "scenarios"],
            &["--test=scenarios", "tls_clients"],
            &["--package", "lockstep-tests"],
            &["-p", "lockstep-*", "--tests"],
            &["tls_"],
            &["stock_clients", "--", "--test-threads", "1"],
            &["--test", "scenarios", "--", "first_hour", "openssl"],
            &["--lib", "--tests", "--nocapture"],
            &["--features", "first_hour"],
        ] {
            assert!(are_needed(words).unwrap(), "{words:?}");
        }
        for words in [
            &["--test", "scenarios", "first_hour"][..],
            &["--package", "lockstep", "--lib", "fuzzing::"],
            &["-p=xtask"],
            &["--lib"],
            &["--test", "tidy"],
            &["--bin", "lockstep"],
            &["first_hour::", "--", "--nocapture"],
        ] {
            assert!(!are_needed(words).unwrap(), "{words:?}");
        }
    }

    #[test]
    fn clients_that_the_tests_know_are_set_up() {
        let stock = include_str!("../../tests/src/stock.rs");
        assert!(stock.contains(LEFT_OUT));
        assert!(CLIENTS.iter().all(|(language, _)| stock.contains(&format!("(\"{language}\", {language})"))));
    }
}
