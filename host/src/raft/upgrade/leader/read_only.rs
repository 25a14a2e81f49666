//! Sets the read-only mode of the cluster by a log entry, on the leader. Apply refuses the
//! commands; this file only makes sure that every member will.

use futures::future::join_all;

use super::{Upgrades, of_all};
use crate::codec::{READ_ONLY_FIELD, entry};
use crate::raft::NotProposed;
use crate::raft::upgrade::stopped::{AtMember, Stopped, lines};

/// Why the mode was not set. Only with [`ModeError::Unknown`] it may have been set all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// Members that would not obey the mode, or were not reached.
    #[error("not every member can refuse commands by that mode:{}", lines(.0))]
    Unable(Vec<AtMember>),
    /// This node does not lead, is busy, or has nothing to run yet.
    #[error(transparent)]
    NotNow(Stopped),
    /// The entry was not taken.
    #[error("the mode was not set: {0}")]
    NotProposed(NotProposed),
    /// This node lost the lead, and the entry may be in the log.
    #[error(
        "this node lost the lead, and the mode may be set yet; `lockstep admin <addr> status` shows it as fsm.read_only"
    )]
    Unknown,
}

impl Upgrades {
    /// Sets the read-only mode. Returns the index of the entry that set it. A mode that is in force
    /// already takes an entry, too: only that shows that this node still leads.
    ///
    /// While a change or an import is under way, only the mode is taken that refuses all commands.
    ///
    /// # Errors
    /// Nothing has changed, except that after [`ModeError::Unknown`] it may have.
    pub async fn set_read_only(&self, mode: entry::ReadOnly) -> Result<u64, ModeError> {
        let parts = &self.0.parts;
        let closes = mode.on && mode.methods.is_empty();
        let _turn = match closes {
            true => None,
            false => Some(self.0.turn.try_lock().map_err(|_| ModeError::NotNow(Stopped::Busy))?),
        };
        let term = self.term().map_err(ModeError::NotNow)?;
        if parts.machine.profile().is_none() {
            return Err(ModeError::NotNow(Stopped::NoProfile));
        }
        let servers = self.servers().map_err(ModeError::NotNow)?;
        let is_first = parts.machine.read_only().is_none();
        let asked = join_all(servers.iter().map(|server| async move {
            let Some(asked) = self.asked(server) else { return Ok(()) };
            obeys(asked.entry_field().await, is_first)
        }));
        of_all(&servers, asked.await).map_err(ModeError::Unable)?;
        let entry = entry::Entry { read_only: Some(mode), ..entry::Entry::default() };
        let written = parts.proposer.propose_entry(term, entry).await;
        written.map_err(ModeError::NotProposed)?.ok_or(ModeError::Unknown)
    }
}

/// Says why a member would not obey the mode, by the newest field of an entry that it knows. A
/// member that is not reached may have any build, until the cluster has had such an entry.
fn obeys(field: Result<u32, String>, is_first: bool) -> Result<(), String> {
    match field {
        Ok(field) if field >= READ_ONLY_FIELD => Ok(()),
        Ok(_) => Err("its build of Lockstep does not know the mode; start it with the build of the leader".to_owned()),
        Err(words) if is_first => Err(words),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_would_not_obey_stops_the_mode() {
        assert_eq!(obeys(Ok(READ_ONLY_FIELD), true), Ok(()));
        assert!(obeys(Ok(READ_ONLY_FIELD - 1), false).is_err());
        assert_eq!(obeys(Err("not reached".into()), true), Err("not reached".into()));
        assert_eq!(obeys(Err("not reached".into()), false), Ok(()), "it was asked for the first entry");
    }
}
