//! Small inputs that each parser takes, from which a fuzzer begins. A test compares them with the
//! files of `fuzz/corpus/`, and writes them there when it is told to.

mod peers;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use crate::codec::{Command, Genesis, encode_entry, encode_record, entry};
use crate::guest::Limits;
use crate::types::{Addresses, Cluster, CommittedLeaderId, Identity, LogId, Membership, Origin, Vote};

/// One input of a target.
pub(super) struct Seed {
    pub(super) target: &'static str,
    /// The name of its file.
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
}

/// Returns all seeds.
pub(super) fn all() -> Vec<Seed> {
    let data = [entries(), records(), logs(), segments(), frames(), backups(), guests()].concat();
    [data, peers::messages(), peers::framings(), peers::refusals(), connections(), calls(), trust()].concat()
}

impl Clone for Seed {
    fn clone(&self) -> Seed {
        Seed { bytes: self.bytes.clone(), ..*self }
    }
}

fn seed(target: &'static str, name: &'static str, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed { target, name, bytes: bytes.into() }
}

/// Puts the byte in front that says what follows.
fn kind(kind: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[kind], bytes.as_ref()].concat()
}

fn command(request: &[u8]) -> Command {
    Command {
        origin: Some(Origin { node: 7, boot: 2, counter: 9 }.into()),
        method: "Example/Add".into(),
        request: Bytes::copy_from_slice(request),
        caller: "alice".into(),
    }
}

fn genesis() -> Genesis {
    let hash = || Bytes::from(vec![4; 32]);
    Genesis {
        cluster_id: vec![1; 16].into(),
        component_hash: hash(),
        source_hash: hash(),
        // That of the build which wrote the seeds, so that they stay as they are.
        semantics: 4,
        limits_json: serde_json::to_string(&Limits::DEFAULT).unwrap(),
    }
}

fn entries() -> Vec<Seed> {
    let empty = entry::Entry { time_ms: 1000, hash_index: 3, hash: 9, ..entry::Entry::default() };
    let commands = vec![command(b"ab"), command(b"")];
    let bytes = |entry: entry::Entry| encode_entry(&entry).0.to_vec();
    let read_only = entry::ReadOnly { on: true, methods: vec!["a.*/B".into()], by: "ann".into() };
    let row = entry::Row { key: vec![1, 2].into(), value: vec![3].into() };
    let rows = entry::Rows {
        expected_component: genesis().component_hash,
        clear: 2,
        clear_from: vec![1].into(),
        put: vec![row],
    };
    let setting = entry::Setting { key: "trailing_commands".into(), value: "7".into() };
    let operation = entry::Operation { expected_index: 5, settings: vec![setting], by: "ann".into() };
    vec![
        seed("entry", "operation", bytes(entry::Entry { operation: Some(operation), ..empty.clone() })),
        seed("entry", "commands", bytes(entry::Entry { commands, ..empty.clone() })),
        seed(
            "entry",
            "rollback",
            bytes(entry::Entry { rollback: Some(entry::Rollback { change_index: 7 }), ..empty.clone() }),
        ),
        seed("entry", "read_only", bytes(entry::Entry { read_only: Some(read_only), ..empty.clone() })),
        seed("entry", "rows", bytes(entry::Entry { rows: Some(rows), ..empty.clone() })),
        seed("entry", "genesis", bytes(entry::Entry { genesis: Some(genesis()), ..empty })),
    ]
}

fn membership() -> Membership {
    let node =
        |name: &str| Addresses { name: name.into(), raft_addr: format!("{name}:1"), grpc_addr: format!("{name}:2") };
    let nodes = BTreeMap::from([(1, node("a")), (2, node("b")), (3, node("c"))]);
    Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], nodes).unwrap()
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId { term: 2, node_id: 1 }, index)
}

/// The term, leader and index of a position, as its record has them.
const POSITION: (u64, u64, u64) = (2, 1, 5);

fn header() -> Vec<u8> {
    encode_record(&(1_u32, POSITION, 1000_u64, None::<[u8; 32]>))
}

