//! `lockstep rows`: a state as JSON lines. `export` writes the lines of a running cluster or of a
//! backup, and `import` brings lines into a running cluster, whose guest may be another one. The
//! guest says which types its rows have (the section that the SDK's `state!` writes); nothing of it
//! is run.
//!
//! ```text
//! described, shape              which collections a guest has, and the types of their rows
//! key, value, message, scalar   bytes of the SDK's encodings ◄─► JSON
//! line                          a row ◄─► a line; the first line and the last
//! export                        the frames of a backup ─► lines
//! import                        lines ─► rows that the leader writes by log entries
//! shown                         rows of other commands, as such lines
//! ```

mod described;
mod export;
mod import;
mod key;
mod line;
mod message;
mod scalar;
mod shape;
mod shown;
mod value;

pub(super) use export::write_state;
pub(super) use shown::RowShapes;

use clap::Subcommand;

const AFTER_HELP: &str = "\
Examples:
  lockstep rows export localhost:40051 --out today.jsonl
  lockstep rows import localhost:40061 today.jsonl --dry_run";

/// Move the rows of a state as JSON lines, from one cluster to another.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct RowsArgs {
    #[command(subcommand)]
    command: RowsCommand,
}

#[derive(Debug, Subcommand)]
enum RowsCommand {
    /// Write all rows of a cluster or of a backup
    Export(export::ExportArgs),
    /// Bring rows into a cluster that takes no commands meanwhile
    Import(import::ImportArgs),
}

/// Runs one of the two.
pub(crate) fn run(args: &RowsArgs) -> anyhow::Result<()> {
    match &args.command {
        RowsCommand::Export(args) => export::run(args),
        RowsCommand::Import(args) => import::run(args),
    }
}
