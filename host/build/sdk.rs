//! Records what `lockstep guest new` needs of the guest SDK that belongs to this program: its
//! files, and the repository and revision that have them, if others can fetch them there. Reads
//! only git's own records, and never the network.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Path from here, the directory of the package, to the checkout.
const CHECKOUT: &str = "..";
/// The parts of the SDK's crates, from the checkout: files, and directories with everything in
/// them.
const PARTS: [&str; 11] = [
    "Cargo.toml",
    "LICENSE",
    "contract/Cargo.toml",
    "contract/src",
    "rustfmt.toml",
    "guest-sdk/Cargo.toml",
    "guest-sdk/src",
    "guest-sdk/wit",
    "guest-sdk/build/Cargo.toml",
    "guest-sdk/build/proto",
    "guest-sdk/build/src",
];
/// Variable with which the builder of a release gives the URL of its sources. Without it, git gives
/// the URL.
const URL: &str = "LOCKSTEP_SDK_URL";
const REVISION: &str = "LOCKSTEP_SDK_REVISION";

/// A place from which others can fetch the SDK.
struct Origin {
    url: String,
    revision: String,
}

/// Writes `sdk.rs` to `OUT_DIR`.
pub(super) fn record() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={URL}");
    println!("cargo::rerun-if-env-changed={REVISION}");
    let mut files = Vec::new();
    for part in PARTS {
        let path = Path::new(CHECKOUT).join(part);
        println!("cargo::rerun-if-changed={}", path.display());
        collect(&path, Path::new(part), &mut files)?;
    }
    files.sort();
    let mut text =
        String::from("/// Path from the checkout, and text.\npub(super) const FILES: &[(&str, &str)] = &[\n");
    for (name, path) in &files {
        writeln!(text, "    ({name:?}, {}),", included(path))?;
    }
    let lock = included(&Path::new(CHECKOUT).join("Cargo.lock"));
    writeln!(text, "];\n/// The versions that it is tested with.\npub(super) const LOCK: &str = {lock};")?;
    let revision = revision();
    let (url, why) = match origin(&revision) {
        Ok(origin) => (Some(origin), String::new()),
        Err(why) => (None, why),
    };
    let origin = url.map(|origin| (origin.url, origin.revision));
    let origin = match &origin {
        Some((url, revision)) => format!("Some(({url:?}, {revision:?}))"),
        None => "None".to_owned(),
    };
    writeln!(text, "/// URL and revision from which others can have these files,")?;
    writeln!(text, "pub(super) const ORIGIN: Option<(&str, &str)> = {origin};")?;
    writeln!(text, "/// or why not.\npub(super) const WITHOUT_ORIGIN: &str = {why:?};")?;
    writeln!(text, "/// The revision that has these files, here or elsewhere.")?;
    writeln!(text, "pub(super) const REVISION: Option<&str> = {:?};", revision.ok().as_deref())?;
    Ok(std::fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("sdk.rs"), text)?)
}

/// Returns the expression that includes a file of the checkout. It names no directory of this
/// machine, so that what one clone generated serves another one that shares its target directory.
fn included(path: &Path) -> String {
    let path = format!("/{}", path.display());
    format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))")
}

fn collect(path: &Path, name: &Path, files: &mut Vec<(String, PathBuf)>) -> std::io::Result<()> {
    if !path.is_dir() {
        // With slashes, on every system.
        let name: Vec<String> = name.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        files.push((name.join("/"), path.to_owned()));
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?.file_name();
        collect(&path.join(&entry), &name.join(&entry), files)?;
    }
    Ok(())
}

/// Returns the newest commit that changed the SDK.
///
/// Fails with the reason if there is none, or if the files are not as that commit left them.
fn revision() -> Result<String, String> {
    let given = std::env::var(REVISION).unwrap_or_default();
    if !given.is_empty() {
        return Ok(given);
    }
    // git follows no links, so what the links among the parts lead to is named, too.
    let sources = [&PARTS[..], &["proto/lockstep/options.proto", "wit"]].concat();
    let commit = git(&["log", "-1", "--format=%H", "--"], &sources).unwrap_or_default();
    if commit.is_empty() {
        return Err("it was built from sources without a git history".into());
    }
    match git(&["status", "--porcelain", "--"], &sources) {
        Some(changes) if changes.is_empty() => Ok(commit),
        _ => Err("it was built from a checkout whose SDK had changes that were not committed".into()),
    }
}

/// Returns a place from which others can fetch that revision; or why there is none.
fn origin(revision: &Result<String, String>) -> Result<Origin, String> {
    let revision = revision.clone()?;
    let given = std::env::var(URL).unwrap_or_default();
    if !given.is_empty() {
        return Ok(Origin { url: given, revision });
    }
    let remote = git(&["config", "--get", "remote.origin.url"], &[]).unwrap_or_default();
    if remote.is_empty() {
        return Err("it was built from a checkout without a remote `origin`".into());
    }
    let url = public(&remote)
        .ok_or("it was built from a checkout whose remote `origin` is a place on the machine that built it")?;
    let pushed = git(&["for-each-ref", "--contains", &revision, "--format=%(refname)", "refs/remotes/origin"], &[]);
    match pushed {
        Some(branches) if !branches.is_empty() => Ok(Origin { url, revision }),
        _ => Err(format!("it was built from a checkout whose SDK was not yet pushed to {url}")),
    }
}

/// Turns the remote into a URL for a Cargo.toml; `None` if nobody else can reach it. Removes names
/// and passwords.
fn public(remote: &str) -> Option<String> {
    match remote.split_once("://") {
        Some(("ssh", _)) => Some(remote.to_owned()),
        Some(("file", _)) => None,
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/')?;
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            Some(format!("{scheme}://{host}/{path}"))
        }
        // The form of ssh, user@host:path, which cargo does not accept.
        None => {
            let (host, path) = remote.split_once(':').filter(|(host, _)| host.len() > 1 && !host.contains('/'))?;
            Some(format!("ssh://{host}/{}", path.trim_start_matches('/')))
        }
    }
}

fn git(arguments: &[&str], paths: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // A git hook that builds this program has these set for another directory.
    command
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env("GIT_OPTIONAL_LOCKS", "0");
    let output = command.args(arguments).args(paths).current_dir(CHECKOUT).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
