//! Tests whose turn it is, with clients whose commands cost what the test says.
#![allow(clippy::unwrap_used)]

#[path = "turns_rest_tests.rs"]
mod rest;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::codec::Command;
use crate::machine::{Admitted, is_not_run};
use crate::raft::path::packing::ENTRY_COMMANDS_MAX;
use crate::raft::path::ticket::{Budget, Ticket, Wait, ticket};

/// A command that makes a client heavy, and one that does not.
const LARGE: Spent = Spent { fuel: 5_000_000, reply_bytes: 4 << 20, failed: false };
const SMALL: Spent = Spent { fuel: 20_000, reply_bytes: 10, failed: false };

/// Turns, and the tickets of all that was added, in order.
struct World {
    turns: Turns,
    tickets: Vec<Ticket>,
    budget: Arc<Budget>,
    began: Instant,
    /// The time that has passed since then.
    passed: Duration,
    /// The time in which the leader runs an entry.
    took: Duration,
}

fn party(name: &str) -> Party {
    Party::named(name)
}

impl Default for World {
    fn default() -> World {
        let budget = Budget::new(usize::MAX);
        World {
            turns: Turns::default(),
            tickets: Vec::new(),
            budget,
            began: Instant::now(),
            passed: Duration::ZERO,
            took: Duration::ZERO,
        }
    }
}

impl World {
    fn now(&self) -> Instant {
        self.began + self.passed
    }

    /// Adds commands of one client.
    fn add(&mut self, name: &str, commands: usize) {
        for _ in 0..commands {
            self.offer(party(name), None);
        }
    }

    /// Adds a command, which was offered first at `since` if it was left over. Returns its number,
    /// which is also its request, and the place of its ticket.
    fn offer(&mut self, party: Party, since: Option<Instant>) -> usize {
        let (ticket, claim) = ticket();
        let number = self.tickets.len();
        let command = Command { request: (number as u64).to_be_bytes().to_vec().into(), ..Command::default() };
        let share = self.budget.share(1).unwrap();
        let now = self.now();
        let wait = Wait { since, deadline: now + Duration::from_secs(60) };
        self.turns.push(Queued { term: 1, party, command, wait, claim, share, admitted: Admitted::default() }, now);
        self.tickets.push(ticket);
        number
    }

    fn is_left_over(&mut self, number: usize) -> bool {
        match self.tickets[number].answer().now_or_never() {
            None => false,
            Some(outcome) => {
                let outcome = outcome.unwrap();
                assert!(is_not_run(&outcome.verdict) && outcome.index == 0);
                true
            }
        }
    }

    fn pack(&mut self) -> Packed {
        let now = self.now();
        self.turns.pack(now).expect("a command may go")
    }

    /// Ends an entry whose commands all took the same.
    fn end(&mut self, packed: &Packed, spent: Spent) {
        self.settle(packed, &vec![Some(spent); packed.commands.len()]);
    }

    fn settle(&mut self, packed: &Packed, spent: &[Option<Spent>]) {
        let (now, spent) = (self.now(), EntrySpent { commands: spent.to_vec(), took: self.took });
        self.turns.settled(packed, &spent, now);
    }

    fn has_next(&self) -> bool {
        self.turns.has_next(self.now())
    }

    /// Lets a client have a command that took so much.
    fn teach(&mut self, name: &str, spent: Spent) {
        self.add(name, 1);
        let packed = self.pack();
        assert_eq!(of(&packed, name), 1);
        self.end(&packed, spent);
    }
}

fn of(packed: &Packed, name: &str) -> usize {
    packed.taken.iter().filter(|taken| taken.party == party(name)).map(|taken| taken.commands).sum()
}

fn numbers(packed: &Packed) -> Vec<u64> {
    packed.commands.iter().map(|command| u64::from_be_bytes(command.request.as_ref().try_into().unwrap())).collect()
}

#[test]
fn a_client_alone_fills_entries_in_order() {
    let mut world = World::default();
    world.teach("a", LARGE);
    world.add("a", 1500);
    let (first, second) = (world.pack(), world.pack());
    assert_eq!((first.commands.len(), second.commands.len()), (ENTRY_COMMANDS_MAX, 1500 - ENTRY_COMMANDS_MAX));
    let all: Vec<u64> = numbers(&first).into_iter().chain(numbers(&second)).collect();
    assert!(all.is_sorted(), "in the order in which they came");
    assert!(!first.is_heavy && !world.has_next());
}