fn records() -> Vec<Seed> {
    let cluster = Some(Cluster { id: [2; 16], incarnation: 3, component_hash: [4; 32] });
    let identity = Identity { node_id: 1, name: "nodeA".into(), cluster, boot: 5 };
    let node = (1_u64, "a", "a:1", "a:2");
    let stored = (Some(POSITION), vec![vec![1_u64]], vec![node]);
    let settings = vec![("state_bytes_max", "33554432"), ("trailing_commands", "7")];
    let profile = (9_u64, genesis().encode_to_vec(), 1_u64, genesis().encode_to_vec(), 1000_u64, POSITION);
    vec![
        seed("record", "identity", kind(0, encode_record(&identity))),
        seed("record", "vote", kind(1, encode_record(&Vote::new_committed(7, 1)))),
        seed("record", "log-id", kind(2, encode_record(&log_id(5)))),
        seed("record", "membership", kind(3, encode_record(&membership()))),
        seed("record", "stored-membership", kind(4, encode_record(&stored))),
        seed("record", "counters", kind(5, encode_record(&(1_u64, 2_u64)))),
        seed("record", "hash", kind(6, encode_record(&(1_u64, 2_u64)))),
        seed("record", "position", kind(7, encode_record(&POSITION))),
        seed("record", "header", kind(8, header())),
        seed("record", "footer", kind(9, encode_record(&([6_u8; 32], 7_u64)))),
        seed("record", "end", kind(10, encode_record(&(5_u64, 6_u64, [8_u8; 32])))),
        seed("record", "reply", kind(11, b"\x01ab")),
        seed("record", "refusal", kind(11, b"\x02\x05\0\0\0\x02\0\0\0no\x07")),
        seed("record", "failure", kind(11, b"\x03\x02")),
        seed("record", "operation", kind(12, encode_record(&(9_u64, 7_u64, settings, "ann")))),
        seed("record", "read-only", kind(13, encode_record(&(9_u64, 7_u64, true, vec!["a.*/B"], "ann")))),
        seed("record", "change", kind(14, encode_record(&(9_u64, [1_u8; 32], [2_u8; 32], 3_u8, 5_u32, 5_u64)))),
        seed("record", "profile", kind(15, encode_record(&profile))),
    ]
}

fn logs() -> Vec<Seed> {
    let head = |kind: u8, payload: &[u8]| [&[1, kind], &[0; 7][..], &[5], &[0; 7], &[9], &[0; 4], payload].concat();
    let part = |kind: u8, payload: &[u8]| [&[kind, payload.len() as u8], payload].concat();
    let parts = [part(1, b"whole"), part(255, b""), part(2, &[7; 200]), part(4, &[8; 90]), part(5, b"recycled")];
    vec![
        seed("log", "key", kind(0, [0; 12])),
        seed("log", "foreign-value", kind(1, head(1, b"abc"))),
        seed("log", "blank", kind(2, head(0, b""))),
        seed("log", "normal", kind(2, head(1, b"abc"))),
        seed("log", "membership", kind(2, head(2, &encode_record(&membership())))),
        seed("log", "foreign-file", kind(3, [&[9; 4][..], &[2, 0, 1, 7, 7], &[0; 40]].concat())),
        seed("log", "fragments", kind(4, parts.concat())),
    ]
}

fn segments() -> Vec<Seed> {
    let parts = b"\x03one\x00\x05three";
    vec![
        seed("segment", "foreign", kind(0, b"LOCKSTEP SEGMENT\0\0\0\x01")),
        seed("segment", "empty", kind(1, b"")),
        seed("segment", "written", kind(1, parts)),
        seed("segment", "flipped", kind(2, [&[2, 33][..], parts].concat())),
    ]
}

/// A row of the host or of the guest, as frames carry it.
fn row(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&(key.len() as u32).to_le_bytes()[..], &(value.len() as u32).to_le_bytes(), key, value].concat()
}

fn system_rows() -> Vec<u8> {
    let stored = (Some(POSITION), vec![vec![1_u64]], vec![(1_u64, "a", "a:1", "a:2")]);
    [
        row(b"applied", &encode_record(&POSITION)),
        row(b"counters", &encode_record(&(1_u64, 2_u64))),
        row(b"genesis", &encode_record(&(1_u64, genesis().encode_to_vec()))),
        row(b"hash", &encode_record(&(5_u64, 2_u64))),
        row(b"membership", &encode_record(&stored)),
        row(b"time", &encode_record(&1000_u64)),
    ]
    .concat()
}

