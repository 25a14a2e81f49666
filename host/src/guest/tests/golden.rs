//! The golden components: guests of contract 1.0.0, byte for byte as clusters hold them. Every host
//! that speaks this contract must load them and give these answers, whatever today's tools build.
//! `tests/golden/README.md` says how they were made.

use super::*;

/// File, hash as a cluster records it, and whether it exports `watcher`.
const GOLDEN: [(&[u8], &str, bool); 4] = [
    (KV, "b847b8b3279b4c21e2dcde7107e379bfb6a274c465dd3755c4c4104ae1fedb00", true),
    (COUNTER, "1aedeed53bb39aabbf77b482d4176314509fc582617e280c6b0770ceaef144e9", true),
    (WORDS, "daf2630b259de28cbaa1d87208788f02c42f73ce04a4218fc9896bff65a8a623", true),
    (TALLY, "bfea2a859b05b57e0a1c48423772422a2075321f2d99b9275445139052eea8a4", false),
];
pub(super) const KV: &[u8] = include_bytes!("../../../../tests/golden/kv.wasm");
pub(super) const COUNTER: &[u8] = include_bytes!("../../../../tests/golden/counter.wasm");
pub(super) const WORDS: &[u8] = include_bytes!("../../../../tests/golden/words.wasm");
pub(super) const TALLY: &[u8] = include_bytes!("../../../../tests/golden/tally.wasm");

fn load(golden: &[u8]) -> Component {
    Component::load(&ENGINE, golden).unwrap()
}

/// Encodes field 1 as a string, in a message of less than 128 bytes.
fn text(value: &str) -> Vec<u8> {
    [&[0x0a, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

fn call_of<'a>(method: &'a str, request: &'a [u8]) -> Call<'a> {
    Call { method, ..call(request) }
}

/// Applies one command, which must be answered, and keeps its writes.
fn apply_one(component: &Component, rows: &mut Map, method: &str, request: &[u8]) -> Vec<u8> {
    let mut instance = ApplyInstance::new(component).unwrap();
    let (verdict, store) = instance.apply(call_of(method, request), Box::new(rows.clone()));
    *rows = map(store);
    replied(verdict.unwrap())
}

fn query_one(component: &Component, rows: &Map, method: &str, request: &[u8]) -> Vec<u8> {
    let mut instance = QueryInstance::new(component).unwrap().unwrap();
    let status: StatusSource = Arc::new(|| "{}".to_owned());
    replied(instance.query(call_of(method, request), Box::new(rows.clone()), status).0.unwrap())
}

fn replied(verdict: Verdict) -> Vec<u8> {
    match verdict {
        Verdict::Reply(reply) => reply.to_vec(),
        other => panic!("expected a reply, got {other:?}"),
    }
}

/// Returns a snapshot of these rows, restored by the guest into an empty store.
fn moved(component: &Component, rows: &Map) -> Map {
    let bytes = streaming::Shared::default();
    let written = snapshot_of(component, rows.clone(), bytes.clone());
    assert!(matches!(written.unwrap(), Verdict::Reply(_)));
    let (read, restored) = restore_of(component, bytes);
    assert!(matches!(read.unwrap(), Verdict::Reply(_)));
    restored
}

#[test]
fn golden_components_are_what_clusters_hold() {
    for (golden, hash, watches) in GOLDEN {
        assert_eq!(Component::encode(golden).unwrap(), golden, "{hash}: a component is taken as it is");
        let component = load(golden);
        assert_eq!(crate::types::hex(&component.hash()), hash);
        assert_eq!(component.has_watcher(), watches, "{hash}");
        assert_eq!((component.has_migrator(), component.version()), (false, ""), "{hash}: what came later");
        assert!(component.descriptor().is_some_and(|descriptor| !descriptor.is_empty()), "{hash}");
    }
}

#[test]
fn golden_kv_reads_watches_and_moves_what_it_wrote() {
    let (component, mut rows) = (load(KV), Map::default());
    let add = [text("a"), vec![0x12, 1, b'1']].concat();
    assert_eq!(apply_one(&component, &mut rows, "Example/Add", &add), [8, 7], "the index of the call");
    assert_eq!(rows.rows, BTreeMap::from([(b"\x01a\0\0".to_vec(), b"1".to_vec())]), "rows on disk stay as they are");
    let moved = moved(&component, &rows);
    assert_eq!(moved, rows);
    assert_eq!(query_one(&component, &moved, "Example/Get", &text("a")), [8, 7, 0x12, 1, b'1']);
    assert_eq!(query_one(&component, &moved, "Example/Stat", b""), text("{}"));
    let mut watching = QueryInstance::new(&component).unwrap().unwrap();
    let step = watching.watch(call_of("Example/Watch", &text("a")), Cause::Start, b"", Box::new(moved)).0.unwrap();
    let Stepped::Step(step) = step else { panic!("expected a step, got {step:?}") };
    assert_eq!(step.replies, [vec![0x0a, 1, b'1', 0x10, 7]]);
    assert_eq!((step.wake_after_ms, step.done), (300_000, false));
}

#[test]
fn golden_counter_counts() {
    let (component, mut rows) = (load(COUNTER), Map::default());
    for sum in [2, 4] {
        assert_eq!(apply_one(&component, &mut rows, "counter.v1.Counter/Add", &[8, 2]), [8, sum]);
        rows = moved(&component, &rows);
    }
    assert_eq!(query_one(&component, &rows, "counter.v1.Counter/Get", b""), [8, 4]);
}

#[test]
fn golden_words_keep_the_longest() {
    let (component, mut rows) = (load(WORDS), Map::default());
    for word in ["dog", "horse", "cat", "bee"] {
        assert_eq!(apply_one(&component, &mut rows, "Example/AddWord", &text(word)), [8, 7]);
    }
    let best = query_one(&component, &moved(&component, &rows), "Example/GetWords", b"");
    assert_eq!(best, b"\x08\x07\x12\x05horse\x12\x03bee\x12\x03cat");
    let group = [0x12, 1, b'g'];
    let refused = ApplyInstance::new(&component).unwrap().apply(call_of("Example/AddWord", &group), Box::new(rows)).0;
    assert!(matches!(refused, Ok(Verdict::Refused(Status { code: 5, .. }))), "{refused:?}");
}

#[test]
fn golden_tally_counts_votes() {
    let (component, mut rows) = (load(TALLY), Map::default());
    for (name, votes) in [("ann", 1), ("bob", 1), ("ann", 2)] {
        assert_eq!(apply_one(&component, &mut rows, "tally.v1.Tally/Vote", &text(name)), [8, votes]);
        let there = moved(&component, &rows);
        assert_eq!(there, rows);
    }
    assert_eq!(query_one(&component, &rows, "tally.v1.Tally/Count", &text("ann")), [8, 2]);
    assert_eq!(query_one(&component, &rows, "tally.v1.Tally/Count", &text("carl")), b"");
    let refused = ApplyInstance::new(&component).unwrap().apply(call_of("tally.v1.Tally/Vote", b""), Box::new(rows)).0;
    assert!(matches!(refused, Ok(Verdict::Refused(Status { code: 3, .. }))), "{refused:?}");
}
