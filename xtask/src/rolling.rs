//! `cargo xtask rolling`: builds an earlier commit, and runs the scenario that replaces its binary
//! by that of this checkout, node by node, and back. The earlier commit is checked out beside
//! cargo's files, and removed at the end; this checkout stays as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{PROGRAM, build, cargo_in, cargo_with, root, setup, target_dir, test_programs};

/// The scenario, which also runs without an earlier build.
const SCENARIO: [&str; 7] = ["test", "--locked", "--release", "--workspace", "--test", "scenarios", "rolling::"];

/// Runs the scenario from this commit; from the last one before HEAD that touched the host if none
/// is given.
pub(crate) fn rolling(from: Option<&str>) -> Result<()> {
    let commit = match from {
        Some(name) => git(&["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")])
            .with_context(|| format!("there is no commit '{name}' here"))?,
        None => git(&["log", "-1", "--format=%H", "HEAD~1", "--", "host"])?,
    };
    ensure!(!commit.is_empty(), "no commit before HEAD touched host/: name one with --from");
    setup::all()?;
    let place = target_dir()?.join("rolling");
    let old = place.join("old");
    build_old(&commit, &place, &old).with_context(|| format!("building {commit}"))?;
    test_programs()?;
    build()?;
    println!("from {commit} to this checkout");
    cargo_with(&[("LOCKSTEP_OLD_BUILD", old.as_path())], &SCENARIO)
}

/// Builds the program of a commit, and puts it into `old`. All builds share cargo's directory, so
/// that RocksDB is not compiled again. They also share the name of the finished program there, so
/// it is copied at once.
fn build_old(commit: &str, place: &Path, old: &Path) -> Result<()> {
    let checkout = Checkout::of(commit, place)?;
    cargo_in(&checkout.0, &[], &[&PROGRAM[..], &["lockstep"]].concat())?;
    std::fs::create_dir_all(old).with_context(|| format!("creating {}", old.display()))?;
    let built = target_dir()?.join("release/lockstep");
    // A node of an earlier run may have the file open.
    let fresh = old.join(".lockstep");
    std::fs::copy(&built, &fresh).with_context(|| format!("copying {}", built.display()))?;
    std::fs::rename(&fresh, old.join("lockstep")).context("putting the old program in place")
}

/// A git worktree, which is removed with this value.
struct Checkout(PathBuf);

impl Checkout {
    fn of(commit: &str, place: &Path) -> Result<Checkout> {
        std::fs::create_dir_all(place).with_context(|| format!("creating {}", place.display()))?;
        let path = place.join("checkout");
        let name = path.to_str().context("cargo's directory has a name in UTF-8")?;
        if path.exists() {
            // A run that was killed left it.
            git(&["worktree", "remove", "--force", name])?;
        }
        git(&["worktree", "prune"])?;
        git(&["worktree", "add", "--detach", "--quiet", name, commit])?;
        Ok(Checkout(path))
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let name = self.0.display().to_string();
        if let Err(error) = git(&["worktree", "remove", "--force", &name]) {
            eprintln!("{name} stays behind: {error:#}");
        }
    }
}

/// Runs git in this checkout, and returns what it prints.
fn git(words: &[&str]) -> Result<String> {
    let output = Command::new("git").args(words).current_dir(root()).output().context("git does not start")?;
    if !output.status.success() {
        bail!("git {} failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout).context("git prints UTF-8")?.trim().to_owned())
}
