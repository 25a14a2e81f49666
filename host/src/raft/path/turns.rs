//! Whose commands come next. Clients take turns, so that what one of them asks for delays the
//! others by no more than its share. Owns the commands that wait; never talks to Raft, and has no
//! part in what a command does.
//!
//! - The commands of one client stay in the order in which they were offered first.
//! - A client whose turn it is takes commands worth `costs::TURN`. What it takes beyond that, it
//!   waits for longer (surplus round robin). A command of any cost has its turn.
//! - While several clients have commands, each has a bounded cost under way, and heavy commands go
//!   into entries of their own. So light commands never stand behind heavy ones in an entry, and
//!   find at most a few of them before it. A few commands of clients of which nothing is known are
//!   in an entry of light ones, behind these.
//! - While light entries go, too, heavy ones take a quarter of the time: behind an entry of them,
//!   the next one waits three times as long as the leader ran that one, at most [`REST_MAX`]. So
//!   members that are slower than the leader, and have all else to do as well, have time to follow.
//! - While several clients have commands, one of them has only as many waiting as there may be room
//!   for the replies. Those that were offered first stay, and the others are left over.
//! - A client that is alone is not held back.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::costs;
use super::packing::{Kind, Packed, Packing};
use super::ticket::{NotProposed, Queued, weight_bytes};
use crate::machine::{EntrySpent, Spent};
use crate::source::Party;

/// Most commands that wait for their turns. Further ones wait in the channel, in the order in which
/// they came.
pub const WAITING_COMMANDS_MAX: usize = 65_536;
/// How many clients without commands are remembered at least, with what their commands took.
pub const CLIENTS_KEPT_MAX: usize = 4096;
/// How long the queue counts as shared after a command came from another client than the one
/// before. It is long enough for a client that sends a command now and then.
const SHARED_FOR: Duration = Duration::from_secs(5);
/// Most entries of heavy commands under way while several clients have commands. The other places
/// are for light ones. See `proposer::ENTRIES_IN_FLIGHT_MAX`.
const HEAVY_ENTRIES_MAX: usize = 2;
/// The same while some of them have light ones, which wait for what is under way.
const HEAVY_ENTRIES_BESIDE_LIGHT_MAX: usize = 1;
/// How long heavy commands rest: as many times as long as the leader ran the entry before.
const REST: u32 = 3;
/// Longest rest of heavy commands.
const REST_MAX: Duration = Duration::from_secs(1);

/// The commands that wait for entries.
#[derive(Debug, Default)]
pub struct Turns {
    lines: HashMap<Party, Line>,
    /// How many lines there may be before some are forgotten, if that is more than usual. It is
    /// twice the lines that were left the last time, so a command makes the leader look at two
    /// lines in the mean, however many are in use.
    forget_at: usize,
    lanes: Lanes,
    /// Commands in all lines.
    waiting: usize,
    rules: Rules,
    /// Whose command came last, and when another client's than that came before.
    newest: Option<Party>,
    changed: Option<Instant>,
    /// When an entry that is not heavy went last while several clients had commands.
    light: Option<Instant>,
    heavy_in_flight: usize,
    /// Until when heavy commands rest.
    rest_until: Option<Instant>,
    /// Whether the last entry was one of heavy commands: the two kinds take turns, too.
    was_heavy: bool,
}

/// The clients that may send now, in the order of their turns.
#[derive(Debug, Default)]
struct Lanes {
    untried: VecDeque<Party>,
    light: VecDeque<Party>,
    heavy: VecDeque<Party>,
}

/// What holds for all clients at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    /// Whether several clients have had commands a short time ago.
    is_shared: bool,
    /// Whether several clients have had commands, and an entry went that was not heavy, a short
    /// time ago.
    has_light: bool,
    /// What the first commands of clients cost in the mean.
    newcomers: u64,
}

