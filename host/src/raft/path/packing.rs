//! One entry while it is packed: what fits into it, and what it takes of each client. Owns no queue
//! and never talks to Raft.

use super::costs;
use super::ticket::{Claim, Queued, Share, weight_bytes};
use crate::codec::Command;
use crate::source::Party;

/// Most commands in one entry.
pub const ENTRY_COMMANDS_MAX: usize = 1024;
/// Most bytes of commands in one entry. A single larger command goes alone.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Most bytes of commands in one entry of clients of which nothing is known.
const UNTRIED_BYTES_MAX: usize = ENTRY_BYTES_MAX / 4;

/// What the next command of a client is. It decides into which part of which entry it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is the command of a client of which nothing is known. A few go into an entry of light
    /// commands, behind these.
    Untried,
    /// Neither of the others.
    Light,
    /// It goes into an entry that only heavy commands are in.
    Heavy,
}

/// Commands for one entry, all meant for the same term. Their clients can no longer withdraw them.
#[derive(Debug, Default)]
pub struct Packed {
    /// The term that they are meant for.
    pub term: u64,
    /// The commands. Those of one client are in the order in which they were queued.
    pub commands: Vec<Command>,
    /// One claim for each command.
    pub claims: Vec<Claim>,
    /// The shares of the budget that the commands hold until the entry is applied.
    pub shares: Vec<Share>,
    /// Whose commands they are, in order.
    pub taken: Vec<Taken>,
    /// Whether it is an entry of heavy commands, which no others are in.
    pub is_heavy: bool,
}

/// Commands of one client that stand side by side in an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The client.
    pub party: Party,
    /// How many they are.
    pub commands: usize,
    /// What they were expected to cost.
    pub cost: u64,
}

/// An entry that is not complete. Untried commands come first, so that there is room for some of
/// them, and are put behind the others at the end.
#[derive(Debug)]
pub(super) struct Packing {
    packed: Packed,
    /// The kind of commands that it takes now.
    kind: Kind,
    /// The untried commands in it, and the clients that they are of.
    untried: (usize, usize),
    bytes: usize,
    cost: u64,
    cost_max: u64,
}

impl Packing {
    /// Begins an entry with commands of a kind, which may cost so much together.
    pub(super) fn new(kind: Kind, cost_max: u64) -> Packing {
        let packed = Packed { is_heavy: kind == Kind::Heavy, ..Packed::default() };
        Packing { packed, kind, untried: (0, 0), bytes: 0, cost: 0, cost_max }
    }

    /// Ends the untried commands: light ones follow.
    pub(super) fn go_on_with_light(&mut self) {
        self.kind = Kind::Light;
        self.untried = (self.packed.commands.len(), self.packed.taken.len());
    }

    /// Returns which kind of commands it takes now.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether the entry has room for the command. An empty one takes any.
    pub(super) fn fits(&self, queued: &Queued, cost: u64) -> bool {
        let (commands_max, bytes_max) = match self.kind {
            Kind::Untried => (costs::UNTRIED_COMMANDS_MAX, UNTRIED_BYTES_MAX),
            Kind::Light | Kind::Heavy => (ENTRY_COMMANDS_MAX, ENTRY_BYTES_MAX),
        };
        self.packed.commands.is_empty()
            || (queued.term == self.packed.term
                && self.packed.commands.len() < commands_max
                && self.bytes + weight_bytes(&queued.command) <= bytes_max
                && self.cost.saturating_add(cost) <= self.cost_max)
    }

    /// Adds a command, and returns whether it is in: its client may have withdrawn it.
    pub(super) fn add(&mut self, queued: Queued, cost: u64) -> bool {
        if !queued.claim.take() {
            return false;
        }
        self.bytes += weight_bytes(&queued.command);
        self.cost = self.cost.saturating_add(cost);
        let packed = &mut self.packed;
        packed.term = queued.term;
        packed.commands.push(queued.command);
        packed.claims.push(queued.claim);
        packed.shares.push(queued.share);
        queued.admitted.spend();
        match packed.taken.last_mut().filter(|last| last.party == queued.party) {
            Some(last) => {
                last.commands += 1;
                last.cost += cost;
            }
            None => packed.taken.push(Taken { party: queued.party, commands: 1, cost }),
        }
        true
    }

    /// Returns the entry. `None` when nothing is in it.
    pub(super) fn end(self) -> Option<Packed> {
        let (mut packed, (commands, clients)) = (self.packed, self.untried);
        if packed.commands.is_empty() {
            return None;
        }
        packed.commands.rotate_left(commands);
        packed.claims.rotate_left(commands);
        packed.shares.rotate_left(commands);
        packed.taken.rotate_left(clients);
        Some(packed)
    }
}
