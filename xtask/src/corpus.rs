//! `cargo xtask corpus`: builds the sandbox of `corpus/` with the wasmtime, the toolchain, the
//! profile and the target that are asked for, and runs the golden corpus on it. It decides nothing
//! about outcomes: the corpus compares them with its record.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::setup::{self, AARCH64, AARCH64_COMPILER, AARCH64_EMULATOR, AARCH64_ROOT};

/// The tests that run: the corpus, and what of the fuel table this wasmtime can charge.
const TESTS: [&str; 2] = ["guest::tests::corpus::", "prices::"];
/// Writes the record anew where it is set (`host/src/guest/tests/corpus`). Another build never
/// does.
const REWRITE: &str = "LOCKSTEP_REWRITE_GOLDEN";

/// The build to run the corpus on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Corpus<'a> {
    /// The version of wasmtime; that of the checkout if there is none.
    pub(crate) wasmtime: Option<&'a str>,
    /// A toolchain of rustup; that of the checkout if there is none.
    pub(crate) toolchain: Option<&'a str>,
    /// Whether nothing is optimized, and the arithmetic of the host is checked.
    pub(crate) is_dev: bool,
    /// Whether it is built for 64-bit ARM, whatever this machine is.
    pub(crate) is_aarch64: bool,
}

/// Runs the corpus. Fails when an outcome differs from the record.
pub(crate) fn corpus(asked: &Corpus<'_>) -> Result<()> {
    ensure!(cfg!(target_os = "linux") || !asked.is_aarch64, "--target {AARCH64} needs Linux, as qemu-user does");
    set_up(asked)?;
    let package = write_package(asked.wasmtime)?;
    let status = asked.command(&package)?.status().context("cargo does not start")?;
    let build = asked.build(&package)?;
    ensure!(
        status.success(),
        "{build}: the corpus was not built, or its outcomes are not those of the record; the lines above tell which. A \
         cluster must not mix this build with the one that made the record"
    );
    println!("{build}: every outcome of the corpus is that of the record");
    Ok(())
}

/// Installs the toolchain, and what builds and runs programs of another architecture.
fn set_up(asked: &Corpus<'_>) -> Result<()> {
    if let Some(toolchain) = asked.toolchain
        && !setup::runs("rustc", &[&format!("+{toolchain}"), "--version"])
    {
        setup::rustup(&["toolchain", "install", toolchain, "--profile", "minimal"])?;
    }
    if asked.is_emulated() {
        setup::aarch64()?;
    }
    if asked.is_aarch64 { setup::target(AARCH64, asked.toolchain) } else { Ok(()) }
}

/// Writes the manifest and a lock file to a directory of this version's own, and returns it. The
/// sources stay in the checkout.
fn write_package(wasmtime: Option<&str>) -> Result<PathBuf> {
    let room = crate::root().join("corpus");
    let from = room.join("Cargo.toml");
    let text = std::fs::read_to_string(&from).with_context(|| format!("reading {}", from.display()))?;
    let name = wasmtime.map_or_else(|| "wasmtime-locked".to_owned(), |version| format!("wasmtime-{version}"));
    let package = crate::target_dir()?.join("corpus/packages").join(name);
    std::fs::create_dir_all(&package)?;
    std::fs::write(package.join("Cargo.toml"), manifest(&text, &room, wasmtime)?)?;
    // Without another version, all packages are those of the checkout. Another wasmtime brings
    // others, which stay what they were in the first run.
    let lock = package.join("Cargo.lock");
    if wasmtime.is_none() || !lock.exists() {
        std::fs::copy(crate::root().join("Cargo.lock"), &lock)
            .with_context(|| format!("writing {}", lock.display()))?;
    }
    Ok(package)
}

/// Returns the manifest for another directory: its paths begin at `room`, and wasmtime has the
/// version that is asked for.
fn manifest(text: &str, room: &Path, wasmtime: Option<&str>) -> Result<String> {
    let room = room.display().to_string();
    ensure!(!room.contains(['"', '\\']), "the checkout's path {room} cannot stand in a Cargo.toml; move the checkout");
    let text = ["path = \"", "build = \""]
        .iter()
        .fold(text.to_owned(), |text, field| text.replace(field, &format!("{field}{room}/")));
    let Some(wasmtime) = wasmtime else { return Ok(text) };
    let (before, rest) = text.split_once("\nwasmtime = { version = \"").context("corpus/Cargo.toml has no wasmtime")?;
    let (_, after) = rest.split_once('"').context("corpus/Cargo.toml has no version of wasmtime")?;
    Ok(format!("{before}\nwasmtime = {{ version = \"={wasmtime}\"{after}"))
}