/// The commands of one client.
#[derive(Debug, Default)]
struct Line {
    /// In the order in which they were offered first.
    waiting: VecDeque<Queued>,
    /// Whether it has the commands of all clients of a node of an earlier build.
    is_untold: bool,
    /// Whether it is in a lane.
    is_next: bool,
    /// What is left of its turn. Negative: what it has taken in advance. It owes that also when it
    /// comes back after a moment without commands.
    balance: i64,
    /// What its commands cost in the mean. `None` as long as that is not known of any.
    mean: Option<u64>,
    /// The bytes of their replies in the mean.
    mean_reply_bytes: u64,
    in_flight: usize,
    in_flight_cost: u64,
}

impl Turns {
    /// Adds a command.
    pub fn push(&mut self, queued: Queued, now: Instant) {
        let party = queued.party;
        if self.newest.replace(party).is_some_and(|before| before != party) {
            self.changed = Some(now);
        }
        self.look_whether_shared(now);
        if self.lines.len() > self.forget_at.max(2 * CLIENTS_KEPT_MAX) {
            self.forget_some();
        }
        let line = self.lines.entry(party).or_insert_with(|| Line::of(party));
        line.push(queued, now);
        self.waiting += 1;
        self.waiting -= line.leave_over(self.rules);
        line.enter(party, &mut self.lanes, self.rules);
    }

    /// Returns whether a command may go now.
    pub fn has_next(&self, now: Instant) -> bool {
        self.next_is_heavy(now).is_some()
    }

    /// Returns until when heavy commands rest that may go then. `None` when there are none.
    pub fn rest_until(&self) -> Option<Instant> {
        self.rest_until.filter(|_| self.has_place_for_heavy() && !self.lanes.heavy.is_empty())
    }

    /// Returns whether no command waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Returns the number of commands that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns whether no more commands may be added.
    pub fn is_full(&self) -> bool {
        self.waiting >= WAITING_COMMANDS_MAX
    }

    /// Drops the commands whose term `leads` does not accept.
    pub fn retain(&mut self, leads: impl Fn(u64) -> bool) {
        for line in self.lines.values_mut() {
            line.waiting.retain(|queued| leads(queued.term));
        }
        self.waiting = self.lines.values().map(|line| line.waiting.len()).sum();
        self.rest_until = None;
    }

    /// Returns the commands for the next entry. `None` when none may go.
    pub fn pack(&mut self, now: Instant) -> Option<Packed> {
        self.look_whether_shared(now);
        let is_heavy = self.next_is_heavy(now)?;
        let kind = if is_heavy { Kind::Heavy } else { Kind::Untried };
        let mut packing = Packing::new(kind, self.rules.entry_cost_max(is_heavy));
        self.fill(&mut packing, now);
        if !is_heavy {
            packing.go_on_with_light();
            self.fill(&mut packing, now);
        }
        self.was_heavy = is_heavy;
        let packed = packing.end()?;
        self.heavy_in_flight += usize::from(is_heavy);
        if !is_heavy && self.rules.is_shared {
            self.light = Some(now);
        }
        Some(packed)
    }

    /// Moves commands of one kind to the entry, until it has no room or none of them may go.
    fn fill(&mut self, packing: &mut Packing, now: Instant) {
        let kind = packing.kind();
        while let Some(party) = self.lanes.of(kind).pop_front() {
            let line = self.lines.get_mut(&party).expect("a client in a lane has a line");
            line.is_next = false;
            let before = line.waiting.len();
            let is_full = line.take_turn(packing, self.rules, now);
            self.waiting -= before - line.waiting.len();
            if is_full {
                line.is_next = true;
                self.lanes.of(kind).push_front(party);
                break;
            }
            line.enter(party, &mut self.lanes, self.rules);
        }
    }

