//! `lockstep guest pack`: adds to a guest of any language the descriptor that the SDK's build adds
//! to a Rust guest, and encodes the guest once. It writes nothing that a node would refuse.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Admitted, admit, imported, on_guest_stack, read};
use crate::cli::report::print_line;
use crate::guest::{Component, with_descriptor};
use crate::types::hex;

const AFTER_HELP: &str = "\
The .proto may import \"lockstep/options.proto\", which needs no include path. The file that is
written is a component: deploy that one, everywhere, and keep it; a cluster knows it by its hash.
Packing a packed file again replaces the descriptor.

Examples:
  lockstep guest pack my_machine.wasm --proto app.proto
  lockstep guest pack my_machine.wasm --proto api/app.proto --include api --include third_party -o packed.wasm";

/// Add the protobuf descriptor to a guest of a language whose compiler adds none.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct PackArgs {
    /// A component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The .proto of the guest's services; may be given several times. Services of a file that is
    /// only imported are not the guest's
    #[arg(long = "proto", value_name = "FILE", required = true)]
    protos: Vec<PathBuf>,

    /// Where imports are looked for; may be given several times [default: beside each .proto]
    #[arg(long = "include", value_name = "DIR")]
    includes: Vec<PathBuf>,

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
        "{} serves {} ({} methods){}\n  component  {}",
        out.display(),
        routes.services().join(", "),
        routes.methods().len(),
        imported("\n  imports    ", &routes),
        hex(&component.hash())
    ))
}

fn pack(args: &PackArgs) -> anyhow::Result<Vec<u8>> {
    let file = read(&args.file)?;
    let refused = || format!("{} cannot be packed", args.file.display());
    let encoded = Component::encode(&file).with_context(refused)?;
    let packed = with_descriptor(&encoded, &descriptor(&args.protos, &args.includes)?).with_context(refused)?;
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
