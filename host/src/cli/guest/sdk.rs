//! Decides where a new project takes the guest SDK from: a repository at one revision, its own
//! copy, or a directory. It also writes the copy; `new` writes the rest of a project. It never uses
//! the network.

use std::fs;
use std::path::{Component, Path};

use anyhow::Context;

use crate::cli::report::Failure;

/// Values that `build.rs` recorded.
mod carried {
    include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
}

/// Value of `--sdk` that asks for a copy.
const COPY: &str = "copy";
/// The directory of the copy in a project.
const COPY_DIR: &str = "lockstep-sdk";

/// Where the SDK comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sdk {
    /// A repository, at one revision.
    Git { url: String, revision: String },
    /// Files in the project. `why` says why it is a copy, if `--sdk` did not ask for one.
    Copy { why: Option<&'static str> },
    /// A directory, as the project's Cargo.toml names it.
    Directory { path: String },
}

impl Sdk {
    /// Returns the source that `--sdk` asks for. Without `--sdk`, it prefers a repository that
    /// others can use, too.
    pub(super) fn of(given: Option<&str>) -> anyhow::Result<Sdk> {
        match given {
            None => Ok(Sdk::by_itself(carried::ORIGIN, carried::WITHOUT_ORIGIN)),
            Some(COPY) => Ok(Sdk::Copy { why: None }),
            Some(given) => match as_url(given) {
                Some(url) => Sdk::git(&url, carried::REVISION),
                None => Sdk::directory(Path::new(given)),
            },
        }
    }

    fn by_itself(origin: Option<(&str, &str)>, without: &'static str) -> Sdk {
        match origin {
            Some((url, revision)) => Sdk::Git { url: url.to_owned(), revision: revision.to_owned() },
            None => Sdk::Copy { why: Some(without) },
        }
    }

    fn git(url: &str, own: Option<&str>) -> anyhow::Result<Sdk> {
        let (url, revision) = match url.split_once('#') {
            Some((url, revision)) => (url, Some(revision).filter(|revision| !revision.is_empty())),
            None => (url, own),
        };
        let Some(revision) = revision else {
            let why = "this program does not know its own, because it was built from changes that were not committed, or without git";
            let failure = Failure::usage(format!("which revision of {url}? {why}"));
            return Err(failure.hint(format!("name a commit or a tag: --sdk {url}#<revision>")).into());
        };
        Ok(Sdk::Git { url: url.to_owned(), revision: revision.to_owned() })
    }

    fn directory(path: &Path) -> anyhow::Result<Sdk> {
        if !path.join("Cargo.toml").is_file() || !path.join("build/Cargo.toml").is_file() {
            let hint = "give the directory guest-sdk of a checkout of Lockstep, the URL of its git repository as URL#revision, or `copy`";
            return Err(Failure::usage(format!("there is no guest SDK at {}", path.display())).hint(hint).into());
        }
        let text = path.to_str().with_context(|| format!("{} is not text, which Cargo.toml needs", path.display()))?;
        // The path as seen from the project, whose directory lies here.
        let path = if path.is_absolute() { text.to_owned() } else { format!("../{text}") };
        Ok(Sdk::Directory { path: path.trim_end_matches('/').to_owned() })
    }

    /// Returns the dependency on the SDK, in TOML.
    pub(super) fn dependency(&self) -> String {
        match self {
            Sdk::Git { url, revision } => format!("{{ git = {url:?}, rev = {revision:?} }}"),
            Sdk::Copy { .. } => format!("{{ path = \"{COPY_DIR}/guest-sdk\" }}"),
            Sdk::Directory { path } => format!("{{ path = {path:?} }}"),
        }
    }

    /// Returns the dependency on the build half of the SDK, in TOML.
    pub(super) fn build_dependency(&self) -> String {
        match self {
            Sdk::Git { .. } => self.dependency(),
            Sdk::Copy { .. } => format!("{{ path = \"{COPY_DIR}/guest-sdk/build\" }}"),
            Sdk::Directory { path } => format!("{{ path = {:?} }}", format!("{path}/build")),
        }
    }

    /// Returns the lines about the SDK that the project's workspace needs.
    pub(super) fn workspace(&self) -> &'static str {
        match self {
            Sdk::Copy { .. } => "exclude = [\"lockstep-sdk\"]\n",
            Sdk::Git { .. } | Sdk::Directory { .. } => "",
        }
    }

    /// Returns a sentence for the project's readers that says where the SDK is.
    pub(super) fn sentence(&self) -> String {
        match self {
            Sdk::Git { url, revision } => format!("The guest SDK is taken from {url} at {revision}"),
            Sdk::Copy { .. } => format!(
                "The guest SDK lies in `{COPY_DIR}`, as it was in Lockstep {}; it belongs to the project",
                env!("CARGO_PKG_VERSION")
            ),
            Sdk::Directory { path } => format!("The guest SDK is the directory {path}"),
        }
    }

    /// Returns a text for the person who makes the project: what the choice means, and which other
    /// choices there are.
    pub(super) fn advice(&self) -> String {
        match self {
            Sdk::Git { .. } => format!("{}; Cargo.lock keeps it there, and builds it elsewhere, too.", self.sentence()),
            Sdk::Copy { why: None } => format!("{}: commit it, and the project builds anywhere.", self.sentence()),
            Sdk::Copy { why: Some(why) } => format!(
                "{}: commit it, and the project builds anywhere. It is a copy because this\nprogram does not know a repository that others can have \
                 its SDK from: {why}.\nWith --sdk URL#revision a project takes it from one.",
                self.sentence()
            ),
            Sdk::Directory { path } if Path::new(path).is_absolute() => {
                format!(
                    "{}, so it builds on this machine only; --sdk copy, or URL#revision, builds anywhere.",
                    self.sentence()
                )
            }
            Sdk::Directory { .. } => format!("{}, seen from the project: both must move together.", self.sentence()),
        }
    }

    /// Writes the SDK's part of the project: the copy, if there is one, and Cargo.lock. Cargo.lock
    /// has the versions that this program was built with; cargo keeps those that are needed.
    pub(super) fn write(&self, project: &Path) -> anyhow::Result<()> {
        if let Sdk::Copy { .. } = self {
            let place = project.join(COPY_DIR);
            for (name, text) in carried::FILES {
                let path = place.join(name);
                debug_assert!(path.components().all(|part| part != Component::ParentDir));
                let text = if *name == "Cargo.toml" { workspace_of_copy(text) } else { (*text).to_owned() };
                write(&path, &text)?;
            }
        }
        write(&project.join("Cargo.lock"), carried::LOCK)
    }
}

