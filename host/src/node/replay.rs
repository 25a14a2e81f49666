//! What a replay needs, from where an operator has it: the directory of a stopped node, a backup,
//! segments of a log, and files of components. Opens all of it to read, and makes a directory of
//! its own for the states. Runs nothing.
//!
//! - The directory of a node is locked meanwhile, and nothing in it changes.
//! - Where sources of different clusters meet, they are refused.
//! - Segments hold committed entries alone, and go before the log of a node.

use std::fs::{self, File};
use std::io::BufReader;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use tempfile::TempDir;

use super::admission;
use crate::guest::Component;
use crate::machine::replay::{Base, EntrySource, Joined, Landmark, Place, Supply, Upto, landmarks};
use crate::store::{Checkpoints, DataDir, Read, Segments, State, StoppedLog};
use crate::types::{COMPONENT_BYTES_MAX, GROUP, hex};

/// Suffix of files of components.
const COMPONENT_SUFFIX: &str = "wasm";

/// What to open.
#[derive(Clone, Debug, Default)]
pub struct Plan<'a> {
    /// The directory of a stopped node.
    pub data_dir: Option<&'a Path>,
    /// A backup to begin at.
    pub backup: Option<&'a Path>,
    /// Segments of the log: files, and directories of them.
    pub log: &'a [PathBuf],
    /// Files of components.
    pub fsm: &'a [PathBuf],
    /// More files of components, and directories of them.
    pub components: &'a [PathBuf],
    /// The first entry that is of interest. `None`: the first one that there is.
    pub from: Option<u64>,
    /// The last entry that is of interest. `None`: the last one that is known to be committed.
    pub to: Option<u64>,
    /// Where the directory for the states is made. `None`: where the system has its temporary
    /// files.
    pub scratch: Option<&'a Path>,
}

/// All that a replay needs. Its directory is removed when it is dropped.
pub struct Opened {
    // Declared in this order, so that databases are closed before their directories go.
    /// The entries.
    pub source: Box<dyn EntrySource>,
    /// The entries without a gap that have what is of interest.
    pub range: RangeInclusive<u64>,
    /// Where the replay begins.
    pub base: Base,
    /// Where the states are made.
    pub place: Place,
    /// The components.
    pub supply: Supply,
    /// The hashes of a node's states.
    pub landmarks: Vec<Landmark>,
    /// The last entry that is known to be committed.
    pub committed: u64,
    _locked: Option<DataDir>,
    _scratch: TempDir,
}

/// Opens what a plan names.
pub fn open(plan: &Plan<'_>) -> anyhow::Result<Opened> {
    let scratch = temporary(plan.scratch)?;
    let place = Place::open(&scratch.path().join("states"))?;
    let mut supply = supply(plan.fsm, plan.components)?;
    let (mut sources, mut bases, mut found) = (Vec::<Box<dyn EntrySource>>::new(), Vec::new(), Vec::new());
    let (mut own, mut committed, mut cluster) = (None, None, None);
    let locked = plan.data_dir.map(DataDir::look).transpose()?;
    if let Some(directory) = &locked {
        let log = StoppedLog::open(directory, GROUP)?;
        let state = State::look(directory, GROUP)?;
        let state = state.as_ref().map(|state| state as &dyn Read);
        let (marks, checkpoints) = landmarks(Checkpoints::found(directory, GROUP)?, state)?;
        committed = log.committed().max(marks.iter().map(|mark| mark.index).max());
        cluster = log.identity().and_then(|identity| Some(identity.cluster.as_ref()?.id));
        bases.extend(checkpoints.into_iter().map(Base::Checkpoint));
        found = marks;
        directory.load_components()?.into_iter().for_each(|encoded| supply.add(encoded.into()));
        own = own_source(log, committed, plan);
    }
    if !plan.log.is_empty() {
        let segments = Segments::open_all(plan.log)?;
        if let (Some(one), Some(other)) = (cluster, segments.cluster())
            && one != other
        {
            bail!("the log of cluster {} does not go with that of cluster {}", hex(&other), hex(&one));
        }
        cluster = cluster.or(segments.cluster());
        committed = committed.max(segments.range().map(|range| *range.end()));
        sources.push(Box::new(segments));
    }
    sources.extend(own);
    if let Some(path) = plan.backup {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let (base, component) =
            place.base_of_backup(BufReader::new(file)).with_context(|| format!("cannot read {}", path.display()))?;
        supply.add(component);
        bases = vec![base];
    }
    let source: Box<dyn EntrySource> = Box::new(Joined(sources));
    let range = run_of(&*source, plan)?;
    let base = choose(&range, bases, plan)?;
    if let (Some(of_base), Some(of_log)) = (base.cluster()?, cluster)
        && of_base != of_log[..]
    {
        bail!("the state is of cluster {}, and the log of cluster {}", hex(&of_base), hex(&of_log));
    }
    let committed = committed.unwrap_or(0).min(*range.end());
    Ok(Opened { source, range, base, place, supply, landmarks: found, committed, _locked: locked, _scratch: scratch })
}

