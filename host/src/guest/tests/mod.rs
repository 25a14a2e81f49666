//! Tests of the sandbox with guests written as text. This file owns the guest template and a store
//! in memory; the files beside it test one question each.
#![allow(clippy::unwrap_used)]

mod admission;
mod apart;
mod code;
mod corpus;
mod golden;
mod limits;
mod metering;
mod migrating;
mod outcomes;
mod queries;
mod random;
mod sizes;
mod streaming;

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::LazyLock;

use wit_component::StringEncoding;
use wit_parser::Resolve;

use super::*;

/// One engine for all tests, because it reserves address space for dozens of instances.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(&Limits::default()).unwrap());

/// Imports, memory and a bump allocator. Return areas of imports are at 64, of exports at 256.
const PRELUDE: &str = r#"
  (import "lockstep:machine/store@1.0.0" "get" (func $get (param i32 i32 i32)))
  (import "lockstep:machine/store@1.0.0" "scan" (func $scan (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "lockstep:machine/store@1.0.0" "put" (func $put (param i32 i32 i32 i32)))
  (import "lockstep:machine/store@1.0.0" "remove" (func $remove (param i32 i32)))
  (import "lockstep:machine/store@1.0.0" "remove-range" (func $remove_range (param i32 i32 i32 i32 i32 i32) (result i64)))
  (import "lockstep:machine/call@1.0.0" "caller" (func $caller (param i32)))
  (import "lockstep:machine/log@1.0.0" "write" (func $log (param i32 i32 i32)))
  (import "lockstep:machine/log@1.0.0" "abort" (func $abort (param i32 i32)))
  (import "lockstep:machine/node@1.0.0" "status" (func $status (param i32)))
  (import "lockstep:machine/snapshot-sink@1.0.0" "write" (func $sink (param i32 i32)))
  (import "lockstep:machine/snapshot-source@1.0.0" "read" (func $source (param i32 i32)))
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.set $next (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $size) (i32.const 65536)))))))
    (local.get $at))
  (func $reply (param $at i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 256) (i32.const 0))
    (i32.store (i32.const 260) (local.get $at))
    (i32.store (i32.const 264) (local.get $length))
    (i32.const 256))
  (func $ok (result i32) (call $reply (i32.const 0) (i32.const 0)))
  (func $refuse (param $code i32) (param $at i32) (param $length i32) (result i32)
    (i32.store8 (i32.const 256) (i32.const 1))
    (i32.store (i32.const 260) (local.get $code))
    (i32.store (i32.const 264) (local.get $at))
    (i32.store (i32.const 268) (local.get $length))
    (i32.store (i32.const 272) (i32.const 0))
    (i32.store (i32.const 276) (i32.const 0))
    (i32.const 256))
"#;

const CONTEXT: &str = "(param $index i64) (param $position i32) (param $time i64)";
const REQUEST: &str = "(param $method i32) (param $method_length i32) (param $request i32) (param $length i32)";
const MIGRATION: &str = "(param $hash i32) (param $hash_length i32) (param $version i32) (param $version_length i32)
    (param $cursor i32) (param $cursor_length i32)";
const ECHO: &str = "(call $reply (local.get $request) (local.get $length))";

/// A guest in text: the bodies of its exports, and other parts of its module.
struct Text<'a> {
    apply: &'a str,
    query: &'a str,
    snapshot: &'a str,
    restore: &'a str,
    watch: Option<&'a str>,
    /// A guest that migrates has a watch, too.
    migrate: Option<&'a str>,
    more: &'a str,
}

impl Default for Text<'_> {
    fn default() -> Self {
        let (snapshot, restore) = ("(call $ok)", "(call $ok)");
        Self { apply: ECHO, query: ECHO, snapshot, restore, watch: None, migrate: None, more: "" }
    }
}

