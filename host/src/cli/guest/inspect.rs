//! `lockstep guest inspect`: shows what a guest's file says about itself. Nothing of the guest is
//! compiled or run.

use std::collections::HashMap;
use std::path::PathBuf;

use prost_reflect::{DescriptorPool, MethodDescriptor};
use serde_json::{Value, json};

use super::{imported, read, shown_migrates, shown_version};
use crate::cli::call::shapes;
use crate::cli::report::{Failure, print_line};
use crate::guest::Anatomy;
use crate::types::hex;
use lockstep_contract::{Contract, ContractError};

/// Greatest width of the column of methods.
const COLUMN_CHARS_MAX: usize = 80;

const AFTER_HELP: &str = "\
Nothing of the guest is run. The hash is the BLAKE3 of the encoded component: what a cluster
records, and what every node of it must have. The version is the one that the guest declares; a
later version's `migrate` is told it. Whether a node would take the guest is said by
`lockstep guest check`.

Examples:
  lockstep guest inspect build/kv.wasm
  lockstep guest inspect build/kv.wasm --json";

/// Show a guest's services, hash, size and version, without running anything of it.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct InspectArgs {
    /// A component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// One JSON object, for programs
    #[arg(long = "json")]
    json: bool,
}

/// Shows one file.
pub(crate) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let bytes = read(&args.file)?;
    let refused = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", args.file.display()));
    let anatomy = Anatomy::of(&bytes).map_err(|error| refused(&error))?;
    let routes = Contract::new(anatomy.descriptor.as_deref(), anatomy.has_watcher);
    if args.json { print_line(as_json(bytes.len(), &anatomy, &routes)) } else { print(bytes.len(), &anatomy, &routes) }
}

fn print(file_bytes: usize, anatomy: &Anatomy, routes: &Result<Contract, ContractError>) -> anyhow::Result<()> {
    match &anatomy.encoded {
        Some(encoded) => {
            print_line(format!("component  {}", hex(blake3::hash(encoded).as_bytes())))?;
            print_line(format!("size       {} bytes encoded, {file_bytes} in the file", encoded.len()))?;
        }
        None => print_line(format!("size       {file_bytes} bytes, which cannot be made a component"))?,
    }
    print_line(format!("contract   {}", anatomy.contract.as_deref().unwrap_or("none")))?;
    print_line(format!("version    {}", shown_version(&anatomy.version)))?;
    print_line(format!("migrates   {}", shown_migrates(anatomy.has_migrator)))?;
    print_list("imports", &anatomy.imports)?;
    print_list("exports", &anatomy.exports)?;
    match routes {
        Ok(routes) => print_methods(routes)?,
        Err(error) => print_line(format!("services   {error}"))?,
    }
    match &anatomy.refused {
        Some(error) => print_line(format!("refused    {error}")),
        None => Ok(()),
    }
}

fn print_list(title: &str, names: &[String]) -> anyhow::Result<()> {
    let first = names.first().map_or("none", String::as_str);
    print_line(format!("{title:<10} {first}"))?;
    names.iter().skip(1).try_for_each(|name| print_line(format!("{:<10} {name}", "")))
}

/// Prints lines such as `Example/Get  query, local  {"key": string} -> {"value": string}`.
fn print_methods(routes: &Contract) -> anyhow::Result<()> {
    let pool = DescriptorPool::decode(routes.encoded())?;
    let descriptors: HashMap<String, MethodDescriptor> = pool
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| (format!("{}/{}", method.parent_service().full_name(), method.name()), method))
        .collect();
    let methods = routes.methods();
    // A name may be longer than that; then its line is longer, too.
    let width = methods.iter().map(|method| method.name.len()).max().unwrap_or(0).min(COLUMN_CHARS_MAX);
    print_line(format!("services   {}{}", routes.services().join(", "), imported("\nimported   ", routes)))?;
    for method in methods {
        let shape = descriptors.get(&*method.name).map(shapes).unwrap_or_default();
        print_line(format!("  {:<width$}  {:<23}  {shape}", method.name, method.nature()))?;
    }
    Ok(())
}

fn as_json(file_bytes: usize, anatomy: &Anatomy, routes: &Result<Contract, ContractError>) -> Value {
    let methods = |routes: &Contract| -> Vec<Value> {
        let one = |method: &lockstep_contract::Method| json!({ "name": &*method.name, "kind": method.kind.name(), "consistency": method.freshness() });
        routes.methods().into_iter().map(one).collect()
    };
    json!({
        "component": anatomy.encoded.as_ref().map(|encoded| hex(blake3::hash(encoded).as_bytes())),
        "encoded_bytes": anatomy.encoded.as_ref().map(|encoded| encoded.len()),
        "file_bytes": file_bytes,
        "contract": anatomy.contract,
        "version": anatomy.version,
        "migrates": anatomy.has_migrator,
        "imports": anatomy.imports,
        "exports": anatomy.exports,
        "services": routes.as_ref().map(|routes| routes.services().to_vec()).unwrap_or_default(),
        "imported_services": routes.as_ref().map(|routes| routes.imported().to_vec()).unwrap_or_default(),
        "methods": routes.as_ref().map(methods).unwrap_or_default(),
        "problem": anatomy.refused.as_ref().map(ToString::to_string).or(routes.as_ref().err().map(ToString::to_string)),
    })
}