fn frames() -> Vec<Seed> {
    let rows = [row(b"a", b"1"), row(b"b", b"")].concat();
    let packed = zstd::bulk::compress(&rows, 1).unwrap();
    vec![
        seed("frame", "foreign", kind(0, [4, 1, 2, 3, 4, 5])),
        seed("frame", "sealed", kind(1, kind(4, packed))),
        seed("frame", "header", kind(2, kind(1, header()))),
        seed("frame", "guest", kind(2, kind(2, b"own"))),
        seed("frame", "restart", kind(2, [3])),
        seed("frame", "raw", kind(2, kind(4, &rows))),
        seed("frame", "system", kind(2, kind(5, system_rows()))),
        seed("frame", "footer", kind(2, kind(6, encode_record(&([6_u8; 32], 7_u64))))),
        seed("frame", "end", kind(2, kind(8, encode_record(&(5_u64, 6_u64, [8_u8; 32]))))),
        seed("frame", "rows", kind(3, rows)),
    ]
}

fn backups() -> Vec<Seed> {
    let part = |kind: u8, body: &[u8]| [&[kind], &(body.len() as u16).to_le_bytes()[..], body].concat();
    let parts = [
        part(1, &header()),
        part(7, b"wasm"),
        part(4, &[row(b"a", b"1"), row(b"b", b"")].concat()),
        part(5, &system_rows()),
        part(6, &encode_record(&([6_u8; 32], 8_u64))),
    ]
    .concat();
    vec![
        seed("backup", "foreign", kind(0, b"LOCKSTEP BACKUP\n\x01\0\0\0\x05\0\0\0\x01\0\0\0\0")),
        seed("backup", "written", kind(1, &parts)),
        seed("backup", "ended", kind(2, parts)),
    ]
}

fn connections() -> Vec<Seed> {
    let block = |fields: &[u8]| [&(fields.len() as u16).to_be_bytes()[..], fields].concat();
    let good = block(b"\x83\x86\x84\x41\x03a:1\x40\x01x\x01y");
    let bad = block(b"\x83\x86\x84\x41\x05a:1:2\x7e\x01 \xbe");
    let huffman = block(&[0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]);
    let resized = block(b"\x20\x3f\xe1\x1f\x81\x11\x03a b");
    let blocks = [good, bad, huffman, resized].concat();
    let headers =
        b"\0\0\x04\x01\x28\0\0\0\x01\0\0\0\0\x07\0\0\x03\x09\x04\0\0\0\x01\x01\x01 \0\0\x04\x03\0\0\0\0\x01\0\0\0\x08";
    let padded = [&b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x01\x0c\0\0\0\x01\x02\x41\x03a b\0\0"[..], headers].concat();
    vec![
        seed("http2", "http1", kind(0, b"\x02GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
        seed("http2", "frames", kind(1, kind(5, padded))),
        seed("http2", "blocks", kind(2, kind(3, blocks))),
        seed("http2", "content-type", kind(3, b"\x01application/grpc\ntext/html")),
    ]
}

/// One stored block, so that its bytes are the same whatever compresses here: `hello`.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01\x05\0\xfa\xffhello\x86\xa6\x10\x36\x05\0\0\0";

fn calls() -> Vec<Seed> {
    let framed = |flag: u8, bytes: &[u8]| [&[flag, 0, 0, 0, bytes.len() as u8][..], bytes].concat();
    let fields = b"\x0a\x02hi\x12\x06\x0a\x01k\x7a\x01x\x1a\x02\x01\x02\x20\x01\xa0\x06\x07";
    vec![
        seed("message", "plain", kind(0, kind(1, framed(0, b"ab")))),
        seed("message", "two", kind(0, kind(0, [framed(0, b"ab"), framed(0, b"c")].concat()))),
        seed("message", "reply", kind(1, b"ab")),
        seed("message", "gzip", kind(2, kind(1, [framed(1, GZIP), framed(0, b"ab"), framed(2, b"c")].concat()))),
        seed("message", "compressed", kind(3, b"\x01\x01\0\x03abc\0\0\x02de\x01\0\0")),
        seed("message", "fields", kind(4, kind(9, fields))),
        seed("message", "timeout", kind(5, b"250m")),
    ]
}

const PROTO: &str = r#"syntax = "proto3";
    package app;
    import "lockstep/options.proto";
    message M { bool fresh = 1; oneof o { string text = 2; E e = 3; } map<string, M> more = 4; message N {} }
    enum E { ZERO = 0; ONE = 1; }
    service S {
      rpc Put(M) returns (M) { option (lockstep.method) = { kind: COMMAND }; }
      rpc Get(M) returns (M) { option (lockstep.method) = { kind: QUERY, consistency_field: "fresh" }; }
      rpc See(M) returns (stream M) { option (lockstep.method) = { kind: WATCH, consistency: LINEARIZABLE }; }
    }"#;

fn descriptor(text: &str) -> Vec<u8> {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("app.proto"), text).unwrap();
    let options = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler = protox::Compiler::new([place.path(), options.as_ref()]).unwrap();
    compiler.include_imports(true).open_file("app.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

fn guests() -> Vec<Seed> {
    let plain = "syntax = \"proto3\"; message M { bytes b = 1; } service S { rpc Put(M) returns (M); }";
    let text = r#"(component
        (import "lockstep:machine/store@1.0.0" (instance))
        (core module (memory 2) (global $stack (mut i32) (i32.const 66576)) (data (i32.const 1024) "statics")
          (func (local i32) (local.set 0 (i32.sub (global.get $stack) (i32.const 32))) (global.set $stack (local.get 0))))
        (component (component))
        (instance $machine)
        (export "lockstep:machine/machine@1.0.0" (instance $machine))
        (@custom "lockstep.descriptor" "\0a\00"))"#;
    let module = r#"(module (import "lockstep:machine/log@1.0.0" "write" (func)) (import "env" "abort" (func))
        (memory 1) (@custom "component-type:guest" "x"))"#;
    let foreign = r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))"#;
    vec![
        seed("descriptor", "options", descriptor(PROTO)),
        seed("descriptor", "plain", descriptor(plain)),
        seed("component", "guest", wat::parse_str(text).unwrap()),
        seed("component", "foreign", wat::parse_str(foreign).unwrap()),
        seed("depth", "guest", wat::parse_str(text).unwrap()),
        seed("component", "module", wat::parse_str(module).unwrap()),
    ]
}