    /// Notes that an entry is over, and what its commands took, as far as that is known.
    pub fn settled(&mut self, packed: &Packed, spent: &EntrySpent, now: Instant) {
        self.look_whether_shared(now);
        if packed.is_heavy {
            self.heavy_in_flight -= 1;
            self.rest_until = self.rest_until.max(Some(now + (REST * spent.took).min(REST_MAX)));
        }
        let mut spent = spent.commands.iter();
        for taken in &packed.taken {
            let line = self.lines.get_mut(&taken.party).expect("a client with commands under way has a line");
            line.in_flight -= taken.commands;
            line.in_flight_cost -= taken.cost;
            for one in spent.by_ref().take(taken.commands).flatten() {
                line.learn(one, &mut self.rules);
            }
            self.waiting -= line.leave_over(self.rules);
            line.enter(taken.party, &mut self.lanes, self.rules);
        }
    }

    fn has_place_for_heavy(&self) -> bool {
        let most = if self.rules.has_light { HEAVY_ENTRIES_BESIDE_LIGHT_MAX } else { HEAVY_ENTRIES_MAX };
        !self.rules.is_shared || self.heavy_in_flight < most
    }

    /// Returns which kind of entry is next. `None` when no command may go.
    fn next_is_heavy(&self, now: Instant) -> Option<bool> {
        let rests = self.rules.has_light && self.rest_until.is_some_and(|until| until > now);
        let may_be_heavy = self.has_place_for_heavy() && !rests;
        let may_be_light = !self.lanes.light.is_empty() || !self.lanes.untried.is_empty();
        match (may_be_light, may_be_heavy && !self.lanes.heavy.is_empty()) {
            (true, true) => Some(!self.was_heavy),
            (false, true) => Some(true),
            (true, false) => Some(false),
            (false, false) => None,
        }
    }

    fn look_whether_shared(&mut self, now: Instant) {
        let was_shared = self.rules.is_shared;
        let is_recent = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < SHARED_FOR);
        self.rules.is_shared = is_recent(self.changed);
        self.rules.has_light = self.rules.is_shared && is_recent(self.light);
        if was_shared && !self.rules.is_shared {
            for line in self.lines.values_mut() {
                line.balance = line.balance.max(0);
            }
        }
    }

    /// Forgets clients that have no commands, those with light commands first.
    fn forget_some(&mut self) {
        self.lines.retain(|_, line| line.is_in_use() || line.mean.is_some_and(|mean| mean >= costs::HEAVY));
        if self.lines.len() > CLIENTS_KEPT_MAX {
            self.lines.retain(|_, line| line.is_in_use());
        }
        self.forget_at = 2 * self.lines.len();
    }
}

impl Lanes {
    fn of(&mut self, kind: Kind) -> &mut VecDeque<Party> {
        match kind {
            Kind::Untried => &mut self.untried,
            Kind::Light => &mut self.light,
            Kind::Heavy => &mut self.heavy,
        }
    }
}

impl Rules {
    /// Returns how much the commands of one entry may cost together.
    fn entry_cost_max(self, is_heavy: bool) -> u64 {
        match self {
            Rules { has_light: true, .. } if is_heavy => costs::HEAVY_ENTRY_BESIDE_LIGHT_MAX,
            Rules { is_shared: true, .. } => costs::ENTRY_MAX,
            _ => u64::MAX,
        }
    }

    fn is_heavy(self, cost: u64) -> bool {
        self.is_shared && cost >= costs::HEAVY
    }
}

impl Line {
    fn of(party: Party) -> Line {
        Line { is_untold: party.is_untold(), ..Line::default() }
    }

    fn is_in_use(&self) -> bool {
        self.is_next || self.in_flight > 0 || !self.waiting.is_empty()
    }

    /// Adds a command. One that was offered before and left over goes before those that were
    /// offered later.
    fn push(&mut self, mut queued: Queued, now: Instant) {
        let since = *queued.wait.since.get_or_insert(now);
        let is_earlier = |other: &Queued| other.wait.since.is_none_or(|other| other <= since);
        if self.waiting.back().is_none_or(is_earlier) {
            self.waiting.push_back(queued);
        } else {
            self.waiting.insert(self.waiting.partition_point(is_earlier), queued);
        }
    }