/// Returns the log of the node. Beside segments only what is known to be committed counts of it:
/// behind that they may have what another leader has committed.
fn own_source(log: StoppedLog, committed: Option<u64>, plan: &Plan<'_>) -> Option<Box<dyn EntrySource>> {
    match plan.log.is_empty() {
        true => Some(Box::new(log)),
        false => committed.map(|last| Box::new(Upto(log, last)) as Box<dyn EntrySource>),
    }
}

fn temporary(place: Option<&Path>) -> anyhow::Result<TempDir> {
    let place = place.map_or_else(std::env::temp_dir, Path::to_owned);
    let made = tempfile::Builder::new().prefix("lockstep-replay-").tempdir_in(&place);
    made.with_context(|| format!("cannot make a directory for the states in {}", place.display()))
}

/// Reads components: the files of `--fsm`, and the files and directories of `--components`.
pub(super) fn supply(fsm: &[PathBuf], components: &[PathBuf]) -> anyhow::Result<Supply> {
    let mut supply = Supply::default();
    for path in fsm {
        supply.add(admission::read(path)?.1);
    }
    for place in components {
        if !place.is_dir() {
            supply.add(read_component(place)?);
            continue;
        }
        let cannot = || format!("cannot list {}", place.display());
        for entry in fs::read_dir(place).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            if path.extension().is_some_and(|extension| extension == COMPONENT_SUFFIX) {
                supply.add(read_component(&path)?);
            }
        }
    }
    Ok(supply)
}

/// Reads a file of a component, and encodes it if it is not yet. One that is named by its hash, as
/// nodes name theirs, is encoded already.
pub fn read_component(path: &Path) -> anyhow::Result<Bytes> {
    let what = || format!("cannot read {}", path.display());
    let bytes = fs::metadata(path).with_context(what)?.len();
    if bytes > COMPONENT_BYTES_MAX as u64 {
        bail!("{} has {bytes} bytes, and no component has more than {COMPONENT_BYTES_MAX}", path.display());
    }
    let file = fs::read(path).with_context(what)?;
    let is_encoded = path.file_stem().is_some_and(|stem| *stem == *hex(blake3::hash(&file).as_bytes()));
    match is_encoded {
        true => Ok(file.into()),
        false => Component::encode(&file).with_context(|| format!("{} is no component", path.display())),
    }
}

/// Returns the run of entries with the first or the last one that is of interest, or else the last
/// run.
fn run_of(source: &dyn EntrySource, plan: &Plan<'_>) -> anyhow::Result<RangeInclusive<u64>> {
    let wanted = plan.from.or(plan.to);
    let run = source.runs().into_iter().find(|run| wanted.is_some_and(|wanted| run.contains(&wanted)));
    run.or_else(|| source.range()).context("there is no log entry in what was given")
}

