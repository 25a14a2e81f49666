//! `lockstep guest rows`: writes the guest's rows from a backup file, for the SDK's test harness
//! and for programs. It runs nothing of the guest, and checks the file as a restore would.
//! `machine/backup.rs` defines the file format.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::report::Failure;
use crate::machine::backup::RowsOf;

const AFTER_HELP: &str = "\
Writes a line `index <n> time_ms <n>`, of the last entry that the backup holds, and then the rows as
the SDK's snapshots have them: `LSR1`; for each row the length of its key, that of its value (u32,
little-endian), key and value, in the order of the keys; and a row without a key whose value is the
number of rows (u64). The exit code is 0 only when the whole file is good: look at it first.

The SDK's harness starts this for `machine.restore(std::fs::read(\"today.backup\")?)`.

Examples:
  lockstep guest rows today.backup > rows
  lockstep guest rows - < today.backup > rows";

/// Bytes of the value in the end row. The value is the number of rows.
const COUNT_BYTES: u32 = 8;

/// Write the guest's rows out of a backup, for the SDK's test harness and for programs.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct RowsArgs {
    /// A file that `lockstep backup` wrote, or - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Reads one backup.
pub(crate) fn run(args: &RowsArgs) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        let failure = Failure::usage("the rows are bytes and no text for a terminal");
        return Err(failure.hint("write them to a file: > rows").into());
    }
    let file = &args.file;
    if file == Path::new("-") {
        return write_rows(io::stdin().lock()).context("stdin");
    }
    let input = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    write_rows(BufReader::new(input)).with_context(|| file.display().to_string())
}

fn write_rows(backup: impl Read) -> anyhow::Result<()> {
    let rows = RowsOf::open(backup)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    write!(out, "index {} time_ms {}\nLSR1", rows.index(), rows.time_ms())?;
    let count = rows.read(|head, key, value| {
        out.write_all(head)?;
        out.write_all(key)?;
        out.write_all(value)
    })?;
    out.write_all(&0_u32.to_le_bytes())?;
    out.write_all(&COUNT_BYTES.to_le_bytes())?;
    out.write_all(&count.to_le_bytes())?;
    Ok(out.flush()?)
}
