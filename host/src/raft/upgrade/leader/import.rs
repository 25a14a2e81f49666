//! Brings rows into the state of the cluster by log entries, on the leader. Apply decides whether
//! it takes them; this file makes sure that every member decides alike, and keeps entries small.
//!
//! - One import or change at a time. All entries are of one term: a leader that lost the lead
//!   proposes none.
//! - One entry is proposed after the other, so that commands of the host find room between them.
//! - Every member is asked whether it applies such entries, and again when the members change.

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::MutexGuard;

use super::{Upgrades, is_same, of_all};
use crate::codec::{ROWS_FIELD, entry};
use crate::guest::Limits;
use crate::machine::{RowsRefusal, RowsReport};
use crate::raft::NotProposed;
use crate::raft::membership::Server;
use crate::raft::upgrade::stopped::{AtMember, Stopped, lines};
use crate::types::date;

/// Most bytes of rows in one entry. A larger row has an entry of its own.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Most rows in one entry.
const ENTRY_ROWS_MAX: usize = 16_384;
/// Most rows that one entry removes. Their keys are held in memory until it is committed.
const CLEAR_ROWS_MAX: u32 = 8_192;

/// Why rows were not brought in, or not all of them. What was written before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Members that would pass over the rows, or were not reached.
    #[error("not every member can take rows:{}", lines(.0))]
    Unable(Vec<AtMember>),
    /// This node does not lead, is busy, or has nothing to run yet.
    #[error(transparent)]
    NotNow(Stopped),
    /// The cluster takes commands.
    #[error(
        "the cluster takes commands, and rows are brought in while it takes none: `lockstep admin <leader's addr> read_only on`"
    )]
    TakesCommands,
    /// A rollback would lose the rows: the component before does not know their types.
    #[error(
        "the change at entry {change_index} can be taken back until {until}, and rows that come in meanwhile would be lost with it; \
         import them after that, or make the change with --probation 0s"
    )]
    OnProbation {
        /// Index of the entry of the change.
        change_index: u64,
        /// The end of the probation.
        until: String,
    },
    /// The rows were made for another component.
    #[error("the cluster does not run the component that the rows were made for; make them again")]
    OtherComponent,
    /// There are rows, and they were not to be replaced.
    #[error("the state is not empty; --replace removes all rows before")]
    NotEmpty,
    /// A row that no guest could have written.
    #[error("a row has {found} bytes of {what}, and the limits in force allow 1 to {most}")]
    Row {
        /// `key` or `value`.
        what: &'static str,
        /// Bytes that it has.
        found: usize,
        /// Bytes that it may have.
        most: u32,
    },
    /// An entry was not taken.
    #[error("rows were not proposed: {0}")]
    NotProposed(NotProposed),
    /// This node lost the lead.
    #[error(
        "this node lost the lead, and the last rows may be written yet; the new leader takes an import with --replace"
    )]
    LeadLost,
    /// The state cannot be read.
    #[error("{0}")]
    Disk(String),
    /// It ended after some of its entries.
    #[error("{why}{}", so_far(.done))]
    Partly {
        /// What ended it.
        why: Box<ImportError>,
        /// What was done before.
        done: Imported,
    },
}

/// What an import has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Rows that were removed.
    pub removed: u64,
    /// Rows that were written.
    pub written: u64,
    /// Index of the last entry; 0 if there was none.
    pub index: u64,
}

/// Says what an import that ended early has done; empty if that is nothing.
fn so_far(done: &Imported) -> String {
    let Imported { removed, written, index } = done;
    match index {
        0 => String::new(),
        _ => format!("; {removed} rows were removed and {written} written already; import again with --replace"),
    }
}

/// An import that is under way. Dropping it ends it between two entries.
pub struct Import<'a> {
    upgrades: &'a Upgrades,
    _turn: MutexGuard<'a, ()>,
    term: u64,
    component: Bytes,
    limits: Limits,
    /// The members that were asked last.
    servers: Vec<Server>,
    pending: Vec<entry::Row>,
    pending_bytes: usize,
    done: Imported,
}

