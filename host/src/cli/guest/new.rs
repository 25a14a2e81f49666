//! `lockstep guest new`: makes a project from the templates beside this file. It only fills in
//! names and writes files. It never runs cargo, and never changes a directory that exists already.

use std::fs;
use std::path::Path;

use super::sdk::{Sdk, write};
use crate::cli::called::called_from_elsewhere;
use crate::cli::report::{Failure, print_line};

/// Path of each file in the project, and its text. `{{...}}` is filled in.
const FILES: [(&str, &str); 8] = [
    ("Cargo.toml", include_str!("template/Cargo.toml.txt")),
    (".gitignore", "/target\n"),
    ("README.md", include_str!("template/README.md")),
    ("build.rs", include_str!("template/build.rs")),
    ("calls.jsonl", include_str!("template/calls.jsonl")),
    ("proto/app.proto", include_str!("template/app.proto")),
    ("src/lib.rs", include_str!("template/lib.rs")),
    ("tests/machine.rs", include_str!("template/machine.rs")),
];

const NAME_BYTES_MAX: usize = 64;

const AFTER_HELP: &str = "\
The project builds wherever it is cloned. By itself it takes the guest SDK from the git repository
and revision that this program was built from, if those are known to be where others can have them;
else it gets a copy of the SDK, which this program carries. What it does, and why, is said. --sdk
asks for
  URL#REVISION  a git repository, at a commit or a tag; without #REVISION, at this program's own
  copy          a copy in the project, for machines that reach no repository
  DIR           the directory guest-sdk of a checkout, for work on both
Cargo.lock comes along, with the versions that the SDK is tested with: keep it under version control.

Examples:
  lockstep guest new my-machine
  lockstep guest new my-machine --sdk https://example.org/lockstep.git#v1.2.3
  lockstep guest new my-machine --sdk ../lockstep/guest-sdk";

/// Make a project that builds, tests and deploys as it stands.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct NewArgs {
    /// Name of the project, of its crate and of the new directory for it
    #[arg(value_name = "NAME")]
    name: String,

    /// Where the guest SDK is: a git repository, `copy`, or a directory
    #[arg(long = "sdk", value_name = "URL#REVISION|copy|DIR")]
    sdk: Option<String>,
}

/// The names that the templates leave open.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    /// For example `my-machine`.
    name: String,
    /// For example `my_machine`: the name of the crate, of the proto package and of the file.
    crate_name: String,
    /// For example `MyMachine`.
    service: String,
}

/// Makes one project.
pub(crate) fn run(args: &NewArgs) -> anyhow::Result<()> {
    let names = Names::of(&args.name)?;
    let sdk = Sdk::of(args.sdk.as_deref())?;
    let place = Path::new(&names.name);
    // This call must create the directory itself. So no existing file is ever overwritten.
    fs::create_dir(place).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow::Error::from(
            Failure::usage(format!("{} is there already", place.display())).hint("give another name, or remove it"),
        ),
        _ => anyhow::Error::from(error).context(format!("cannot make {}", place.display())),
    })?;
    for (path, template) in FILES {
        write(&place.join(path), &fill(template, &names, &sdk))?;
    }
    sdk.write(place)?;
    tell(&names, &sdk)
}

fn tell(names: &Names, sdk: &Sdk) -> anyhow::Result<()> {
    let Names { name, crate_name, service } = names;
    let file = format!("target/wasm32-unknown-unknown/release/{crate_name}.wasm");
    let lockstep = called_from_elsewhere();
    let program = if lockstep == "lockstep" { String::new() } else { format!("LOCKSTEP={lockstep} ") };
    print_line(format!(
        "{name}/ is a machine with the service {crate_name}.{service}, in proto/app.proto and src/lib.rs. In there:\n\
         \n  cargo test\n  cargo build --release --target wasm32-unknown-unknown\n  \
         {program}LOCKSTEP_COMPONENT={file} cargo test\n  {lockstep} dev {file}\n\n{}",
        sdk.advice()
    ))
}

