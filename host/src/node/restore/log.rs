//! The log behind a backup, for a restore to an index or a time: checks that it belongs to the
//! backup and reaches far enough, and reads the components that it may change to. `machine/backup`
//! applies it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;

use super::{Progress, Tell};
use crate::machine::backup::{Forward, Forwarded, Unfounded, Until};
use crate::machine::replay::Place;
use crate::node::replay::supply;
use crate::store::{Segments, State};
use crate::types::{date, hex};

/// The directory for the states that are kept meanwhile, within the data directory. It is removed
/// before that is whole.
const PLACE: &str = "forward";

/// The log that brings the state of a backup forward.
#[derive(Clone, Copy, Debug)]
pub struct Behind<'a> {
    /// Segment files, and directories of them. Empty: the state is that of the backup.
    pub log: &'a [PathBuf],
    /// How far the log brings the state.
    pub until: Until,
    /// Files of components that the log changes to, and directories of them.
    pub components: &'a [PathBuf],
}

/// The data directory that is built.
pub(super) struct Building<'a> {
    pub(super) directory: &'a Path,
    /// Its state, which the backup was read into.
    pub(super) state: &'a State,
    /// The component of `--fsm`. The log may change to it, too.
    pub(super) fsm: Option<&'a Bytes>,
}

/// Applies the log to the state. Blocks, on a thread with the stack size for guests.
pub(super) fn bring_forward(
    read: &mut Unfounded,
    behind: &Behind<'_>,
    building: &Building<'_>,
    tell: &Tell,
) -> anyhow::Result<Forwarded> {
    let segments = Segments::open_all(behind.log).context("the log cannot be read")?;
    check(read, &segments, behind)?;
    let mut components = supply(&[], behind.components)?;
    if let Some(encoded) = building.fsm {
        components.add(encoded.clone());
    }
    // On the disk of the state, so that both share table files.
    let root = building.directory.join(PLACE);
    let place = Place::open(&root)?;
    let (until, state) = (behind.until, building.state);
    let tell = |index, last| tell(Progress::Applying { index, last });
    let forward = Forward { until, entries: &segments, components, place: &place, state, tell: &tell };
    let forwarded = read.forward(forward).context("the log was not applied to the end")?;
    drop(place);
    std::fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    Ok(forwarded)
}

/// Refuses a log of another cluster, and an end that lies before the backup or behind the log.
fn check(read: &Unfounded, segments: &Segments, behind: &Behind<'_>) -> anyhow::Result<()> {
    let Some(cluster) = segments.cluster() else {
        let places: Vec<String> = behind.log.iter().map(|path| path.display().to_string()).collect();
        bail!("there is no segment of a log in {}; a node's archive is in <log_archive>/<raft_id>", places.join(", "));
    };
    let ours = &read.profile().cluster_id;
    if ours[..] != cluster {
        bail!("the log is of cluster {}, and the backup of cluster {}", hex(&cluster), hex(ours));
    }
    let index = read.index();
    let last = segments.range().map_or(index, |range| index.max(*range.end()));
    match behind.until {
        Until::Index(wanted) if wanted < index => {
            bail!("the backup stands at index {index} already, behind {wanted}: begin with an earlier backup")
        }
        Until::Index(wanted) if wanted > last => {
            bail!("the log ends at entry {last}, and does not reach entry {wanted}")
        }
        Until::TimeMs(wanted) if wanted < read.time_ms() => bail!(
            "the log time of the backup is {} already, later than {}: begin with an earlier backup",
            date(read.time_ms()),
            date(wanted)
        ),
        _ => Ok(()),
    }
}
