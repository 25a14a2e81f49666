//! `cargo xtask advisories`: compares the locked dependencies with the advisories of RustSec, and
//! says which of them hits which crate and what mends it. It changes nothing. Without the
//! advisories it says that nothing was checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use semver::{Version, VersionReq};
use serde::Deserialize;

const DATABASE: &str = "https://github.com/RustSec/advisory-db";
/// Names a directory with the advisories.
const VARIABLE: &str = "LOCKSTEP_ADVISORY_DB";
/// The advisories that do not concern this project, each with its reason.
const IGNORED: &str = ".ci/advisories-ignored.toml";
/// Longest time for fetching the advisories.
const FETCH_TIMEOUT: Duration = Duration::from_secs(120);
/// Age at which a copy that this command made is fetched anew.
const COPY_AGE_MAX: Duration = Duration::from_hours(24);

/// Checks the locked dependencies. `given` is a directory with the advisories.
pub(crate) fn check(given: Option<&Path>) -> Result<()> {
    let lock = std::fs::read_to_string(crate::root().join("Cargo.lock")).context("Cargo.lock")?;
    let ignored = std::fs::read_to_string(crate::root().join(IGNORED)).context(IGNORED)?;
    let (locked, ignored) = (locked(&lock)?, Ignored::read(&ignored)?);
    let database = match find(given)? {
        Ok(database) => database,
        Err(why) => {
            println!("advisories: not checked: {why}");
            return Ok(());
        }
    };
    let report = judge(&locked, &read(&database)?, &ignored);
    print!("{}", report.text(&database));
    match report.hits.len() {
        0 => Ok(()),
        hits => {
            bail!("{hits} advisories hit the locked dependencies; one that does not concern them goes to {IGNORED}")
        }
    }
}

/// Finds the advisories: the given directory, one that a tool has fetched, or a copy that is made
/// here. The inner error says why there are none.
fn find(given: Option<&Path>) -> Result<Result<PathBuf, String>> {
    let named = given.map(Path::to_path_buf).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    if let Some(named) = named {
        ensure!(named.join("crates").is_dir(), "{} has no directory `crates`: it holds no advisories", named.display());
        return Ok(Ok(named));
    }
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    if let Some(fetched) =
        cargo.map(|cargo| cargo.join("advisory-db")).filter(|fetched| fetched.join("crates").is_dir())
    {
        return Ok(Ok(fetched));
    }
    let copy = crate::target_dir()?.join("advisory-db");
    Ok(fetch(&copy).map(|()| copy))
}

