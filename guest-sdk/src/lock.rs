//! What lies under each tag of a state, as text: the custom section `lockstep.state` of a guest. If
//! the author recorded it in a file `state.lock`, this file compares the two at compile time. The
//! build script reads that file; `lockstep guest check` writes it, and compares whole states.

use crate::shape::{put, put_number};
use crate::tags::Tags;
use crate::text::{Text, is_same};

/// Returns the length of the description.
pub const fn len(collections: &[Tags]) -> usize {
    write(collections, &mut [])
}

/// Returns the description: a line `1 leases: Map<String, locks.Lease>` for each collection, and a
/// line `2 index of leases: Set<(String, String)>` for each index.
pub const fn bytes<const N: usize>(collections: &[Tags]) -> [u8; N] {
    let mut out = [0; N];
    write(collections, &mut out);
    out
}

const fn write(collections: &[Tags], out: &mut [u8]) -> usize {
    let (mut at, mut i) = (0, 0);
    while i < collections.len() {
        let collection = &collections[i];
        at = put_number(out, at, collection.own as usize);
        at = put(out, at, " ");
        at = put(out, at, collection.field);
        at = put(out, at, ": ");
        at = collection.rows.write(out, at);
        at = put(out, at, "\n");
        let mut n = 0;
        while n < collection.indexes.len() {
            at = put_number(out, at, collection.indexes[n] as usize);
            at = put(out, at, " index of ");
            at = put(out, at, collection.field);
            at = put(out, at, ": ");
            at = collection.entries[n].write(out, at);
            at = put(out, at, "\n");
            n += 1;
        }
        i += 1;
    }
    at
}

/// Fails the build if a tag has other rows than the record says.
///
/// `state` is a description. `record` is what the build script made of `state.lock`:
/// `1 Map<String, locks.Lease>|2 Set<(String, String)>`. A tag that stands in one of them alone is
/// no mistake.
pub const fn check(state: &[u8], record: Option<&str>) {
    let Some(record) = record else { return };
    let record = record.as_bytes();
    let mut start = 0;
    while start < state.len() {
        let end = find(state, b'\n', start, state.len());
        let tag_end = find(state, b' ', start, end);
        let rows = find(state, b':', tag_end, end) + 2;
        if let Some((from, to)) = recorded(record, state, (start, tag_end))
            && !is_same(part(record, (from, to)), part(state, (rows, end)))
        {
            let name = text_of(state, (tag_end + 1, rows - 2));
            let text = Text::new().add("tag ").add(text_of(state, (start, tag_end))).add(" (").add(name).add(") is ");
            let text = text.add(text_of(state, (rows, end))).add(" now, and state.lock has ");
            let text = text.add(text_of(record, (from, to))).add(": take a new tag; or, if a migration rewrites ");
            let text =
                text.add("what lies under it, put this line into state.lock: ").add(text_of(state, (start, end)));
            panic!("{}", text.as_str());
        }
        start = end + 1;
    }
}

/// A part of a text: its start and its end.
type Part = (usize, usize);

/// Returns where the record has the rows of the tag that stands in `state`.
const fn recorded(record: &[u8], state: &[u8], tag: Part) -> Option<Part> {
    let mut start = 0;
    while start < record.len() {
        let end = find(record, b'|', start, record.len());
        let tag_end = find(record, b' ', start, end);
        if is_same(part(record, (start, tag_end)), part(state, tag)) {
            return Some((tag_end + 1, end));
        }
        start = end + 1;
    }
    None
}

/// Returns the place of the first such byte from `at` on, or `end` if there is none.
const fn find(text: &[u8], byte: u8, mut at: usize, end: usize) -> usize {
    while at < end && text[at] != byte {
        at += 1;
    }
    at
}

const fn part(text: &[u8], (start, end): Part) -> &[u8] {
    text.split_at(end).0.split_at(start).1
}

const fn text_of(text: &[u8], place: Part) -> &str {
    match std::str::from_utf8(part(text, place)) {
        Ok(text) => text,
        Err(_) => "?",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Counter, Index, Map, State, Table};

    struct ByLength;

    impl Index for ByLength {
        type Key = u64;
        type Value = String;
        type By = u32;
        const TAG: u16 = 300;

        fn by(_: &u64, name: &String) -> Vec<u32> {
            vec![u32::try_from(name.len()).unwrap()]
        }
    }

    crate::state! {
        struct Everything {
            _prices: Map<String, u64> = 1,
            _names: Table<u64, String, ByLength> = 2,
            _visits: Counter = 30,
        }
    }

    fn described() -> Vec<u8> {
        const LEN: usize = len(Everything::COLLECTIONS);
        bytes::<LEN>(Everything::COLLECTIONS).to_vec()
    }

    fn told(record: &str) -> String {
        let state = described();
        match std::panic::catch_unwind(|| check(&state, Some(record))) {
            Ok(()) => String::new(),
            Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
        }
    }

    #[test]
    fn a_state_is_described_by_tag_name_and_type() {
        let expected = "1 _prices: Map<String, u64>\n2 _names: Map<u64, String>\n300 index of _names: Set<(u32, u64)>\n30 \
                        _visits: Value<u64>\n";
        assert_eq!(String::from_utf8(described()).unwrap(), expected);
    }

    #[test]
    fn a_tag_that_changed_its_type_is_named_with_both() {
        for fine in
            ["", "1 Map<String, u64>", "30 Value<u64>|3 Set<u8>|300 Set<(u32, u64)>|1 Map<String, u64>", "10 Set<u8>"]
        {
            assert_eq!(told(fine), "", "{fine}");
        }
        assert_eq!(
            told("3 Set<u8>|1 Map<String, String>"),
            "tag 1 (_prices) is Map<String, u64> now, and state.lock has Map<String, String>: take a new tag; or, if a migration rewrites what \
             lies under it, put this line into state.lock: 1 _prices: Map<String, u64>"
        );
        assert!(told("300 Set<(u64, u64)>").starts_with("tag 300 (index of _names) is Set<(u32, u64)> now, and"));
        assert!(told("2 Map<u64, String>|30 Value<u6>").starts_with("tag 30 "));
        assert!(told("1 Map<String, u64>>").starts_with("tag 1 "));
    }
}
