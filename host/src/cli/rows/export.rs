//! `lockstep rows export`: writes the rows of a running cluster, or of a backup, as JSON lines. The
//! rows are those of one index, because they come as a backup comes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::described::Described;
use super::line::{self, Header};
use super::shape::Collection;
use crate::cli::backup::fetch;
use crate::cli::client_runtime;
use crate::cli::credentials::Credentials;
use crate::cli::report::{Failure, print_notice};
use crate::cli::similar::{similar, suggestion};
use crate::machine::backup::RowsOf;

const AFTER_HELP: &str = "\
The first line says which component the rows belong to, and which collections there are. Every other line is a row, and the
last line says that the file is whole. Keys and values are JSON: integers of more than 32 bits are texts, bytes are base64, and
messages have protobuf's JSON. A key or value of a type of the guest's own, or one that would not come back as it is, stands as
\"raw_key\" or \"raw_value\": its bytes. Indexes are written as the rows that they are. docs/rows.md tells more.

The rows pass through a file without a name in the directory for temporary files (TMPDIR), which needs room for all of them.

Examples:
  lockstep rows export localhost:40051 --out today.jsonl
  lockstep rows export localhost:40051 --collection accounts | head
  lockstep rows export --backup today.backup --out today.jsonl";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ExportArgs {
    /// Only the rows of this collection, by its name or its tag; may be given several times
    #[arg(long = "collection", value_name = "NAME|TAG")]
    collections: Vec<String>,

    /// Write to this file [default: stdout]
    #[arg(long = "out", value_name = "FILE")]
    out: Option<PathBuf>,

    /// Read a file that `lockstep backup` wrote, instead of asking a node
    #[arg(long = "backup", value_name = "FILE", conflicts_with_all = ["local", "addr"])]
    backup: Option<PathBuf>,

    /// Take what this node has applied, however old, without a leader [default: everything
    /// acknowledged before the call]
    #[arg(long = "local")]
    local: bool,

    #[command(flatten)]
    credentials: Credentials,

    /// The grpc_addr of a node
    #[arg(value_name = "HOST:PORT", required_unless_present = "backup")]
    addr: Option<String>,
}

/// Writes one file.
pub(super) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let backup = source(args)?;
    let rows = RowsOf::open(BufReader::new(backup)).context("the rows cannot be read")?;
    let described = Described::new(rows.component()).context("the guest does not say what its state is")?;
    let told = match &args.out {
        None => write(rows, &described, &args.collections, io::stdout().lock())?,
        Some(path) => {
            let cannot = || format!("cannot write {}", path.display());
            let file = File::create(path).with_context(cannot)?;
            let told = write(rows, &described, &args.collections, &file).with_context(cannot)?;
            file.sync_all().with_context(cannot)?;
            told
        }
    };
    told.print();
    Ok(())
}

/// Returns the backup, which a node may have to send first.
fn source(args: &ExportArgs) -> anyhow::Result<File> {
    let open = |path: &Path| File::open(path).with_context(|| format!("cannot open {}", path.display()));
    if let Some(path) = &args.backup {
        return open(path);
    }
    let addr = args.addr.as_deref().unwrap_or_default();
    let mut file = tempfile::tempfile().context("cannot make a temporary file for the rows")?;
    client_runtime()?.block_on(fetch(addr, args.local, &args.credentials, &file))?;
    file.rewind().context("cannot read the rows back")?;
    Ok(file)
}

/// What was written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    index: u64,
    rows: u64,
    /// Rows of which a part is raw, by collection.
    raw: BTreeMap<String, u64>,
    /// Rows in no collection.
    elsewhere: u64,
}

impl Told {
    fn print(&self) {
        let Told { index, rows, .. } = self;
        print_notice(format_args!("exported {rows} rows as of index {index}"));
        for (collection, count) in &self.raw {
            print_notice(format_args!("{count} rows of {collection} have parts that are written as bytes"));
        }
        if self.elsewhere > 0 {
            let count = self.elsewhere;
            print_notice(format_args!(
                "{count} rows are in no collection that the guest describes, and are written as bytes"
            ));
        }
    }
}