impl Text<'_> {
    fn module(&self) -> String {
        let export = |name: &str, params: &str, body: &str| {
            format!("(func (export \"lockstep:machine/{name}\") {CONTEXT} {params} (result i32) {body})\n")
        };
        let mut functions = export("machine@1.0.0#apply", REQUEST, self.apply);
        functions += &export("machine@1.0.0#query", REQUEST, self.query);
        functions += &export("machine@1.0.0#snapshot", "", self.snapshot);
        functions += &export("machine@1.0.0#restore", "", self.restore);
        if let Some(watch) = self.watch.or(self.migrate.map(|_| "unreachable")) {
            let params = format!("{REQUEST} (param $cause i32) (param $memo i32) (param $memo_length i32)");
            functions += &export("watcher@1.0.0#watch", &params, watch);
        }
        if let Some(migrate) = self.migrate {
            functions += &export("migrator@1.0.0#migrate", MIGRATION, migrate);
        }
        format!("(module {PRELUDE} {functions} {})", self.more)
    }

    fn load(&self) -> Component {
        self.load_into(&ENGINE)
    }

    fn load_into(&self, engine: &Engine) -> Component {
        let encoded = Component::encode(&typed_module(&self.module(), CONTRACT, self.world())).unwrap();
        Component::load(engine, &encoded).unwrap()
    }

    fn world(&self) -> &'static str {
        match (self.watch, self.migrate) {
            (_, Some(_)) => "migrating-guest",
            (Some(_), None) => "watching-guest",
            (None, None) => "machine-guest",
        }
    }
}

const CONTRACT: &str = include_str!("../../../../wit/machine.wit");

/// Makes a core module with embedded component type, as a compiler does.
fn typed_module(text: &str, contract: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("machine.wit", contract).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

/// A store in memory, whose disk can fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Map {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    broken: bool,
}

impl Map {
    fn check(&self) -> Result<(), StoreFault> {
        if self.broken { Err(StoreFault("the disk is gone".to_owned())) } else { Ok(()) }
    }

    fn keys(&self, range: Range<'_>) -> Vec<Vec<u8>> {
        let end = range.end.map_or(Bound::Unbounded, Bound::Excluded);
        self.rows.range::<[u8], _>((Bound::Included(range.start), end)).map(|(key, _)| key.clone()).collect()
    }
}

impl Rows for Map {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        self.check()?;
        Ok(self.rows.get(key).cloned())
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        self.check()?;
        let mut keys = self.keys(range);
        if reverse {
            keys.reverse();
        }
        let mut page = Page::default();
        for (at, key) in keys.iter().enumerate() {
            page.more = limit != 0 && at >= limit as usize;
            if page.more || !page.push(key, &self.rows[key]) {
                break;
            }
        }
        Ok(page)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        self.check()?;
        self.rows.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.check()?;
        self.rows.remove(key);
        Ok(())
    }

    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault> {
        self.check()?;
        let limit = if limit == 0 { usize::MAX } else { limit as usize };
        let keys: Vec<_> = self.keys(range).into_iter().take(limit).collect();
        keys.iter().for_each(|key| drop(self.rows.remove(key)));
        Ok(keys.len() as u64)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn map(store: Box<dyn Rows>) -> Map {
    *store.into_any().downcast().unwrap()
}

fn call(request: &[u8]) -> Call<'_> {
    let context = Context { index: 7, position: 2, time_ms: 1_000 };
    Call { context, method: "test.Service/Method", request, caller: "alice", fuel: Limits::default().fuel_per_command }
}

/// Runs the guest's snapshot in a slot for snapshots.
fn snapshot_of(component: &Component, state: Map, sink: impl SnapshotSink) -> Result<Verdict, HostFault> {
    let place = snapshot_slot(component).unwrap();
    snapshot(component, &place, Context::default(), Box::new(state), Box::new(sink))
}

/// Runs the guest's restore into an empty store, in a slot for restores.
fn restore_of(component: &Component, source: impl SnapshotSource) -> (Result<Verdict, HostFault>, Map) {
    let place = restore_slot(component).unwrap();
    let (verdict, store) = restore(component, &place, Context::default(), Box::new(Map::default()), Box::new(source));
    (verdict, map(store))
}

/// Applies one request in a fresh instance to an empty store.
fn apply(body: &str, request: &[u8]) -> (Verdict, Map) {
    apply_to(Map::default(), body, request)
}

fn apply_to(before: Map, body: &str, request: &[u8]) -> (Verdict, Map) {
    let component = Text { apply: body, ..Text::default() }.load();
    let (verdict, store) = ApplyInstance::new(&component).unwrap().apply(call(request), Box::new(before));
    (verdict.unwrap(), map(store))
}

fn reason(verdict: Verdict) -> Reason {
    match verdict {
        Verdict::Failed(failure) => failure.reason,
        other => panic!("expected a failure, got {other:?}"),
    }
}