    /// Puts the client at the end of its lane, if it has a command that may go.
    fn enter(&mut self, party: Party, lanes: &mut Lanes, rules: Rules) {
        if self.is_next {
            return;
        }
        let Some(cost) = self.waiting.front().map(|head| self.cost_of(head, rules)) else {
            self.balance = if rules.is_shared { self.balance.min(0) } else { 0 };
            return;
        };
        if self.may_go(cost, rules) {
            self.is_next = true;
            lanes.of(self.kind(cost, rules)).push_back(party);
        }
    }

    /// Moves commands to the entry until the turn is over. Returns whether it is not over, because
    /// the entry is full.
    fn take_turn(&mut self, packing: &mut Packing, rules: Rules, now: Instant) -> bool {
        if self.balance <= 0 {
            self.balance += costs::TURN;
        }
        while self.balance > 0 {
            let Some(head) = self.waiting.front() else { return false };
            let cost = self.cost_of(head, rules);
            let is_over = head.wait.deadline <= now;
            if !is_over {
                if self.kind(cost, rules) != packing.kind() || !self.may_go(cost, rules) {
                    return false;
                }
                if !packing.fits(head, cost) {
                    return true;
                }
            }
            let queued = self.waiting.pop_front().expect("it was there");
            if is_over {
                queued.claim.refuse(NotProposed::Expired);
            } else if packing.add(queued, cost) {
                self.in_flight += 1;
                self.in_flight_cost += cost;
                self.balance = self.balance.saturating_sub_unsigned(cost);
            }
        }
        false
    }

    fn cost_of(&self, queued: &Queued, rules: Rules) -> u64 {
        let mean = self.mean.unwrap_or(rules.newcomers.min(costs::NEWCOMER_MAX));
        costs::expected(mean, weight_bytes(&queued.command))
    }

    /// Returns what a command of that cost is.
    fn kind(&self, cost: u64, rules: Rules) -> Kind {
        if rules.is_heavy(cost) {
            Kind::Heavy
        } else if rules.is_shared && !self.is_tried() {
            Kind::Untried
        } else {
            Kind::Light
        }
    }

    /// Returns whether something is known of the client. The clients of a node of an earlier build
    /// are many, so they need not be tried.
    fn is_tried(&self) -> bool {
        self.is_untold || self.mean.is_some()
    }

    /// Returns whether a command of that cost may go, beside those that are under way.
    fn may_go(&self, cost: u64, rules: Rules) -> bool {
        if !rules.is_shared || self.in_flight == 0 {
            return true;
        }
        let is_tried = self.is_tried() || self.in_flight < costs::UNTRIED_COMMANDS_MAX;
        is_tried && self.in_flight_cost.saturating_add(cost) <= costs::IN_FLIGHT_MAX
    }

    /// Notes what one command took.
    fn learn(&mut self, spent: &Spent, rules: &mut Rules) {
        let cost = costs::of(spent);
        let (mean, reply_bytes) = match self.mean {
            Some(mean) => (costs::mean_with(mean, cost), costs::mean_with(self.mean_reply_bytes, spent.reply_bytes)),
            None => {
                rules.newcomers = costs::mean_with(rules.newcomers, cost);
                (cost, spent.reply_bytes)
            }
        };
        (self.mean, self.mean_reply_bytes) = (Some(mean), reply_bytes);
    }

    /// Leaves over those that were offered last, when there may be no room for all replies. Returns
    /// how many. A node of an earlier build would give them back to their clients after a moment.
    fn leave_over(&mut self, rules: Rules) -> usize {
        let expected = self.mean_reply_bytes.saturating_mul(self.waiting.len() as u64);
        if !rules.is_shared || self.is_untold || expected <= costs::WAITING_REPLY_BYTES_MAX {
            return 0;
        }
        let most = (costs::WAITING_REPLY_BYTES_MAX / self.mean_reply_bytes).max(1) as usize;
        let over = self.waiting.len().saturating_sub(most);
        for queued in self.waiting.drain(self.waiting.len() - over..) {
            queued.claim.leave_over(queued.term);
        }
        over
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
