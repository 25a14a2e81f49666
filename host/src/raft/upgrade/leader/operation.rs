//! Sets retention and quotas of the cluster by a log entry, on the leader. Apply records them on
//! every node; this file only makes sure that every member knows them, and hears what each says.

use futures::future::join_all;

use super::{Upgrades, not_proposed, of_all};
use crate::codec::{OPERATION_FIELD, entry};
use crate::machine::STATE_QUOTA;
use crate::raft::upgrade::stopped::{AtMember, Stopped};

/// What members said to values that are not set yet. All of them have a build that knows the
/// values, except for those that were not reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Members that were not reached, with the reason. They may have any build and any flags.
    pub unreached: Vec<AtMember>,
    /// What speaks against the values at members: their flags or their states.
    pub objections: Vec<AtMember>,
}

/// What one member said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Unreached(String),
    Objection(String),
}

impl Upgrades {
    /// Asks every member whether its build knows these values, and what there speaks against them.
    /// One that is not reached may have any build, until the cluster has had such an entry; from
    /// then on it is named.
    ///
    /// # Errors
    /// A member does not know them, or this node does not lead.
    pub async fn check_operation(&self, operation: &entry::Operation) -> Result<Heard, Stopped> {
        self.term()?;
        let parts = &self.0.parts;
        let servers = self.servers()?;
        let is_first = parts.machine.operation().index == 0;
        let of_nonvoters = &without_state_quota(operation);
        let asked = join_all(servers.iter().map(|server| async move {
            match self.asked(server) {
                Some(asked) if server.voter => said(asked.object(operation).await, is_first),
                Some(asked) => said(asked.object(of_nonvoters).await, is_first),
                None => Ok(parts.member.object_here(operation).map_or(Said::Nothing, Said::Objection)),
            }
        }));
        let mut heard = Heard::default();
        for (name, said) in of_all(&servers, asked.await).map_err(Stopped::Unknowing)? {
            match said {
                Said::Nothing => {}
                Said::Unreached(words) => heard.unreached.push(AtMember { name, words }),
                Said::Objection(words) => heard.objections.push(AtMember { name, words }),
            }
        }
        Ok(heard)
    }

    /// Sets the values. Returns the index of the entry that set them.
    ///
    /// It needs no turn among the changes: no outcome depends on the values, and the entry changes
    /// nothing unless those that it was made from are in force. So a quota can be raised during an
    /// upgrade.
    ///
    /// # Errors
    /// Nothing has changed, except that after [`Stopped::ValuesUnknown`] it may have.
    pub async fn set_operation(&self, operation: entry::Operation) -> Result<u64, Stopped> {
        let parts = &self.0.parts;
        let term = self.term()?;
        if parts.machine.profile().is_none() {
            return Err(Stopped::NoProfile);
        }
        let entry = entry::Entry { operation: Some(operation), needs: OPERATION_FIELD, ..entry::Entry::default() };
        let written = parts.proposer.propose_entry(term, entry).await;
        let index = written.map_err(not_proposed)?.ok_or(Stopped::ValuesUnknown)?;
        // Other values may be in force already, by an entry behind this one.
        if parts.machine.operation_was_set_by(index) { Ok(index) } else { Err(Stopped::Outdated) }
    }
}

/// Returns the values of which a nonvoter is asked. The size of its state speaks against no quota,
/// since it never leads.
fn without_state_quota(operation: &entry::Operation) -> entry::Operation {
    let mut operation = operation.clone();
    operation.settings.retain(|setting| setting.key != STATE_QUOTA);
    operation
}

/// Takes what a member said: the newest field of an entry that it knows, and an objection. An error
/// says why the member would not keep the values.
fn said(answer: Result<(u32, Option<String>), String>, is_first: bool) -> Result<Said, String> {
    match answer {
        Ok((field, objection)) if field >= OPERATION_FIELD => Ok(objection.map_or(Said::Nothing, Said::Objection)),
        Ok(_) => Err(
            "its build of Lockstep knows no retention and quotas of the cluster; start it with the build of the leader"
                .into(),
        ),
        Err(words) if is_first => Err(words),
        Err(words) => Ok(Said::Unreached(words)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_would_pass_over_the_values_stops_them() {
        assert_eq!(said(Ok((OPERATION_FIELD, None)), true), Ok(Said::Nothing));
        assert!(said(Ok((OPERATION_FIELD - 1, None)), false).is_err());
        assert_eq!(said(Err("not reached".into()), true), Err("not reached".into()));
    }

    #[test]
    fn a_nonvoter_is_not_asked_about_the_quota_of_the_state() {
        let setting = |key: &str| entry::Setting { key: key.into(), value: "9".into() };
        let operation = entry::Operation {
            expected_index: 4,
            settings: vec![setting(STATE_QUOTA), setting("log_quota_bytes")],
            by: "ann".into(),
        };
        let asked = without_state_quota(&operation);
        assert_eq!((asked.expected_index, asked.settings), (4, vec![setting("log_quota_bytes")]));
    }

    #[test]
    fn no_member_is_passed_over_in_silence() {
        let unreached = Ok(Said::Unreached("not reached".into()));
        assert_eq!(said(Err("not reached".into()), false), unreached, "it was asked for the first entry");
        let objection = said(Ok((OPERATION_FIELD, Some("its flag".into()))), false);
        assert_eq!(objection, Ok(Said::Objection("its flag".into())));
    }
}