impl Corpus<'_> {
    /// Returns whether this machine cannot run the program itself.
    fn is_emulated(&self) -> bool {
        self.is_aarch64 && !cfg!(target_arch = "aarch64")
    }

    /// Returns the version, profile and target, for people.
    fn build(&self, package: &Path) -> Result<String> {
        let lock = std::fs::read_to_string(package.join("Cargo.lock"))?;
        let mut lines = lock.lines().skip_while(|line| *line != "name = \"wasmtime\"");
        let version = lines.nth(1).and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        let version = version.or(self.wasmtime).unwrap_or("of an unknown version");
        let profile = if self.is_dev { "dev" } else { "release" };
        let target = match (self.is_aarch64, self.is_emulated()) {
            (false, _) => format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
            (true, false) => AARCH64.to_owned(),
            (true, true) => format!("{AARCH64} under {AARCH64_EMULATOR}"),
        };
        Ok(format!("wasmtime {version}, {profile}, {target}"))
    }

    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.toolchain.iter().map(|toolchain| format!("+{toolchain}")).collect();
        words.extend(["test", "--lib"].map(String::from));
        if !self.is_dev {
            words.push("--release".to_owned());
        }
        if self.is_aarch64 {
            words.extend(["--target", AARCH64].map(String::from));
        }
        // One test at a time, because the pool has few slots.
        words.extend(["--", "--test-threads", "1", "--nocapture"].map(String::from));
        words.extend(TESTS.map(String::from));
        words
    }

    fn command(&self, package: &Path) -> Result<Command> {
        let words = self.words();
        println!("$ cd {} && cargo {}", package.display(), words.join(" "));
        let own = std::env::var_os("CARGO").filter(|_| self.toolchain.is_none());
        let mut command = Command::new(own.unwrap_or_else(|| "cargo".into()));
        if self.toolchain.is_some() {
            // Not the compiler of the task that runs now: rustup chooses it anew.
            command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
        }
        command.args(words).current_dir(package);
        command.env("CARGO_TARGET_DIR", crate::target_dir()?.join("corpus")).env("RUST_LIB_BACKTRACE", "0");
        command.env_remove(REWRITE);
        if self.is_emulated() {
            command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", AARCH64_COMPILER);
            command.env("CC_aarch64_unknown_linux_gnu", AARCH64_COMPILER);
            let runner = format!("{AARCH64_EMULATOR} -L {AARCH64_ROOT}");
            command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner);
        }
        Ok(command)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use toml::{Table, Value};

    use super::*;

    fn table(path: &str) -> Table {
        toml::from_str(&std::fs::read_to_string(crate::root().join(path)).unwrap()).unwrap()
    }

    /// The version alone, whether features stand beside it or not.
    fn version(dependency: &Value) -> Option<&str> {
        dependency.as_str().or_else(|| dependency.get("version")?.as_str())
    }

    #[test]
    fn the_corpus_is_built_with_the_versions_of_the_host() {
        let (corpus, checkout) = (table("corpus/Cargo.toml"), table("Cargo.toml"));
        let checkout = checkout["workspace"]["dependencies"].as_table().unwrap();
        let dependencies = corpus["dependencies"].as_table().unwrap();
        assert!(dependencies.len() > 5, "{dependencies:?}");
        for (name, dependency) in dependencies.iter().filter(|(_, dependency)| dependency.get("path").is_none()) {
            let ours = checkout.get(name).unwrap_or_else(|| panic!("the checkout has no {name}"));
            assert_eq!(version(dependency), version(ours), "{name}");
            assert_eq!(dependency.get("features"), ours.get("features"), "{name}");
        }
    }

    #[test]
    fn a_manifest_for_another_directory_has_whole_paths_and_the_version() {
        let text = std::fs::read_to_string(crate::root().join("corpus/Cargo.toml")).unwrap();
        let moved = |version: Option<&str>| manifest(&text, Path::new("/here"), version).unwrap();
        let other: Table = toml::from_str(&moved(Some("49.0.5"))).unwrap();
        assert_eq!(version(&other["dependencies"]["wasmtime"]), Some("=49.0.5"));
        assert_eq!(other["package"]["build"].as_str(), Some("/here/build.rs"));
        assert_eq!(other["lib"]["path"].as_str(), Some("/here/src/lib.rs"));
        assert_eq!(other["dependencies"]["lockstep-guest"]["path"].as_str(), Some("/here/../guest-sdk"));
        let same: Table = toml::from_str(&moved(None)).unwrap();
        assert_eq!(same["dependencies"]["wasmtime"], table("corpus/Cargo.toml")["dependencies"]["wasmtime"]);
    }

    #[test]
    fn the_words_choose_profile_toolchain_and_target() {
        let asked = Corpus { toolchain: Some("nightly"), is_dev: true, is_aarch64: true, ..Corpus::default() };
        let words = asked.words().join(" ");
        assert!(words.starts_with("+nightly test --lib --target aarch64-unknown-linux-gnu -- "), "{words}");
        assert!(Corpus::default().words().join(" ").starts_with("test --lib --release -- "));
    }
}