#[test]
fn a_flood_leaves_others_their_turns() {
    let mut world = World::default();
    for name in ["flood", "a", "b"] {
        world.teach(name, SMALL);
    }
    world.add("flood", 5000);
    world.add("a", 3);
    world.add("b", 1);
    let packed = world.pack();
    assert_eq!((of(&packed, "a"), of(&packed, "b")), (3, 1), "they are in the next entry");
    assert!(of(&packed, "flood") > 100, "and there is room for the flood, too");
}

#[test]
fn heavy_commands_go_one_by_one_in_entries_of_their_own() {
    let mut world = World::default();
    world.teach("heavy", LARGE);
    world.teach("light", SMALL);
    world.add("heavy", 3);
    world.add("light", 20);
    let mut packed = [world.pack(), world.pack()];
    packed.sort_by_key(|packed| packed.is_heavy);
    let [light, heavy] = packed;
    assert_eq!((of(&light, "light"), of(&light, "heavy")), (20, 0));
    assert_eq!((of(&heavy, "light"), of(&heavy, "heavy")), (0, 1));
    assert!(!world.has_next(), "one heavy command is under way");
    world.add("light", 1);
    assert_eq!(of(&world.pack(), "light"), 1, "which light ones do not wait for");
    world.end(&heavy, LARGE);
    assert_eq!(of(&world.pack(), "heavy"), 1);
}

#[test]
fn a_client_of_whom_nothing_is_known_begins_with_a_few_commands() {
    let mut world = World::default();
    world.teach("light", SMALL);
    world.add("new", 100);
    let first = world.pack();
    assert_eq!(of(&first, "new"), costs::UNTRIED_COMMANDS_MAX);
    assert!(!world.has_next());
    world.end(&first, SMALL);
    assert_eq!(of(&world.pack(), "new"), 100 - costs::UNTRIED_COMMANDS_MAX);
}

#[test]
fn a_newcomer_is_light_whatever_those_before_it_had() {
    let mut world = World::default();
    for number in 0..20 {
        world.teach(&number.to_string(), LARGE);
    }
    world.add("0", 1);
    world.add("new", 1);
    let mut packed = [world.pack(), world.pack()];
    packed.sort_by_key(|packed| packed.is_heavy);
    assert_eq!((of(&packed[0], "new"), of(&packed[1], "0")), (1, 1));
}

#[test]
fn commands_that_were_not_run_teach_nothing() {
    let mut world = World::default();
    world.teach("light", SMALL);
    world.add("new", 8);
    let packed = world.pack();
    world.settle(&packed, &[None; costs::UNTRIED_COMMANDS_MAX]);
    assert_eq!(of(&world.pack(), "new"), costs::UNTRIED_COMMANDS_MAX, "it is still unknown");
}

#[test]
fn more_replies_than_there_may_be_room_for_are_left_over_and_the_oldest_stay() {
    let mut world = World::default();
    world.teach("light", SMALL);
    world.teach("large", LARGE);
    let most = usize::try_from(costs::WAITING_REPLY_BYTES_MAX / LARGE.reply_bytes).unwrap();
    let before = world.now();
    world.passed += Duration::from_millis(1);
    let numbers: Vec<usize> = (0..most + 5).map(|_| world.offer(party("large"), None)).collect();
    for (place, number) in numbers.iter().enumerate() {
        assert_eq!(world.is_left_over(*number), place >= most, "{place}");
    }
    let again = world.offer(party("large"), Some(before));
    assert!(!world.is_left_over(again) && world.is_left_over(numbers[most - 1]), "it was offered before the others");
    assert!(world.pack().is_heavy);
    assert!(!world.tickets[again].withdraw(), "and goes before them");
}

#[test]
fn commands_that_only_compute_are_not_left_over() {
    let mut world = World::default();
    world.teach("light", SMALL);
    world.teach("heavy", Spent { fuel: 90_000_000, ..Spent::default() });
    let numbers: Vec<usize> = (0..500).map(|_| world.offer(party("heavy"), None)).collect();
    assert!(numbers.into_iter().all(|number| !world.is_left_over(number)));
}

#[test]
fn a_node_of_an_earlier_build_stands_for_many_clients() {
    let mut world = World::default();
    world.teach("light", SMALL);
    let node = Party::told_by(1, 0);
    for _ in 0..20 {
        world.offer(node, None);
    }
    let packed = world.pack();
    assert_eq!(packed.commands.len(), 20, "they are not tried first");
    world.end(&packed, LARGE);
    let numbers: Vec<usize> = (0..20).map(|_| world.offer(node, None)).collect();
    assert!(numbers.into_iter().all(|number| !world.is_left_over(number)), "it would give them back");
}

/// One who sends the next command when the one before has ended.
#[derive(Clone, Copy, Default)]
struct Caller {
    /// When it offered its command first, in steps and as the node knows it.
    began: u64,
    since: Option<Instant>,
    /// When it offers its command again.
    offer_at: u64,
    /// Its command that waits or is under way.
    number: Option<usize>,
    runs: u64,
}

