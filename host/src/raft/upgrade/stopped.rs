//! Why a change was not made, in words for the operator who asked for it. It holds no state.

use std::fmt;

use crate::types::Addresses;

/// What one member said, or why it said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtMember {
    /// Its `--raft_id`.
    pub name: String,
    /// The words.
    pub words: String,
}

/// Why a change was not made. Only with [`Stopped::Unknown`] it may have been made all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// This node does not lead.
    #[error("this node does not lead; {}", leads(.0.as_ref()))]
    NotLeader(Option<Addresses>),
    /// One change or import at a time.
    #[error("another change, or an import of rows, is under way on this node; run this one when that has ended")]
    Busy,
    /// The cluster has no genesis yet.
    #[error("the cluster was founded just now, and runs nothing yet; run this again in a moment")]
    NoProfile,
    /// The plan was made for another profile.
    #[error("another change was made meanwhile; run this again")]
    Outdated,
    /// Members that are not ready.
    #[error("not every member can run the new component:{}", lines(.0))]
    Unprepared(Vec<AtMember>),
    /// Members whose build does not run the semantics, or that were not reached.
    #[error("not every member runs semantics {semantics}:{}", lines(members))]
    Older {
        /// The number.
        semantics: u32,
        /// The members, with what to do about each.
        members: Vec<AtMember>,
    },
    /// The members are no longer those that were prepared.
    #[error("the members of the cluster changed meanwhile; run this again, so that the new ones prepare, too")]
    MembersChanged,
    /// The log cannot be read for a rehearsal.
    #[error("the commands for the rehearsal cannot be read: {0}")]
    NoWindow(String),
    /// Members on which the rehearsal failed.
    #[error("the rehearsal failed:{}", lines(.0))]
    Unrehearsed(Vec<AtMember>),
    /// What the rehearsal found speaks against the change.
    #[error("the rehearsal speaks against the change:{}", lines(.0))]
    Objections(Vec<String>),
    /// No change can be taken back.
    #[error(
        "no change is on probation: none was made, or its time is over. Past its probation a change is undone by an upgrade to a \
         component of the old version, whose `migrate!` has a rule for the newer one if the state was migrated"
    )]
    NotOnProbation,
    /// Members that cannot take the change back.
    #[error("not every member is ready to take the change back:{}", lines(.0))]
    Unready(Vec<AtMember>),
    /// Calls of the rehearsal end otherwise, which the change must not cause.
    #[error("the rehearsal shows that clients would notice the change:{}", lines(.0))]
    Worsened(Vec<String>),
    /// Members that do not know retention and quotas of the cluster, or were not reached.
    #[error("not every member knows these values:{}", lines(.0))]
    Unknowing(Vec<AtMember>),
    /// Members whose flags or states speak against the values.
    #[error("not every member can keep these values:{}", lines(.0))]
    Objected(Vec<AtMember>),
    /// The cluster would refuse at once what it takes now.
    #[error("clients would notice the change at once:{}", lines(.0))]
    Refuses(Vec<String>),
    /// This node lost the lead before the change was in the log.
    #[error("this node lost the lead before the change was proposed; run this again at the new leader")]
    LeadLost,
    /// The entry was not taken.
    #[error("the change was not proposed: {0}")]
    NotProposed(String),
    /// Nobody waits for the end any more.
    #[error("whoever asked for the change has left before it was proposed")]
    Left,
    /// The entry was proposed, and nothing is known of it.
    #[error(
        "the change was proposed, and this node did not learn how that ended: the cluster runs either the old component or the new one, \
         on every node; `lockstep admin <addr> status` shows under fsm which it is"
    )]
    Unknown,
    /// The entry of retention or quotas was proposed, and nothing is known of it.
    #[error(
        "this node lost the lead, and the values may be set yet; `lockstep admin <addr> profile` shows what is in force"
    )]
    ValuesUnknown,
}

fn leads(leader: Option<&Addresses>) -> String {
    leader.map_or("no leader is known".to_owned(), |leader| format!("the leader is {leader}"))
}

pub(super) fn lines(found: &[impl fmt::Display]) -> String {
    found.iter().map(|line| format!("\n  {line}")).collect()
}

impl fmt::Display for AtMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_has_a_line() {
        let members = [("nodeB", "no room"), ("nodeC", "not reached")]
            .map(|(name, words)| AtMember { name: name.into(), words: words.into() });
        assert_eq!(
            Stopped::Unprepared(members.into()).to_string(),
            "not every member can run the new component:\n  nodeB: no room\n  nodeC: not reached"
        );
    }

    #[test]
    fn who_does_not_lead_names_the_leader() {
        let leader = Addresses { name: "nodeA".into(), raft_addr: "a:2".into(), grpc_addr: "a:1".into() };
        assert!(Stopped::NotLeader(Some(leader)).to_string().ends_with("the leader is nodeA (raft a:2, grpc a:1)"));
        assert!(Stopped::NotLeader(None).to_string().ends_with("no leader is known"));
    }
}
