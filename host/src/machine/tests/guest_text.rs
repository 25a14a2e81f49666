//! A guest in text. Requests are `key length (1 byte), key, value`. `apply` puts, `query` gets,
//! `watch` gets and replies. An empty value traps after the write. Snapshot and restore use the row
//! format of the contract's pages.

use std::sync::LazyLock;

use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::guest::{Component, Engine, Limits};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(&Limits::default()).unwrap());

const CONTRACT: &str = include_str!("../../../../wit/machine.wit");

/// Returns the module's text. `restore` and `query` are the bodies of these exports.
pub(super) fn module(restore: &str, query: &str) -> String {
    let context = "(param $index i64) (param $position i32) (param $time i64)";
    let request = "(param $method i32) (param $method_length i32) (param $request i32) (param $length i32)";
    format!(
        r#"(module
  (import "lockstep:machine/store@1.0.0" "get" (func $get (param i32 i32 i32)))
  (import "lockstep:machine/store@1.0.0" "scan" (func $scan (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "lockstep:machine/store@1.0.0" "put" (func $put (param i32 i32 i32 i32)))
  (import "lockstep:machine/snapshot-sink@1.0.0" "write" (func $sink (param i32 i32)))
  (import "lockstep:machine/snapshot-source@1.0.0" "read" (func $source (param i32 i32)))
  (memory (export "memory") 32)
  (global $next (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.set $next (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func $reply (param $at i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 256) (i32.const 0))
    (i32.store (i32.const 260) (local.get $at))
    (i32.store (i32.const 264) (local.get $length))
    (i32.const 256))
  (func $key (param $request i32) (result i32) (i32.add (local.get $request) (i32.const 1)))
  (func $key_length (param $request i32) (result i32) (i32.load8_u (local.get $request)))
  (func (export "lockstep:machine/machine@1.0.0#apply") {context} {request} (result i32)
    (local $value i32) (local $value_length i32)
    (local.set $value (i32.add (call $key (local.get $request)) (call $key_length (local.get $request))))
    (local.set $value_length (i32.sub (local.get $length) (i32.sub (local.get $value) (local.get $request))))
    (call $put (call $key (local.get $request)) (call $key_length (local.get $request)) (local.get $value) (local.get $value_length))
    (if (i32.eqz (local.get $value_length)) (then unreachable))
    (call $reply (local.get $value) (local.get $value_length)))
  (func $lookup (param $request i32) (param $into i32)
    (call $get (call $key (local.get $request)) (call $key_length (local.get $request)) (i32.const 64))
    (i32.store (local.get $into) (i32.const 0))
    (i32.store offset=4 (local.get $into) (i32.const 0))
    (if (i32.load8_u (i32.const 64)) (then
      (i32.store (local.get $into) (i32.load (i32.const 68)))
      (i32.store offset=4 (local.get $into) (i32.load (i32.const 72))))))
  (func (export "lockstep:machine/machine@1.0.0#query") {context} {request} (result i32)
    {query})
  (func (export "lockstep:machine/machine@1.0.0#snapshot") {context} (result i32)
    (call $scan (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 64))
    (if (i32.load (i32.const 68)) (then (call $sink (i32.load (i32.const 64)) (i32.load (i32.const 68)))))
    (call $reply (i32.const 0) (i32.const 0)))
  (func (export "lockstep:machine/machine@1.0.0#restore") {context} (result i32)
    {restore}
    (call $reply (i32.const 0) (i32.const 0)))
  (func (export "lockstep:machine/watcher@1.0.0#watch") {context} {request}
    (param $cause i32) (param $memo i32) (param $memo_length i32) (result i32)
    (call $lookup (local.get $request) (i32.const 384))
    (i32.store8 (i32.const 256) (i32.const 0))
    (i32.store (i32.const 264) (i32.const 384))
    (i32.store (i32.const 268) (i32.const 1))
    (i32.const 256))
)"#
    )
}

/// A restore of one page, which is enough for tests. Rows are
/// `key length, value length (u32), key, value`.
pub(super) const RESTORE: &str = r#"
    (local $at i32) (local $end i32)
    (call $source (i32.const 1000000) (i32.const 64))
    (local.set $at (i32.load (i32.const 64)))
    (local.set $end (i32.add (local.get $at) (i32.load (i32.const 68))))
    (block $done (loop $row
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (call $put
        (i32.add (local.get $at) (i32.const 8)) (i32.load (local.get $at))
        (i32.add (i32.add (local.get $at) (i32.const 8)) (i32.load (local.get $at))) (i32.load offset=4 (local.get $at)))
      (local.set $at (i32.add (i32.add (local.get $at) (i32.const 8))
        (i32.add (i32.load (local.get $at)) (i32.load offset=4 (local.get $at)))))
      (br $row)))"#;

pub(super) const LOOKUP: &str = "(call $lookup (local.get $request) (i32.const 128))
    (call $reply (i32.load (i32.const 128)) (i32.load (i32.const 132)))";

/// Counts its queries in memory and answers with the count, one byte. The request `grow` allocates
/// 2 MiB more. The request `alone` traps unless it is the first one of its instance. The request
/// `refuse` is refused with NOT_FOUND.
const COUNT: &str = r#"
    (i32.store8 (i32.const 1024) (i32.add (i32.load8_u (i32.const 1024)) (i32.const 1)))
    (if (i32.eq (i32.load8_u (local.get $request)) (i32.const 103)) (then (drop (memory.grow (i32.const 32)))))
    (if (i32.eq (i32.load8_u (local.get $request)) (i32.const 114)) (then
      (i32.store8 (i32.const 256) (i32.const 1))
      (i32.store (i32.const 260) (i32.const 5))
      (i64.store (i32.const 264) (i64.const 0))
      (i64.store (i32.const 272) (i64.const 0))
      (return (i32.const 256))))
    (if (i32.eq (i32.load8_u (local.get $request)) (i32.const 97)) (then
      (if (i32.gt_u (i32.load8_u (i32.const 1024)) (i32.const 1)) (then unreachable))))
    (call $reply (i32.const 1024) (i32.const 1))"#;

fn load(restore: &str, query: &str) -> Component {
    load_text(&module(restore, query), "watching-guest")
}

/// Loads a module's text, whose exports are those of `world`.
pub(super) fn load_text(text: &str, world: &str) -> Component {
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("machine.wit", CONTRACT).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    Component::load(&ENGINE, &Component::encode(&module).unwrap()).unwrap()
}

/// Makes a guest that obeys its contract.
pub(super) fn faithful() -> Component {
    load(RESTORE, LOOKUP)
}

/// Makes a guest whose restore restores nothing.
pub(super) fn forgetful() -> Component {
    load("", LOOKUP)
}

/// Makes a guest that stores and answers the first byte of a value alone.
pub(super) fn short() -> Component {
    let whole = "(local.get $value) (local.get $value_length)";
    let first = "(local.get $value) (i32.const 1)";
    load_text(&module(RESTORE, LOOKUP).replace(whole, first), "watching-guest")
}

/// Makes a guest with a static variable. Its queries are `x`, `grow`, `refuse` and `alone`.
pub(super) fn counting() -> Component {
    load(RESTORE, COUNT)
}

/// Encodes a request that sets a key, or reads it when `value` is empty.
pub(super) fn request(key: &str, value: &str) -> Vec<u8> {
    [&[key.len() as u8], key.as_bytes(), value.as_bytes()].concat()
}