impl Upgrades {
    /// Begins to bring rows in that were made for `component`: the first of them. Removes all rows
    /// that there are, if `replace` is set and the first rows can be taken.
    ///
    /// # Errors
    /// Rows may have been removed, and rows before may have been written.
    pub async fn import(
        &self,
        component: Bytes,
        replace: bool,
        first: Vec<entry::Row>,
    ) -> Result<Import<'_>, ImportError> {
        let parts = &self.0.parts;
        let turn = self.0.turn.try_lock().map_err(|_| ImportError::NotNow(Stopped::Busy))?;
        let term = self.term().map_err(ImportError::NotNow)?;
        let (_, profile) = parts.machine.profile().ok_or(ImportError::NotNow(Stopped::NoProfile))?;
        if profile.component_hash != component {
            return Err(ImportError::OtherComponent);
        }
        if !parts.machine.read_only().is_some_and(|mode| mode.covers_all()) {
            return Err(ImportError::TakesCommands);
        }
        if let Some(probation) = parts.machine.probation() {
            let until = date(probation.until_ms);
            return Err(ImportError::OnProbation { change_index: probation.change_index, until });
        }
        let servers = self.check_members().await?;
        let has_rows = parts.machine.has_rows().map_err(|error| ImportError::Disk(error.to_string()))?;
        if has_rows && !replace {
            return Err(ImportError::NotEmpty);
        }
        let in_use = parts.machine.component().ok_or(ImportError::OtherComponent)?;
        let limits = in_use.engine().limits().clone();
        first.iter().try_for_each(|row| check_row(row, &limits))?;
        let mut import = Import {
            upgrades: self,
            _turn: turn,
            term,
            component,
            limits,
            servers,
            pending: Vec::new(),
            pending_bytes: 0,
            done: Imported::default(),
        };
        if has_rows {
            let cleared = import.clear().await;
            cleared.map_err(|error| import.ended_by(error))?;
        }
        import.put(first).await?;
        Ok(import)
    }

    /// Makes sure that every member applies entries with rows. Returns the members.
    async fn check_members(&self) -> Result<Vec<Server>, ImportError> {
        let servers = self.servers().map_err(ImportError::NotNow)?;
        let asked = join_all(servers.iter().map(|server| async move {
            let Some(asked) = self.asked(server) else { return Ok(()) };
            takes_rows(asked.entry_field().await)
        }));
        of_all(&servers, asked.await).map_err(ImportError::Unable)?;
        Ok(servers)
    }
}

/// Says why a member would pass over rows, by the newest field of an entry that it knows.
fn takes_rows(field: Result<u32, String>) -> Result<(), String> {
    match field? {
        field if field >= ROWS_FIELD => Ok(()),
        _ => Err("its build of Lockstep does not know such entries; start it with the build of the leader".to_owned()),
    }
}

