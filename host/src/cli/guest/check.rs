//! `lockstep guest check`: a node's admission, offline. Only reports; what is refused, and the words for it, are `guest/load.rs`'s and
//! `api/routes.rs`'s.

use std::path::PathBuf;

use serde_json::json;

use super::{Admitted, admit, imported, on_guest_stack, read};
use crate::cli::report::print_line;
use crate::types::hex;

const AFTER_HELP: &str = "\
Compiles the guest and makes one instance of it, as the first start of a node does. Exits with 0
when a node would take it, with 1 when not.

Examples:
  lockstep guest check target/wasm32-unknown-unknown/release/my_machine.wasm
  lockstep guest check my_machine.wasm --json";

/// Say whether a node would take a guest, and if not, what to change.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CheckArgs {
    /// A component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// One JSON object, for programs: {"file", "ok", "component", "services", "imported"} or {"file", "ok", "problem"}
    #[arg(long = "json")]
    json: bool,
}

/// Checks one file.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let bytes = read(&args.file)?;
    let admitted = on_guest_stack(|| admit(&bytes));
    let file = args.file.display().to_string();
    match admitted {
        Ok(Admitted { component, routes }) => {
            let (hash, services) = (hex(&component.hash()), routes.services());
            if args.json {
                return print_line(json!({
                    "file": file, "ok": true, "component": hash, "services": services, "imported": routes.imported(),
                }));
            }
            print_line(format!(
                "{file} is a guest that nodes take\n  component  {hash}\n  serves     {} ({} methods){}",
                services.join(", "),
                routes.methods().len(),
                imported("\n  imports    ", &routes),
            ))
        }
        Err(error) => {
            if args.json {
                print_line(json!({ "file": file, "ok": false, "problem": format!("{error:#}") }))?;
            }
            Err(error.context(format!("a node would refuse {file}")))
        }
    }
}
