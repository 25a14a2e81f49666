//! A client that may do all that HTTP/2 allows, and chooses what to do from a seed.

use std::collections::VecDeque;
use std::ops::Range;

use proptest::prelude::*;

use super::super::huffman;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const PREFACE_BYTES: usize = PREFACE.len();

/// The number of good ones, which come first in [`AUTHORITIES`].
pub(super) const GOOD_AUTHORITIES: usize = 4;

/// Names by which clients or proxies call a node.
pub(super) const AUTHORITIES: [&[u8]; 12] = [
    b"localhost:40051",
    b"[::1]:40051",
    b"a.service.of-some-mesh.example:443",
    b"x",
    b"127.0.0.1:40051,127.0.0.1:40052,127.0.0.1:40053",
    b"localhost:40051,localhost:40052",
    b"127.0.0.1%3A40051%2C127.0.0.1%3A40052",
    b"/var/run/lockstep.sock",
    b"a b",
    b"",
    b"\xc3\xbc\xff\x00",
    &[b':'; 5_000],
];

type Pairs = Vec<(String, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) path: String,
    pub(super) authority: Vec<u8>,
    pub(super) fields: Pairs,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<Pairs>,
}

/// Generates some calls that use these authorities.
pub(super) fn calls(authorities: Range<usize>) -> impl Strategy<Value = Vec<Call>> {
    let value = prop_oneof![
        "[a-z0-9 /;=]{0,20}".prop_map(String::into_bytes),
        prop::collection::vec(0x80..=0xff_u8, 1..30),
        (1_000..3_000_usize).prop_map(|length| vec![b'v'; length]),
    ];
    // Each name once: h2 groups the values of a name.
    let fields = move || prop::collection::btree_map("[a-z][a-z0-9-]{0,12}", value.clone(), 0..6);
    let field = |(name, value)| (format!("x-{name}"), value);
    let pairs =
        move |fields: std::collections::BTreeMap<String, Vec<u8>>| fields.into_iter().map(field).collect::<Pairs>();
    let call = (authorities, fields(), prop::collection::vec(any::<u8>(), 0..300), prop::option::of(fields()));
    let call = call.prop_map(move |(authority, fields, body, trailers)| Call {
        path: String::new(),
        authority: AUTHORITIES[authority].to_vec(),
        fields: pairs(fields),
        body,
        trailers: trailers.map(pairs),
    });
    prop::collection::vec(call, 1..12).prop_map(|calls| {
        let named = |(nth, call): (usize, Call)| Call { path: format!("/s/m{nth:02}"), ..call };
        calls.into_iter().enumerate().map(named).collect()
    })
}

/// A random generator: xorshift.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed | 1 << 40)
    }

    /// Returns a number below `sides`.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }
}

pub(super) struct Client {
    dice: Dice,
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    table_bytes_max: usize,
    out: Vec<u8>,
}

/// The parts of a call that were not sent yet.
struct Open<'a> {
    stream: u32,
    body: &'a [u8],
    trailers: Option<&'a Pairs>,
}

impl Client {
    pub(super) fn new(seed: u64) -> Client {
        Client { dice: Dice::new(seed), table: VecDeque::new(), table_bytes_max: 4096, out: PREFACE.to_vec() }
    }

    /// Returns all bytes of a connection with these calls, which run at the same time.
    pub(super) fn connection(mut self, calls: &[Call]) -> Vec<u8> {
        self.frame(4, 0, 0, &[]);
        self.frame(4, 1, 0, &[]);
        let mut unopened = calls.iter().zip((1..).step_by(2));
        let mut open: Vec<Open<'_>> = Vec::new();
        loop {
            let is_opening = open.is_empty() || self.dice.roll(3) == 0;
            if let Some((call, stream)) = is_opening.then(|| unopened.next()).flatten() {
                self.request(call, stream);
                if !call.body.is_empty() || call.trailers.is_some() {
                    open.push(Open { stream, body: &call.body, trailers: call.trailers.as_ref() });
                }
            } else if open.is_empty() {
                return self.out;
            } else {
                let nth = self.dice.roll(open.len());
                if self.go_on(&mut open[nth]) {
                    open.swap_remove(nth);
                }
            }
            self.noise();
        }
    }

    fn request(&mut self, call: &Call, stream: u32) {
        let pseudo = [(":method", &b"POST"[..]), (":scheme", b"http"), (":path", call.path.as_bytes())];
        let mut fields: Vec<(&str, &[u8])> = pseudo.into();
        fields.insert(self.dice.roll(4), (":authority", &call.authority));
        fields.extend(call.fields.iter().map(|(name, value)| (&**name, &**value)));
        self.headers(stream, &fields, call.body.is_empty() && call.trailers.is_none());
    }

    /// Sends the next part. Returns whether it was the last one.
    fn go_on(&mut self, open: &mut Open<'_>) -> bool {
        if !open.body.is_empty() {
            let (part, rest) = open.body.split_at(1 + self.dice.roll(open.body.len()));
            open.body = rest;
            let is_last = rest.is_empty() && open.trailers.is_none();
            let padding = self.dice.roll(2) * self.dice.roll(20);
            let payload = match padding {
                0 => part.to_vec(),
                _ => [&[padding as u8], part, &vec![0; padding]].concat(),
            };
            self.frame(0, u8::from(is_last) | u8::from(padding > 0) << 3, open.stream, &payload);
            return is_last;
        }
        if let Some(trailers) = open.trailers {
            let fields: Vec<(&str, &[u8])> = trailers.iter().map(|(name, value)| (&**name, &**value)).collect();
            self.headers(open.stream, &fields, true);
        }
        true
    }

