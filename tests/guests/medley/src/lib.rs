//! A guest of the tests with one command that does a little of everything that a guest can do,
//! chosen by a number. All that it reads affects what it writes and answers, so the next hash shows
//! a replica that reads something different from the others. This guest is not part of the product.

use lockstep_guest::{Command, Counter, Index, Map, Reply, Set, Status, Table, Value};

lockstep_guest::include_proto!();

/// Finds persons by their town.
pub struct ByTown;

impl Index for ByTown {
    type Key = u64;
    type Value = Person;
    type By = u32;
    const TAG: u16 = 2;

    fn by(_: &u64, person: &Person) -> Vec<u32> {
        vec![person.town]
    }
}

lockstep_guest::state! {
    /// One collection of each kind.
    pub struct Mixture {
        persons: Table<u64, Person, ByTown> = 1,
        notes: Map<(u32, String), String> = 3,
        tags: Set<(u32, u64)> = 4,
        sum: Counter = 5,
        last: Value<u64> = 6,
    }
}

const PERSONS: u64 = 50_000;
const TOWNS: u64 = 500;
const NOTES: u64 = 20_000;
const TAGS: u64 = 200;
/// Rows that a scan reads, and that a command removes at once.
const ROWS: usize = 20;
/// Memory that a command fills, in words.
const WORDS: usize = 16 * 1024;
/// Text that names and notes are cut from.
const LETTERS: &str = "the quick brown fox jumps over the lazy dog and sleeps ";

/// Numbers that follow from a seed (splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.0) % bound
    }

    fn text(&mut self, bytes: usize) -> String {
        let start = self.below(LETTERS.len() as u64) as usize;
        LETTERS.chars().cycle().skip(start).take(bytes).collect()
    }
}

fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

fn digest(seen: u64, more: &[u8]) -> u64 {
    more.iter().fold(seen, |seen, byte| (seen ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

impl Medley for Mixture {
    fn act(&mut self, cx: &Command, request: ActRequest) -> Reply<ActResponse> {
        let mut draw = Draw(request.seed);
        let last = self.last.get().unwrap_or_default();
        let seen = match draw.below(1000) {
            0..300 => self.move_in(cx, &mut draw, last),
            300..400 => self.move_out(&mut draw),
            400..500 => self.visit(&mut draw),
            500..620 => self.write_note(&mut draw, last),
            620..680 => self.burn_notes(&mut draw),
            680..780 => u64::from(self.tags.insert(&(draw.below(TAGS) as u32, draw.below(1 << 40)))),
            780..800 => self.tags.drain_prefix(&(&(draw.below(TAGS) as u32),)).take(ROWS).map(|(_, tag)| tag).sum(),
            800..850 => self.by_chance(cx),
            850..900 => self.measure(&mut draw, last),
            900..949 => self.fill(last),
            // One command in a thousand panics, which also ends its instance.
            949 => self.panics(&mut draw),
            _ => return self.is_refused(&mut draw),
        };
        let seen = mixed(seen ^ last);
        self.last.set(&seen);
        Ok(ActResponse { seen })
    }
}

impl Mixture {
    fn move_in(&mut self, cx: &Command, draw: &mut Draw, last: u64) -> u64 {
        let (id, town) = (draw.below(PERSONS), (draw.below(TOWNS) ^ (last & 1)) as u32);
        let length = 3 + draw.below(60) as usize;
        let person = Person { name: draw.text(length), town, since: cx.time_ms() ^ cx.index() };
        let before = self.persons.insert(&id, &person);
        before.map_or(0, |person| digest(person.since, person.name.as_bytes()))
    }

    fn move_out(&mut self, draw: &mut Draw) -> u64 {
        self.persons.remove(&draw.below(PERSONS)).map_or(0, |person| person.since)
    }

    fn visit(&mut self, draw: &mut Draw) -> u64 {
        let town = draw.below(TOWNS) as u32;
        let found = self.persons.by(ByTown).find(&town);
        found.take(ROWS).fold(0, |seen, (id, person)| digest(seen ^ id, person.name.as_bytes()))
    }

    fn write_note(&mut self, draw: &mut Draw, last: u64) -> u64 {
        let key = note(draw);
        let length = draw.below(400) as usize;
        let text = format!("{last:x} {}", draw.text(length));
        let before = self.notes.get(&key);
        self.notes.insert(&key, &text);
        before.map_or(0, |text| digest(0, text.as_bytes()))
    }

    fn burn_notes(&mut self, draw: &mut Draw) -> u64 {
        let (place, _) = note(draw);
        match draw.below(4) {
            0 => self.notes.remove_prefix(&(&place,)),
            1 => self.notes.prefix(&(&place,)).rev().take(ROWS).map(|(_, text)| text.len() as u64).sum(),
            _ => {
                let key = note(draw);
                self.notes.remove(&key).map_or(0, |text| text.len() as u64)
            }
        }
    }

    fn by_chance(&mut self, cx: &Command) -> u64 {
        let mut order: Vec<u64> = (0..8).collect();
        cx.shuffle(&mut order);
        let tag = cx.random_below(1 << 40);
        self.tags.insert(&(cx.random_below(TAGS) as u32, tag));
        order.iter().fold(tag, |seen, number| seen.wrapping_mul(31) ^ number)
    }

    /// Computes with floats, which may be NaN, and returns their bits.
    fn measure(&mut self, draw: &mut Draw, last: u64) -> u64 {
        let divisor = draw.below(3) as f64;
        let measured = (last as f64).sqrt() / divisor * divisor;
        u64::from((measured as f32).to_bits()) ^ measured.to_bits()
    }

    /// Fills fresh memory, which another instance may have used before.
    fn fill(&mut self, last: u64) -> u64 {
        let mut words = vec![0_u64; WORDS];
        for at in 1..WORDS {
            words[at] = words[at - 1] ^ mixed(last.wrapping_add(at as u64));
        }
        self.sum.add(words[WORDS - 1] & 0xFFFF)
    }

    fn panics(&mut self, draw: &mut Draw) -> u64 {
        self.persons.remove(&draw.below(PERSONS));
        panic!("this command has written, and panics")
    }

    fn is_refused(&mut self, draw: &mut Draw) -> Reply<ActResponse> {
        let place = draw.below(TAGS) as u32;
        self.tags.remove_prefix(&(&place,));
        self.sum.reset();
        Err(Status::failed_precondition(format!("no {} today", draw.text(12))))
    }
}

fn note(draw: &mut Draw) -> (u32, String) {
    let number = draw.below(NOTES);
    ((number % 1000) as u32, format!("note-{}", number / 1000))
}

lockstep_guest::export!(Mixture: Medley);