/// Chooses where to begin: as near before the first entry of interest as possible, or else as early
/// as possible. The log has to go on from there.
fn choose(range: &RangeInclusive<u64>, mut bases: Vec<Base>, plan: &Plan<'_>) -> anyhow::Result<Base> {
    let (first, last) = (*range.start(), *range.end());
    if first == 0 && plan.backup.is_none() {
        bases.push(Base::Empty);
    }
    let before = bases.iter().map(Base::words).collect::<Vec<_>>().join(", ");
    bases.retain(|base| base.next() >= first && base.next() <= last + 1);
    bases.sort_by_key(Base::next);
    if bases.is_empty() {
        let there =
            if before.is_empty() { "there is no state to begin at".to_owned() } else { format!("there is {before}") };
        bail!(
            "the log has entries {first} to {last}, and {there}: give a backup that ends within them (--from), or a log from entry 0 on (--log)"
        );
    }
    match plan.from {
        None => Ok(bases.swap_remove(0)),
        Some(from) => {
            let Some(base) = bases.iter().rev().find(|base| base.next() <= from) else {
                bail!("the earliest state to begin at is {}, and entry {from} is not behind it", bases[0].words());
            };
            Ok(base.clone())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{Checkpoint, StoreError};
    use crate::types::Entry;

    struct Runs(Vec<RangeInclusive<u64>>);

    impl EntrySource for Runs {
        fn range(&self) -> Option<RangeInclusive<u64>> {
            self.runs().pop()
        }

        fn runs(&self) -> Vec<RangeInclusive<u64>> {
            self.0.clone()
        }

        fn read(&self, _: u64) -> Result<Vec<Entry>, StoreError> {
            Ok(Vec::new())
        }
    }

    fn chosen(range: RangeInclusive<u64>, indexes: &[u64], from: Option<u64>) -> Result<u64, String> {
        let base =
            |index: &u64| Base::Checkpoint(Arc::new(Checkpoint { index: *index, term: 1, path: PathBuf::new() }));
        let plan = Plan { from, ..Plan::default() };
        let base = choose(&range, indexes.iter().map(base).collect(), &plan);
        base.map(|base| base.next()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_replay_begins_near_what_is_asked_for_and_where_the_log_goes_on() {
        assert_eq!(chosen(0..=90, &[40, 20], None), Ok(0));
        assert_eq!(chosen(21..=90, &[40, 20, 10], None), Ok(21));
        assert_eq!(chosen(0..=90, &[40, 20], Some(41)), Ok(41));
        assert_eq!(chosen(0..=90, &[40, 20], Some(40)), Ok(21));
        assert_eq!(chosen(0..=90, &[40, 20], Some(7)), Ok(0));
        assert!(chosen(21..=90, &[40], Some(40)).unwrap_err().contains("the state at entry 40"));
        assert!(chosen(50..=90, &[40], None).unwrap_err().contains("--from"));
        assert!(chosen(5..=90, &[], None).unwrap_err().contains("no state to begin at"));
    }

    #[test]
    fn of_a_log_with_gaps_the_run_counts_that_has_what_is_asked_for() {
        let run = |runs: &[RangeInclusive<u64>], from: Option<u64>, to: Option<u64>| {
            let plan = Plan { from, to, ..Plan::default() };
            run_of(&Runs(runs.to_vec()), &plan).map_err(|error| error.to_string())
        };
        let gap = [0..=9, 15..=25];
        assert_eq!(run(&gap, None, None), Ok(15..=25));
        assert_eq!(run(&gap, Some(7), None), Ok(0..=9));
        assert_eq!(run(&gap, None, Some(9)), Ok(0..=9));
        assert_eq!(run(&gap, Some(12), None), Ok(15..=25));
        assert!(run(&[], None, None).unwrap_err().contains("no log entry"));
    }
}