/// Writes a file and the directories that it needs.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the repository that `given` names, as cargo takes it. `None` if it names no repository.
fn as_url(given: &str) -> Option<String> {
    if given.contains("://") {
        return Some(given.to_owned());
    }
    // The form that ssh uses: git@example.org:lockstep.git.
    let (host, path) = given.split_once(':').filter(|(host, _)| host.contains('@') && !host.contains('/'))?;
    Some(format!("ssh://{host}/{}", path.trim_start_matches('/')))
}

/// Returns the manifest of the checkout's workspace, with the SDK's crates alone.
fn workspace_of_copy(manifest: &str) -> String {
    let mut copy = String::from(
        "# The guest SDK of Lockstep, as its repository has it. A workspace of its own beside the project's.\n[workspace]\nresolver = \"3\"\n\
         members = [\"contract\", \"guest-sdk\", \"guest-sdk/build\"]\n\n",
    );
    let mut is_wanted = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_wanted = line.starts_with("[workspace.");
        }
        // Leaves out crates of the checkout, which are not in the copy.
        let is_in_copy = line.starts_with("lockstep-contract = ") || !line.contains("path = ");
        if is_wanted && is_in_copy {
            copy.push_str(line);
            copy.push('\n');
        }
    }
    copy
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    #[test]
    fn what_others_can_have_is_the_default() {
        let known = Sdk::by_itself(Some(("https://example.org/x.git", COMMIT)), "");
        let dependency = format!("{{ git = \"https://example.org/x.git\", rev = \"{COMMIT}\" }}");
        assert_eq!((known.dependency(), known.build_dependency()), (dependency.clone(), dependency));
        let copied = Sdk::by_itself(None, "it was built without git");
        assert_eq!(copied.build_dependency(), "{ path = \"lockstep-sdk/guest-sdk/build\" }");
        assert!(copied.advice().contains("it was built without git") && copied.workspace().contains("lockstep-sdk"));
    }

    #[test]
    fn a_repository_is_pinned_or_refused() {
        let of = |url: &str, own| Sdk::git(url, own).map(|sdk| sdk.dependency());
        let wanted = format!("{{ git = \"file:///x\", rev = \"{COMMIT}\" }}");
        assert_eq!(of(&format!("file:///x#{COMMIT}"), None).unwrap(), wanted);
        assert_eq!(of("file:///x", Some(COMMIT)).unwrap(), wanted, "that of the program");
        for unpinned in ["file:///x", "file:///x#"] {
            let error = of(unpinned, None).unwrap_err().to_string();
            assert!(error.contains("which revision of file:///x?"), "{error}");
        }
        assert_eq!(as_url("git@example.org:a/b.git#v1").unwrap(), "ssh://git@example.org/a/b.git#v1");
        assert_eq!((as_url("../a:b/guest-sdk"), as_url("guest-sdk")), (None, None));
    }

    #[test]
    fn a_directory_is_named_as_the_project_sees_it() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sdk");
        let Sdk::Directory { path } = Sdk::directory(&here).unwrap() else { panic!("it is one") };
        assert_eq!(Path::new(&path), here);
        // Tests run in the directory of the package.
        let sdk = Sdk::directory(Path::new("../guest-sdk/")).unwrap();
        assert_eq!(sdk.build_dependency(), "{ path = \"../../guest-sdk/build\" }");
        let error = Sdk::of(Some("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("no guest SDK at /nowhere"), "{error}");
    }

    #[test]
    fn the_copy_is_whole_and_names_nothing_outside() {
        let place = tempfile::tempdir().unwrap();
        Sdk::Copy { why: None }.write(place.path()).unwrap();
        for name in [
            "Cargo.toml",
            "contract/src/lib.rs",
            "guest-sdk/wit/machine.wit",
            "guest-sdk/build/proto/lockstep/options.proto",
        ] {
            let (name, path) = (Path::new("..").join(name), place.path().join(COPY_DIR).join(name));
            assert!(path.is_file() && !path.is_symlink(), "{}", name.display());
        }
        let manifest = fs::read_to_string(place.path().join(COPY_DIR).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("\nprost = ") && manifest.contains("[workspace.lints.rust]"), "{manifest}");
        assert_eq!(manifest.matches("path = ").count(), 1, "the contract alone: {manifest}");
        assert!(!manifest.contains("[profile"), "{manifest}");
        assert!(fs::read_to_string(place.path().join("Cargo.lock")).unwrap().contains("name = \"prost\""));
    }
}