const POLICY: &str = r#"
[[grant]]
subject = "shop-*"
role = "writer"
methods = ["orders.*/Place", "a"]
per_second = 100
[[grant]]
subject = "anonymous"
role = "reader"
"#;

const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"one","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const EC: &str = r#"{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
const ED_PEM: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";

/// A certificate with a key of zeros: nothing here checks its signature, and the seeds must not
/// change from run to run.
fn certificate() -> Vec<u8> {
    let der = |tag: u8, body: &[u8]| match body.len() {
        short @ 0..0x80 => [&[tag, short as u8], body].concat(),
        long => [&[tag, 0x82], &(long as u16).to_be_bytes()[..], body].concat(),
    };
    let name = |text: &[u8]| der(0x30, &der(0x31, &der(0x30, &[&[6, 3, 0x55, 4, 3][..], &der(0x0c, text)].concat())));
    let ed25519 = der(0x30, &[6, 3, 0x2b, 0x65, 0x70]);
    let validity = der(0x30, &[der(0x17, b"260101000000Z"), der(0x17, b"270101000000Z")].concat());
    let key = der(0x30, &[&ed25519[..], &der(3, &[0; 33])].concat());
    let names = [der(0x86, b"lockstep://prod/node/nodeA"), der(0x82, b"nodea.example")].concat();
    let san = [&[6, 3, 0x55, 0x1d, 0x11][..], &der(4, &der(0x30, &names))].concat();
    let ca = [&[6, 3, 0x55, 0x1d, 0x13][..], &der(4, &der(0x30, &[1, 1, 0xff]))].concat();
    let extensions = der(0xa3, &der(0x30, &[der(0x30, &san), der(0x30, &ca)].concat()));
    let body =
        [der(0xa0, &[2, 1, 2]), der(2, &[1]), ed25519.clone(), name(b"CA"), validity, name(b"alice"), key, extensions];
    der(0x30, &[der(0x30, &body.concat()), ed25519, der(3, &[0; 65])].concat())
}

fn trust() -> Vec<Seed> {
    let claims =
        r#"{"sub":"alice","iss":"i","aud":["a","b"],"exp":1790000600,"nbf":1790000000,"lockstep_role":"writer"}"#;
    let token = format!("{{\"alg\":\"EdDSA\",\"typ\":\"JWT\",\"kid\":\"one\"}}\n{claims}");
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.";
    vec![
        seed("policy", "grants", POLICY),
        seed("token", "signed", kind(1, token)),
        seed("token", "of-nobody", kind(0, none)),
        seed("token", "shown", kind(2, "Bearer abc")),
        seed("jwks", "set", format!("{{\"keys\":[{ED},{EC}]}}")),
        seed("jwks", "one", ED),
        seed("jwks", "pem", ED_PEM),
        seed("certificate", "node", certificate()),
    ]
}
