//! Does one thing as often as the request asks for. The difference in fuel between two calls is the
//! price of that thing. docs/limits.md lists the prices. This guest is for measurements only.

use lockstep_guest::prost::Message;
use lockstep_guest::{Command, Index, Map, Reply, Status, Table};

lockstep_guest::include_proto!();

/// Finds rows by their value.
pub struct ByAmount;

impl Index for ByAmount {
    type Key = u64;
    type Value = u64;
    type By = u64;
    const TAG: u16 = 3;

    fn by(_: &u64, amount: &u64) -> Vec<u64> {
        vec![amount % 16]
    }
}

/// Keys from this one on are never written.
const MISSING: u64 = 1 << 40;

lockstep_guest::state! {
    /// Rows to read and to write.
    pub struct Rows {
        plain: Map<u64, u64> = 1,
        indexed: Table<u64, u64, ByAmount> = 2,
    }
}

impl Prices for Rows {
    fn r#do(&mut self, cx: &Command, work: Work) -> Reply<Done> {
        let times = u64::from(work.times);
        let mut done = Done::default();
        let count = work.times as usize;
        match work.what() {
            What::Nothing => {}
            What::Get => (0..times).for_each(|n| assert_eq!(self.plain.get(&n), Some(n))),
            What::GetMissing => (0..times).for_each(|n| assert_eq!(self.plain.get(&(n + MISSING)), None)),
            What::Insert => (0..times).for_each(|n| self.plain.insert(&n, &n)),
            What::Remove => (0..times).for_each(|n| self.plain.delete(&n)),
            What::First => (0..times).for_each(|n| assert_eq!(self.plain.range(n..).first(), Some((n, n)))),
            What::Row => assert_eq!(self.plain.iter().take(count).count(), count),
            What::RemoveRow => assert_eq!(self.plain.remove_first(.., work.times), times),
            What::InsertIndexed => (times..2 * times).for_each(|n| assert!(self.indexed.insert(&n, &n).is_none())),
            What::FindRow => assert_eq!(self.indexed.by(ByAmount).iter().take(count).count(), count),
            What::DecodeNumber => decode(&b"\x18\x96\x01".repeat(count))?,
            What::DecodePacked => decode(&field(0x12, &b"\x96\x01".repeat(count)))?,
            What::DecodeText => decode(&b"\x22\x08eight by".repeat(count))?,
            What::DecodeByte => decode(&field(0x2a, &b"x".repeat(count)))?,
            What::DecodeMessage => decode(&b"\x0a\x0d\x0a\x08eight by\x10\x96\x01".repeat(count))?,
            What::DecodeEntry => decode(&entries(times))?,
            What::ReplyByte => done.blob = b"x".repeat(count),
            What::ReplyMessage => done.items = vec![Item { name: "eight by".to_owned(), amount: 150 }; count],
            What::Random => assert!((0..times).fold(0_u64, |all, _| all | cx.random()) > 0),
            What::Log => (0..times).for_each(|_| lockstep_guest::log_info!("a line of thirty-two characters.")),
        }
        Ok(done)
    }
}

/// Encodes a field with this content.
fn field(key: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![key];
    lockstep_guest::prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    field.extend_from_slice(bytes);
    field
}

/// Encodes entries of a map, each with a different key.
fn entries(times: u64) -> Vec<u8> {
    let mut load = Vec::new();
    for n in 0..times {
        load.extend_from_slice(b"\x32\x0d\x0a\x08");
        // `format!` would cost more than what is measured.
        load.extend((0..8).map(|digit| b'a' + (n >> (4 * digit) & 15) as u8));
        load.extend_from_slice(b"\x10\x96\x01");
    }
    load
}

fn decode(bytes: &[u8]) -> Result<(), Status> {
    let load = Load::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
    // Dropped here, because a request is dropped, too.
    drop(std::hint::black_box(load));
    Ok(())
}

lockstep_guest::export!(Rows: Prices);