/// Fetches the advisories, unless there is a copy of today. A copy that cannot be replaced is used
/// as it is.
fn fetch(copy: &Path) -> Result<(), String> {
    let made = std::fs::metadata(copy).and_then(|found| found.modified()).ok();
    let age = made.and_then(|made| SystemTime::now().duration_since(made).ok());
    if age.is_some_and(|age| age < COPY_AGE_MAX) {
        return Ok(());
    }
    let fresh = copy.with_extension("fetching");
    drop(std::fs::remove_dir_all(&fresh));
    let cloned = clone(&fresh).and_then(|()| {
        drop(std::fs::remove_dir_all(copy));
        std::fs::rename(&fresh, copy).map_err(|error| error.to_string())
    });
    drop(std::fs::remove_dir_all(&fresh));
    match cloned {
        Err(why) if made.is_none() => {
            Err(format!("{DATABASE} cannot be fetched ({why}); fetch it elsewhere, and name its directory: --db DIR"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn clone(to: &Path) -> Result<(), String> {
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--depth", "1", DATABASE]).arg(to).env("GIT_TERMINAL_PROMPT", "0");
    let mut child = git.stdin(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| format!("git: {error}"))?;
    let deadline = Instant::now() + FETCH_TIMEOUT;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("git clone: {status}")),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) => {
                drop(child.kill());
                drop(child.wait());
                return Err(format!("no answer within {} seconds", FETCH_TIMEOUT.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The versions of each crate that Cargo.lock names.
type Locked = BTreeMap<String, Vec<Version>>;

/// Reads Cargo.lock. Leaves out the crates of the checkout, which have no source.
fn locked(lock: &str) -> Result<Locked> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        source: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    let mut locked = Locked::new();
    for Package { name, version, .. } in lock.package.into_iter().filter(|package| package.source.is_some()) {
        let version = Version::parse(&version).with_context(|| format!("Cargo.lock: version {version} of {name}"))?;
        locked.entry(name).or_default().push(version);
    }
    Ok(locked)
}

/// The advisories that are left out, with their reasons.
struct Ignored(BTreeMap<String, String>);

impl Ignored {
    fn read(text: &str) -> Result<Ignored> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            ignored: Vec<Entry>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Entry {
            id: String,
            reason: String,
        }
        let file: File = toml::from_str(text).context(IGNORED)?;
        for Entry { id, reason } in &file.ignored {
            ensure!(!reason.trim().is_empty(), "{IGNORED}: {id} has no reason");
        }
        Ok(Ignored(file.ignored.into_iter().map(|entry| (entry.id, entry.reason)).collect()))
    }
}

/// One advisory.
#[derive(Debug)]
struct Advisory {
    about: About,
    patched: Vec<VersionReq>,
    unaffected: Vec<VersionReq>,
    title: String,
}

/// The block of TOML at the beginning of an advisory.
#[derive(Debug, Deserialize)]
struct Front {
    advisory: About,
    versions: Versions,
}

#[derive(Debug, Deserialize)]
struct About {
    id: String,
    package: String,
    date: String,
    /// `unmaintained`, `unsound` or `notice`: nothing that a stranger could use at once.
    informational: Option<String>,
    withdrawn: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Versions {
    #[serde(default)]
    patched: Vec<String>,
    #[serde(default)]
    unaffected: Vec<String>,
}

impl Advisory {
    /// Reads an advisory: a block of TOML, and Markdown behind it.
    fn read(text: &str) -> Result<Advisory> {
        let rest = text.trim_start().strip_prefix("```toml").context("it does not begin with a block of TOML")?;
        let (front, text) = rest.split_once("\n```").context("its block of TOML has no end")?;
        let title = text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default().trim().to_owned();
        let Front { advisory: about, versions } = toml::from_str(front)?;
        let (patched, unaffected) = (ranges(&versions.patched)?, ranges(&versions.unaffected)?);
        Ok(Advisory { about, patched, unaffected, title })
    }

    fn hits(&self, version: &Version) -> bool {
        let is_safe = self.patched.iter().chain(&self.unaffected).any(|range| range.matches(version));
        self.about.withdrawn.is_none() && !is_safe
    }

    fn mended_by(&self) -> String {
        let ranges: Vec<String> = self.patched.iter().map(VersionReq::to_string).collect();
        if ranges.is_empty() { "no version yet".into() } else { ranges.join(" or ") }
    }
}

fn ranges(texts: &[String]) -> Result<Vec<VersionReq>> {
    texts.iter().map(|text| VersionReq::parse(text).with_context(|| format!("the versions '{text}'"))).collect()
}

/// Reads all advisories of crates.
fn read(database: &Path) -> Result<Vec<Advisory>> {
    let mut advisories = Vec::new();
    for directory in entries(&database.join("crates"))?.into_iter().filter(|path| path.is_dir()) {
        for file in entries(&directory)?.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
            let name = || file.display().to_string();
            let text = std::fs::read_to_string(&file).with_context(name)?;
            advisories.push(Advisory::read(&text).with_context(name)?);
        }
    }
    ensure!(!advisories.is_empty(), "{} has no advisories", database.display());
    Ok(advisories)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// What the comparison found, in lines.
#[derive(Debug, Default)]
struct Report {
    crates: usize,
    advisories: usize,
    /// Date of the newest advisory.
    newest: String,
    hits: Vec<String>,
    notices: Vec<String>,
}

fn judge(locked: &Locked, advisories: &[Advisory], ignored: &Ignored) -> Report {
    let newest = advisories.iter().map(|advisory| advisory.about.date.clone()).max().unwrap_or_default();
    let crates = locked.values().map(Vec::len).sum();
    let mut report = Report { crates, advisories: advisories.len(), newest, ..Report::default() };
    let mut unused = ignored.0.clone();
    for advisory in advisories {
        let About { id, package, informational, .. } = &advisory.about;
        for version in locked.get(package).into_iter().flatten().filter(|version| advisory.hits(version)) {
            unused.remove(id);
            let line = format!("{package} {version}: {id}: {}; mended by {}", advisory.title, advisory.mended_by());
            match (ignored.0.get(id), informational) {
                (Some(reason), _) => report.notices.push(format!("ignored: {line}; {reason}")),
                (None, Some(kind)) => report.notices.push(format!("{kind}: {line}")),
                (None, None) => report.hits.push(line),
            }
        }
    }
    let leftover = unused.keys().map(|id| format!("{IGNORED} names {id}, which hits nothing: take it out"));
    report.notices.extend(leftover);
    report
}

impl Report {
    fn text(&self, database: &Path) -> String {
        let Report { crates, advisories, newest, .. } = self;
        let mut text = format!(
            "advisories: {crates} locked crates against {advisories} advisories of {}, the newest of {newest}\n",
            database.display()
        );
        self.hits.iter().for_each(|hit| text.push_str(&format!("  HIT {hit}\n")));
        self.notices.iter().for_each(|notice| text.push_str(&format!("  {notice}\n")));
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "advisories_tests.rs"]
mod tests;