/// Calls what it gets with each row, in order.
type EachRow<'a> = &'a mut dyn FnMut(&mut dyn FnMut(&[u8], &[u8]) -> io::Result<()>) -> anyhow::Result<()>;

/// Writes all rows of a backup.
fn write(
    rows: RowsOf<impl io::Read>,
    described: &Described,
    wanted: &[String],
    out: impl Write,
) -> anyhow::Result<Told> {
    let index = rows.index();
    let mut rows = Some(rows);
    write_rows(index, described, wanted, out, &mut |row| {
        if let Some(rows) = rows.take() {
            rows.read(|_, key, value| row(key, value))?;
        }
        Ok(())
    })
}

/// Writes all rows of a state as of entry `index`, as `lockstep rows export` does. `encoded` is the
/// component that the state belongs to.
pub(in crate::cli) fn write_state(
    index: u64,
    encoded: &[u8],
    out: impl Write,
    each: EachRow<'_>,
) -> anyhow::Result<u64> {
    let described = Described::new(encoded).context("the guest does not say what its state is")?;
    Ok(write_rows(index, &described, &[], out, each)?.rows)
}

/// Writes all lines.
fn write_rows(
    index: u64,
    described: &Described,
    wanted: &[String],
    out: impl Write,
    each: EachRow<'_>,
) -> anyhow::Result<Told> {
    let collections = chosen(&described.collections, wanted)?;
    let mut out = BufWriter::new(out);
    let mut told = Told { index, ..Told::default() };
    let header = Header::new(described.hash_text(), described.version.clone(), index, &collections);
    writeln!(out, "{}", header.to_line())?;
    each(&mut |key, value| {
        let shown = line::show(&collections, key, value);
        match shown.collection {
            None if !wanted.is_empty() => return Ok(()),
            None => told.elsewhere += 1,
            Some(collection) if shown.is_raw => *told.raw.entry(collection.to_string()).or_default() += 1,
            Some(_) => {}
        }
        told.rows += 1;
        writeln!(out, "{}", shown.json)
    })?;
    writeln!(out, "{}", line::end())?;
    out.flush()?;
    Ok(told)
}

/// Returns the collections that are wanted: all, if none is named.
fn chosen(collections: &[Collection], wanted: &[String]) -> Result<Vec<Collection>, Failure> {
    if wanted.is_empty() {
        return Ok(collections.to_vec());
    }
    let find = |name: &String| {
        let is_it = |collection: &&Collection| collection.name == *name || collection.tag.to_string() == *name;
        collections.iter().find(is_it).cloned().ok_or_else(|| {
            let names: Vec<String> = collections.iter().map(|collection| collection.name.clone()).collect();
            let close =
                similar(name, names.iter().map(String::as_str)).into_iter().map(str::to_owned).collect::<Vec<_>>();
            let failure = Failure::usage(format!("the state has no collection {name:?}"));
            if names.is_empty() {
                failure.hint("the guest describes none")
            } else {
                failure.hint(suggestion(&close, &names))
            }
        })
    };
    wanted.iter().map(find).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    fn collections() -> Vec<Collection> {
        let of = |tag, name| Collection::new(tag, name, "Set<u8>", &DescriptorPool::new());
        vec![of(1, "accounts"), of(2, "orders")]
    }

    #[test]
    fn collections_are_chosen_by_name_or_tag() {
        let chosen = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| name.to_string()).collect();
            chosen(&collections(), &wanted).map(|found| found.iter().map(|one| one.tag).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]).unwrap(), [1, 2]);
        assert_eq!(chosen(&["2", "accounts"]).unwrap(), [2, 1]);
        let failure = format!("{:?}", chosen(&["order"]).unwrap_err());
        assert!(failure.contains("no collection") && failure.contains("orders"), "{failure}");
    }
}