/// Callers of one name offered what was left over every 200 ms. Meanwhile others of them took each
/// place as it became free, and some commands were never run.
#[test]
fn every_command_of_a_client_has_its_turn() {
    const STEP: Duration = Duration::from_millis(10);
    let mut world = World::default();
    world.teach("light", SMALL);
    world.teach("large", LARGE);
    let mut callers = vec![Caller { began: 1, offer_at: 1, ..Caller::default() }; 20];
    let (mut under_way, mut longest, mut left_over) = (None::<(Packed, u64)>, 0, 0);
    for step in 1..=2000 {
        world.passed += STEP;
        if step % 100 == 0 {
            world.add("light", 1);
        }
        for caller in callers.iter_mut().filter(|caller| caller.number.is_none() && caller.offer_at <= step) {
            caller.number = Some(world.offer(party("large"), caller.since));
            caller.since.get_or_insert(world.now());
        }
        if let Some((packed, _)) = under_way.take_if(|(_, until)| *until <= step) {
            world.end(&packed, LARGE);
            for number in numbers(&packed) {
                let is_its = |caller: &&mut Caller| caller.number == Some(number as usize);
                let caller = callers.iter_mut().find(is_its).unwrap();
                longest = longest.max(step - caller.began);
                let next = Caller { began: step + 1, offer_at: step + 1, ..Caller::default() };
                *caller = Caller { runs: caller.runs + 1, ..next };
            }
        }
        while world.has_next() {
            let packed = world.pack();
            match packed.is_heavy {
                true => under_way = Some((packed, step + 3)),
                false => world.end(&packed, SMALL),
            }
        }
        for caller in &mut callers {
            if caller.number.is_some_and(|number| world.is_left_over(number)) {
                (caller.number, caller.offer_at) = (None, step + 20);
                left_over += 1;
            }
        }
    }
    assert!(left_over > 100, "{left_over}");
    assert!(longest <= 200, "a command took {longest} steps, where all callers together take 60 for one each");
    assert!(callers.iter().all(|caller| caller.runs >= 20), "all had as much");
}

#[test]
fn a_few_newcomers_are_in_an_entry_and_behind_the_others() {
    let mut world = World::default();
    world.teach("light", SMALL);
    for number in 0..10 {
        world.add(&format!("new {number}"), 1);
    }
    world.add("light", 5000);
    let few = costs::UNTRIED_COMMANDS_MAX;
    let (first, second) = (world.pack(), world.pack());
    assert_eq!(of(&first, "light"), ENTRY_COMMANDS_MAX - few, "there is room for some, however many others wait");
    assert_eq!(numbers(&first)[ENTRY_COMMANDS_MAX - few..], [1, 2, 3, 4], "the first of them, in order");
    assert_eq!(first.taken.last().unwrap().party, party("new 3"));
    assert_eq!(of(&second, "new 4") + of(&second, "new 7") + of(&second, "new 8"), 2);
}

#[test]
fn both_kinds_of_entries_take_turns() {
    let mut world = World::default();
    for name in ["x", "y", "light"] {
        world.teach(name, if name == "light" { SMALL } else { LARGE });
    }
    let mut kinds = Vec::new();
    for _ in 0..6 {
        world.add("x", 1);
        world.add("y", 1);
        world.add("light", 2000);
        let packed = world.pack();
        kinds.push(packed.is_heavy);
        let spent = if packed.is_heavy { LARGE } else { SMALL };
        world.end(&packed, spent);
    }
    assert!(kinds.windows(2).all(|pair| pair[0] != pair[1]), "{kinds:?}");
}

#[test]
fn a_client_that_is_alone_again_is_not_held_back() {
    let mut world = World::default();
    world.teach("light", SMALL);
    world.teach("heavy", LARGE);
    world.add("heavy", 4);
    assert_eq!(of(&world.pack(), "heavy"), 1);
    assert!(!world.has_next());
    world.passed += SHARED_FOR;
    world.add("heavy", 1);
    assert_eq!(of(&world.pack(), "heavy"), 4);
}

#[test]
fn clients_are_forgotten_when_they_are_many_and_only_if_they_have_no_commands() {
    let mut world = World::default();
    world.add("waiting", 1);
    let waiting = world.pack();
    for number in 0..3 * CLIENTS_KEPT_MAX {
        world.teach(&number.to_string(), SMALL);
    }
    assert!(world.turns.lines.len() <= 2 * CLIENTS_KEPT_MAX + 1, "{}", world.turns.lines.len());
    world.end(&waiting, SMALL);
}