impl Import<'_> {
    /// Brings in more rows.
    ///
    /// # Errors
    /// Rows before may have been written.
    pub async fn put(&mut self, rows: Vec<entry::Row>) -> Result<(), ImportError> {
        let added = self.add(rows).await;
        added.map_err(|error| self.ended_by(error))
    }

    /// Brings in the rest, and says what was done.
    ///
    /// # Errors
    /// Rows before may have been written.
    pub async fn finish(mut self) -> Result<Imported, ImportError> {
        let flushed = self.flush().await;
        flushed.map_err(|error| self.ended_by(error))?;
        Ok(self.done)
    }

    /// Says what was done so far, for whoever hears why it ended early; empty if that is nothing.
    pub fn so_far(&self) -> String {
        so_far(&self.done)
    }

    fn ended_by(&self, why: ImportError) -> ImportError {
        match self.done.index {
            0 => why,
            _ => ImportError::Partly { why: Box::new(why), done: self.done },
        }
    }

    async fn add(&mut self, rows: Vec<entry::Row>) -> Result<(), ImportError> {
        for row in rows {
            check_row(&row, &self.limits)?;
            let bytes = row.key.len() + row.value.len();
            if self.pending.len() == ENTRY_ROWS_MAX || self.pending_bytes + bytes > ENTRY_BYTES_MAX {
                self.flush().await?;
            }
            self.pending_bytes += bytes;
            self.pending.push(row);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ImportError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.pending_bytes = 0;
        let put = std::mem::take(&mut self.pending);
        self.propose(entry::Rows { put, ..entry::Rows::default() }).await.map(drop)
    }

    /// Removes all rows, some in each entry.
    async fn clear(&mut self) -> Result<(), ImportError> {
        let mut clear_from = Bytes::new();
        loop {
            let rows = entry::Rows { clear: CLEAR_ROWS_MAX, clear_from, ..entry::Rows::default() };
            let report = self.propose(rows).await?;
            match report.last_removed {
                // The scan of the next entry need not pass over what this one removed.
                Some(last) if report.removed == u64::from(CLEAR_ROWS_MAX) => clear_from = last.into(),
                _ => return Ok(()),
            }
        }
    }

    async fn propose(&mut self, rows: entry::Rows) -> Result<RowsReport, ImportError> {
        // A member that came in meanwhile may have another build.
        if !is_same(&self.upgrades.servers().map_err(ImportError::NotNow)?, &self.servers) {
            self.servers = self.upgrades.check_members().await?;
        }
        let parts = &self.upgrades.0.parts;
        parts.proposer.check_room().map_err(ImportError::NotProposed)?;
        let rows = entry::Rows { expected_component: self.component.clone(), ..rows };
        let entry = entry::Entry { rows: Some(rows), ..entry::Entry::default() };
        let written = parts.proposer.propose_entry(self.term, entry).await.map_err(not_proposed)?;
        let index = written.ok_or(ImportError::LeadLost)?;
        let report = parts.machine.last_rows().filter(|report| report.index == index).ok_or(ImportError::LeadLost)?;
        match report.refused {
            Some(RowsRefusal::OtherComponent) => return Err(ImportError::OtherComponent),
            Some(RowsRefusal::TakesCommands) => return Err(ImportError::TakesCommands),
            None => {}
        }
        self.done.index = index;
        self.done.removed += report.removed;
        self.done.written += report.written;
        Ok(report)
    }
}

fn not_proposed(why: NotProposed) -> ImportError {
    match why {
        NotProposed::NotLeader => ImportError::LeadLost,
        why => ImportError::NotProposed(why),
    }
}

fn check_row(row: &entry::Row, limits: &Limits) -> Result<(), ImportError> {
    check("key", row.key.len(), 1, limits.key_bytes_max)?;
    check("value", row.value.len(), 0, limits.value_bytes_max)
}

fn check(what: &'static str, found: usize, least: usize, most: u32) -> Result<(), ImportError> {
    let fits = found >= least && u32::try_from(found).is_ok_and(|found| found <= most);
    if fits { Ok(()) } else { Err(ImportError::Row { what, found, most }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_would_pass_over_rows_stops_the_import() {
        assert_eq!(takes_rows(Ok(ROWS_FIELD)), Ok(()));
        assert!(takes_rows(Ok(ROWS_FIELD - 1)).is_err_and(|words| words.contains("build")));
        assert_eq!(takes_rows(Err("not reached".into())), Err("not reached".into()));
    }

    #[test]
    fn an_import_that_ends_early_says_what_was_done() {
        let ended = |done| ImportError::Partly { why: Box::new(ImportError::NotEmpty), done }.to_string();
        let words = ended(Imported { removed: 5, written: 7, index: 9 });
        assert!(words.ends_with("; 5 rows were removed and 7 written already; import again with --replace"), "{words}");
        assert_eq!(ended(Imported::default()), ImportError::NotEmpty.to_string());
    }

    #[test]
    fn a_row_that_no_guest_could_write_is_refused() {
        assert_eq!(check("value", 0, 0, 5), Ok(()));
        assert_eq!(check("key", 5, 1, 5), Ok(()));
        for (found, most) in [(0, 5), (6, 5)] {
            assert_eq!(check("key", found, 1, most), Err(ImportError::Row { what: "key", found, most }));
        }
    }
}
