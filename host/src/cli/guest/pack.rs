//! `lockstep guest pack`: adds to a guest of any language the descriptor and the version that the
//! SDK adds to a Rust guest, and encodes the guest once. It writes nothing that a node would
//! refuse.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::builder::NonEmptyStringValueParser;

use super::{Admitted, admit, imported, on_guest_stack, read, shown_version};
use crate::cli::report::print_line;
use crate::guest::{Component, with_descriptor, with_version};
use crate::types::hex;

const AFTER_HELP: &str = "\
The .proto may import \"lockstep/options.proto\", which needs no include path. The file that is
written is a component: deploy that one, everywhere, and keep it; a cluster knows it by its hash.
Packing a packed file again replaces the descriptor, and the version if --version is given.

Examples:
  lockstep guest pack my_machine.wasm --proto app.proto
  lockstep guest pack my_machine.wasm --proto app.proto --version 2
  lockstep guest pack my_machine.wasm --version 2 -o my_machine-2.wasm
  lockstep guest pack my_machine.wasm --proto api/app.proto --include api --include third_party -o packed.wasm";

/// Add the protobuf descriptor to a guest of a language whose compiler adds none, or a version.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PackArgs {
    /// A component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The .proto of the guest's services; may be given several times. Services of a file that is
    /// only imported are not the guest's
    #[arg(long = "proto", value_name = "FILE", required_unless_present = "version")]
    protos: Vec<PathBuf>,

    /// Where imports are looked for; may be given several times [default: beside each .proto]
    #[arg(long = "include", value_name = "DIR")]
    includes: Vec<PathBuf>,

    /// The version that the guest declares: a later version's `migrate` is told it. At most 64
    /// printable ASCII characters
    #[arg(long = "version", value_name = "VERSION", value_parser = NonEmptyStringValueParser::new())]
    version: Option<String>,

    /// What to write [default: the name of FILE, with .component.wasm]
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Packs one file.
pub(crate) fn run(args: &PackArgs) -> anyhow::Result<()> {
    let out = args.out.clone().unwrap_or_else(|| args.file.with_extension("component.wasm"));
    let packed = pack(args)?;
    let file = args.file.display();
    let Admitted { component, routes } = on_guest_stack(|| admit(&packed))
        .with_context(|| format!("{file} was packed, but a node would refuse it; nothing was written"))?;
    // Replaces the old file by a rename, so that a process that reads the old file gets all of it.
    let temporary = out.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, &packed).with_context(|| format!("cannot write {}", temporary.display()))?;
    std::fs::rename(&temporary, &out).with_context(|| format!("cannot write {}", out.display()))?;
    print_line(format!(
        "{} serves {} ({} methods){}\n  component  {}\n  version    {}",
        out.display(),
        routes.services().join(", "),
        routes.methods().len(),
        imported("\n  imports    ", &routes),
        hex(&component.hash()),
        shown_version(component.version()),
    ))
}

fn pack(args: &PackArgs) -> anyhow::Result<Vec<u8>> {
    let file = read(&args.file)?;
    let refused = || format!("{} cannot be packed", args.file.display());
    let mut packed = Component::encode(&file).with_context(refused)?;
    if !args.protos.is_empty() {
        packed = with_descriptor(&packed, &descriptor(&args.protos, &args.includes)?).with_context(refused)?;
    }
    if let Some(version) = &args.version {
        packed = with_version(&packed, version).with_context(refused)?;
    }
    Ok(packed.to_vec())
}

fn descriptor(protos: &[PathBuf], includes: &[PathBuf]) -> anyhow::Result<Vec<u8>> {
    let beside = |proto: &PathBuf| match proto.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => Path::new(".").to_owned(),
    };
    let includes = if includes.is_empty() { protos.iter().map(beside).collect() } else { includes.to_vec() };
    let names: Vec<String> = protos.iter().map(|proto| proto.display().to_string()).collect();
    lockstep_guest_build::descriptor(protos, &includes)
        .with_context(|| format!("{} does not compile", names.join(", ")))
}
