//! Projects of `lockstep guest new` build wherever they are cloned: with the SDK from a repository,
//! with a copy of it, and from packages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::lockstep_binary;
use tempfile::tempdir;

use crate::printed;

/// Files of the checkout that are in its repository. Build output is left out.
const SOURCES: [&str; 13] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "client",
    "contract",
    "guest-sdk",
    "guests",
    "host",
    "proto",
    "rustfmt.toml",
    "tests",
    "wit",
    "xtask",
];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns a target directory of cargo that all runs share, beside that of these tests.
fn shared_target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.ancestors().nth(3).context("tests run in target/release/deps")?.join("generated"))
}

/// Runs a program that must succeed and returns its output.
fn run(program: &Path, arguments: &[&str], directory: &Path) -> Result<String> {
    let output: Output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("CARGO_TARGET_DIR", shared_target()?)
        .env_remove("LOCKSTEP")
        .env_remove("LOCKSTEP_COMPONENT")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not start", program.display()))?;
    let text = printed::all(&output);
    ensure!(output.status.success(), "{} {}: {text}", program.display(), arguments.join(" "));
    Ok(text)
}

fn git(arguments: &[&str], directory: &Path) -> Result<String> {
    let who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"];
    run(Path::new("git"), &[&who, arguments].concat(), directory)
}

fn cargo(arguments: &[&str], directory: &Path) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Path::new(&cargo), arguments, directory)
}

/// Makes the project, commits it, clones it, and removes the original.
fn made_and_cloned(arguments: &[&str], directory: &Path) -> Result<(String, PathBuf)> {
    let here = directory.join("here");
    std::fs::create_dir(&here)?;
    let told = run(&lockstep_binary(), &[&["guest", "new", "my-machine"], arguments].concat(), &here)?;
    let project = here.join("my-machine");
    git(&["init", "--quiet"], &project)?;
    git(&["add", "--all"], &project)?;
    git(&["commit", "--quiet", "--message", "made"], &project)?;
    git(&["clone", "--quiet", "here/my-machine", "elsewhere"], directory)?;
    std::fs::remove_dir_all(here)?;
    Ok((told, directory.join("elsewhere")))
}

/// What a lock file takes from registries: names, versions and checksums.
fn from_registries(lock: &str) -> BTreeSet<Vec<&str>> {
    let blocks = lock.split("[[package]]").filter(|block| block.contains("source = \"registry+"));
    blocks.map(|block| block.lines().filter(|line| line.contains(" = \"")).collect()).collect()
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "does not say {word:?}:\n{text}");
    }
}

#[test]
fn a_project_with_the_sdk_of_a_repository_builds_in_a_clone_elsewhere() -> Result<()> {
    let directory = tempdir()?;
    // A repository with the present content of this checkout, committed or not.
    let repository = directory.path().join("repository");
    std::fs::create_dir(&repository)?;
    let sources = SOURCES.map(|source| checkout().join(source).display().to_string());
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    run(Path::new("cp"), &[&["-R"], &sources[..], &[&*repository.display().to_string()]].concat(), directory.path())?;
    git(&["init", "--quiet"], &repository)?;
    git(&["add", "--all"], &repository)?;
    git(&["commit", "--quiet", "--message", "as it is"], &repository)?;
    let revision = git(&["rev-parse", "HEAD"], &repository)?.trim().to_owned();
    let url = format!("file://{}#{revision}", repository.display());
    let (told, project) = made_and_cloned(&["--sdk", &url], directory.path())?;
    assert_says(&told, &["The guest SDK is taken from file://", &revision, "Cargo.lock keeps it there"]);
    // Another commit in the repository does not change the project.
    std::fs::write(repository.join("guest-sdk/src/lib.rs"), "compile_error!(\"not this one\");")?;
    git(&["commit", "--quiet", "--all", "--message", "broken"], &repository)?;
    cargo(&["test"], &project)?;
    // The lock file came along, so a release of today changes nothing.
    let (ours, theirs) = (checkout().join("Cargo.lock"), project.join("Cargo.lock"));
    let (ours, theirs) = (std::fs::read_to_string(ours)?, std::fs::read_to_string(theirs)?);
    let (ours, theirs) = (from_registries(&ours), from_registries(&theirs));
    let others: Vec<_> = theirs.difference(&ours).collect();
    ensure!(!theirs.is_empty() && others.is_empty(), "not as in the checkout: {others:?}");
    // What that locked is what a build has that may not lock anything.
    cargo(&["build", "--locked", "--release", "--target", "wasm32-unknown-unknown"], &project)?;
    let lock = std::fs::read_to_string(project.join("Cargo.lock"))?;
    assert_says(&lock, &[&format!("source = \"git+file://{}?rev={revision}#{revision}\"", repository.display())]);
    Ok(())
}

#[test]
fn a_project_with_a_copy_of_the_sdk_builds_in_a_clone_elsewhere() -> Result<()> {
    let directory = tempdir()?;
    let (told, project) = made_and_cloned(&["--sdk", "copy"], directory.path())?;
    assert_says(&told, &["The guest SDK lies in `lockstep-sdk`", "builds anywhere"]);
    let manifest = std::fs::read_to_string(project.join("Cargo.toml"))?;
    assert_says(&manifest, &["{ path = \"lockstep-sdk/guest-sdk\" }", "exclude = [\"lockstep-sdk\"]"]);
    assert!(!manifest.contains(&checkout().canonicalize()?.display().to_string()), "{manifest}");
    cargo(&["test", "--offline"], &project)?;
    cargo(&["build", "--locked", "--offline", "--release", "--target", "wasm32-unknown-unknown"], &project)?;
    cargo(&["fmt", "--check"], &project)?;
    Ok(())
}

#[test]
fn the_crates_of_the_sdk_can_be_packaged() -> Result<()> {
    let package = |names: &[&str], more: &[&str]| {
        let names = names.iter().flat_map(|name| ["--package", name]);
        // This checkout has built the dependencies already, so nothing has to be downloaded.
        let arguments = ["package", "--locked", "--allow-dirty"].into_iter().chain(names);
        cargo(&arguments.chain(more.iter().copied()).collect::<Vec<_>>(), &checkout())
    };
    // Also packages the code that is compiled for guests only.
    package(&["lockstep-guest"], &["--target", "wasm32-unknown-unknown"])?;
    let build = ["lockstep-contract", "lockstep-guest-build"];
    package(&build, &[])?;
    let listed = package(&["lockstep-guest"], &["--list"])? + &package(&build, &["--list"])?;
    assert_says(&listed, &["wit/machine.wit", "proto/lockstep/options.proto", "src/differences.rs", "LICENSE"]);
    Ok(())
}