#[test]
fn clients_that_all_have_commands_are_not_looked_at_for_each_command() {
    let mut world = World::default();
    let (clients, mut looked) = (5 * CLIENTS_KEPT_MAX, BTreeSet::new());
    for number in 0..clients {
        world.add(&number.to_string(), 1);
        looked.insert(world.turns.forget_at);
    }
    assert_eq!(world.turns.lines.len(), clients);
    assert!(looked.len() <= 3, "{looked:?}");
}

#[test]
fn a_lost_term_empties_the_lines() {
    let mut world = World::default();
    world.add("a", 3);
    world.add("b", 3);
    world.turns.retain(|term| term == 2);
    assert!(world.turns.is_empty());
    assert!(world.turns.pack(Instant::now()).is_none());
    assert!(!world.has_next());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Clients of different costs have commands all the time. None gets more than the others beyond
    /// one turn and its most expensive command, whatever the costs are.
    #[test]
    fn no_client_gets_more_than_its_share(fuels in prop::collection::vec(1_000_u64..1_500_000, 2..6)) {
        let mut world = World::default();
        let names: Vec<String> = (0..fuels.len()).map(|number| number.to_string()).collect();
        let spent: BTreeMap<Party, Spent> = names.iter().zip(&fuels)
            .map(|(name, fuel)| (party(name), Spent { fuel: *fuel, ..Spent::default() })).collect();
        for name in &names {
            world.teach(name, spent[&party(name)]);
        }
        let mut got: BTreeMap<Party, u64> = BTreeMap::new();
        let mut last: BTreeMap<Party, u64> = BTreeMap::new();
        for _ in 0..20 {
            for name in &names {
                let missing = 3000_usize.saturating_sub(world.turns.lines[&party(name)].waiting.len());
                world.add(name, missing);
            }
            let packed = world.pack();
            for (command, number) in packed.taken.iter().zip(first_numbers(&packed)) {
                *got.entry(command.party).or_default() += command.cost;
                let before = last.insert(command.party, number);
                prop_assert!(before.is_none_or(|before| before < number), "the order of a client is kept");
            }
            let took: Vec<_> = packed.taken.iter()
                .flat_map(|taken| vec![Some(spent[&taken.party]); taken.commands]).collect();
            world.settle(&packed, &took);
        }
        let (least, most) = (got.values().min().unwrap(), got.values().max().unwrap());
        prop_assert_eq!(got.len(), names.len(), "all had turns");
        prop_assert!(most - least <= 2 * (costs::TURN as u64 + 1_600_000), "{:?}", got);
    }

    /// Clients send one command after another, and there are always some that wait. Who had an
    /// expensive one began anew as soon as it had none waiting, and got up to eight times as much.
    #[test]
    fn one_command_after_another_gets_no_more_than_its_share(
        fuels in prop::collection::vec(2_500_000_u64..20_000_000, 40..60),
    ) {
        let mut world = World::default();
        let mut clients: BTreeMap<Party, (String, Spent)> = BTreeMap::new();
        for (number, fuel) in fuels.into_iter().enumerate() {
            let (name, spent) = (number.to_string(), Spent { fuel, ..Spent::default() });
            world.teach(&name, spent);
            clients.insert(party(&name), (name, spent));
        }
        // What was light in the beginning was so a long time ago.
        world.passed += SHARED_FOR;
        // The first of them is not the one that had the last command.
        for number in 0..clients.len() {
            world.add(&number.to_string(), 1);
        }
        let mut got: BTreeMap<Party, u64> = clients.keys().map(|party| (*party, 0)).collect();
        let mut under_way = VecDeque::new();
        for _ in 0..200 {
            while under_way.len() < HEAVY_ENTRIES_MAX {
                under_way.push_back(world.pack());
            }
            let packed = under_way.pop_front().unwrap();
            let spent: Vec<_> = packed.taken.iter().map(|taken| Some(clients[&taken.party].1)).collect();
            world.settle(&packed, &spent);
            for taken in &packed.taken {
                prop_assert_eq!(taken.commands, 1);
                *got.get_mut(&taken.party).unwrap() += taken.cost;
                world.add(&clients[&taken.party].0, 1);
            }
        }
        let (least, most) = (got.values().min().unwrap(), got.values().max().unwrap());
        prop_assert!(*most <= 3 * least, "{:?}", got);
    }
}

/// Returns the number of the first command of each run of commands.
fn first_numbers(packed: &Packed) -> Vec<u64> {
    let all = numbers(packed);
    let mut place = 0;
    let mut first = Vec::new();
    for taken in &packed.taken {
        first.push(all[place]);
        place += taken.commands;
    }
    first
}