fn fill(template: &str, names: &Names, sdk: &Sdk) -> String {
    template
        .replace("{{name}}", &names.name)
        .replace("{{crate}}", &names.crate_name)
        .replace("{{Service}}", &names.service)
        .replace("{{sdk}}", &sdk.dependency())
        .replace("{{sdk-build}}", &sdk.build_dependency())
        .replace("{{sdk-sentence}}", &sdk.sentence())
        .replace("{{workspace}}", sdk.workspace())
}

impl Names {
    fn of(name: &str) -> anyhow::Result<Names> {
        let refused = |why: String| {
            Failure::usage(format!("{name:?} is no name for a project: {why}"))
                .hint("begin with a letter, go on with lower-case letters, digits, - and _, as in my-machine")
        };
        if name.len() > NAME_BYTES_MAX {
            return Err(refused(format!("it is longer than {NAME_BYTES_MAX} bytes")).into());
        }
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if let Some(wrong) = name.chars().find(|c| !is_allowed(*c)) {
            return Err(refused(format!("it has {wrong:?} in it")).into());
        }
        let words: Vec<&str> = name.split(['-', '_']).collect();
        if words.iter().any(|word| !word.starts_with(|c: char| c.is_ascii_lowercase())) {
            return Err(refused("each of its words must begin with a letter".into()).into());
        }
        let crate_name = name.replace('-', "_");
        if TAKEN.contains(&crate_name.as_str()) || crate_name.starts_with("lockstep") {
            return Err(refused("Rust, protobuf or the SDK has it for something else".into()).into());
        }
        let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
        let service = words.into_iter().map(capital).collect();
        Ok(Names { name: name.to_owned(), crate_name, service })
    }
}

/// Names that cannot be used for a crate, for a proto package, or for a service beside the
/// template's own types.
const TAKEN: [&str; 92] = [
    // Keywords of Rust.
    "abstract",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "struct",
    "super",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "union",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
    // Crates that always exist, and cargo's own directories.
    "alloc",
    "core",
    "proc_macro",
    "std",
    "test",
    "build",
    "deps",
    "examples",
    "incremental",
    "target",
    "prost",
    "prost_types",
    // Names that the template imports or declares.
    "add_reply",
    "add_request",
    "command",
    "get_reply",
    "get_request",
    "map",
    "query",
    "reply",
    "status",
    // Names that Rust has in scope everywhere.
    "box_",
    "clone",
    "copy",
    "debug",
    "default",
    "drop",
    "eq",
    "hash",
    "iterator",
    "option",
    "ord",
    "result",
    "send",
    "some",
    "string",
    "sync",
    "to_string",
    "vec",
    "from",
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_crate_and_service() {
        let names = Names::of("my-lock_service2").unwrap();
        assert_eq!(names.crate_name, "my_lock_service2");
        assert_eq!(names.service, "MyLockService2");
    }

    #[test]
    fn names_that_would_not_build_are_refused() {
        for name in [
            "",
            "-a",
            "a-",
            "a--b",
            "1a",
            "a-1",
            "A",
            "a/b",
            "..",
            "a b",
            "é",
            "fn",
            "map",
            "lockstep",
            "lockstep-guest",
        ] {
            let error = Names::of(name).unwrap_err().to_string();
            assert!(error.contains("is no name for a project"), "{name}: {error}");
        }
        assert!(Names::of(&"a".repeat(NAME_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn nothing_in_the_templates_stays_open() {
        let names = Names::of("my-machine").unwrap();
        for sdk in [None, Some("copy"), Some("https://example.org/x.git#v1"), Some("../guest-sdk")] {
            let sdk = Sdk::of(sdk).unwrap();
            for (path, template) in FILES {
                let text = fill(template, &names, &sdk);
                assert!(!text.contains("{{"), "{path}: {text}");
                assert!(text.ends_with('\n'), "{path}");
            }
        }
    }
}