    /// Sends frames that belong to no call.
    fn noise(&mut self) {
        match self.dice.roll(12) {
            0 => self.frame(6, 0, 0, &[1; 8]),
            1 => self.frame(8, 0, 0, &[0, 0, 0, 9]),
            2 => self.frame(2, 0, 999, &[0, 0, 0, 1, 9]),
            3 => self.frame(77, 0xff, 0, b"of a kind that nobody knows"),
            _ => {}
        }
    }

    fn headers(&mut self, stream: u32, fields: &[(&str, &[u8])], is_last: bool) {
        let block = self.block(fields);
        let continuations =
            if block.len() > 10_000 { 1 + self.dice.roll(4) } else { self.dice.roll(3) * self.dice.roll(3) };
        let mut cuts: Vec<usize> = (0..continuations).map(|_| self.dice.roll(block.len() + 1)).collect();
        if block.len() > 10_000 {
            cuts.extend((1..).map(|nth| nth * 10_000).take_while(|cut| *cut < block.len()));
        }
        cuts.sort_unstable();
        cuts.truncate(5);
        let (first, mut rest) = block.split_at(cuts.first().copied().unwrap_or(block.len()));
        let priority: &[u8] = if self.dice.roll(3) == 0 { &[0, 0, 0, 0, 16] } else { &[] };
        let padding = self.dice.roll(2) * self.dice.roll(100);
        let flags = u8::from(is_last)
            | u8::from(cuts.is_empty()) << 2
            | u8::from(padding > 0) << 3
            | u8::from(!priority.is_empty()) << 5;
        let padded: &[u8] = if padding > 0 { &[padding as u8] } else { &[] };
        let payload = [padded, priority, first, &vec![0; padding]].concat();
        self.frame(1, flags, stream, &payload);
        for (nth, cut) in cuts.iter().enumerate() {
            let next = cuts.get(nth + 1).copied().unwrap_or(block.len());
            let (part, behind) = rest.split_at(next - cut);
            self.frame(9, u8::from(nth + 1 == cuts.len()) << 2, stream, part);
            rest = behind;
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        assert!(payload.len() <= 16_384, "the test's own limit");
        self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    fn block(&mut self, fields: &[(&str, &[u8])]) -> Vec<u8> {
        let mut block = Vec::new();
        if self.dice.roll(8) == 0 {
            self.table_bytes_max = [0, 70, 500, 3_000, 4_096][self.dice.roll(5)];
            self.shrink(self.table_bytes_max);
            integer(&mut block, 0x20, 5, self.table_bytes_max);
        }
        for (name, value) in fields {
            self.field(&mut block, name.as_bytes(), value);
        }
        block
    }

    fn field(&mut self, block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        let known = self.index(|entry| entry == (name, value));
        if let Some(index) = known.filter(|_| self.dice.roll(5) > 0) {
            return integer(block, 0x80, 7, index);
        }
        let named = self.index(|(known, _)| known == name).filter(|_| self.dice.roll(4) > 0);
        let (form, prefix_bits) = [(0x40, 6), (0x40, 6), (0x00, 4), (0x10, 4)][self.dice.roll(4)];
        integer(block, form, prefix_bits, named.unwrap_or(0));
        if named.is_none() {
            self.text(block, name);
        }
        self.text(block, value);
        if form == 0x40 {
            let bytes = name.len() + value.len() + 32;
            self.shrink(self.table_bytes_max.saturating_sub(bytes));
            if bytes <= self.table_bytes_max {
                self.table.push_front((name.to_vec(), value.to_vec()));
            }
        }
    }

    fn text(&mut self, block: &mut Vec<u8>, text: &[u8]) {
        let (form, bytes) = if self.dice.roll(2) == 0 { (0x80, huffman::encode(text)) } else { (0, text.to_vec()) };
        integer(block, form, 7, bytes.len());
        block.extend_from_slice(&bytes);
    }

    fn index(&mut self, is_it: impl Fn((&[u8], &[u8])) -> bool) -> Option<usize> {
        const STATIC: [(usize, &[u8], &[u8]); 4] =
            [(1, b":authority", b""), (3, b":method", b"POST"), (4, b":path", b"/"), (6, b":scheme", b"http")];
        let fixed = STATIC.iter().find(|(_, name, value)| is_it((name, value))).map(|(index, ..)| *index);
        let own = self.table.iter().position(|(name, value)| is_it((name, value))).map(|nth| 62 + nth);
        if self.dice.roll(2) == 0 { own.or(fixed) } else { fixed.or(own) }
    }

    fn shrink(&mut self, bytes_max: usize) {
        let bytes = |(name, value): &(Vec<u8>, Vec<u8>)| name.len() + value.len() + 32;
        while self.table.iter().map(bytes).sum::<usize>() > bytes_max {
            self.table.pop_back();
        }
    }
}

fn integer(block: &mut Vec<u8>, form: u8, prefix_bits: u32, value: usize) {
    let mask = (1 << prefix_bits) - 1;
    if value < mask {
        return block.push(form | value as u8);
    }
    block.push(form | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}
