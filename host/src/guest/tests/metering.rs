//! Tests of what the guest's own code meters: where a recursion ends, what tells a full stack from
//! a guest's own trap, and what the rewriting leaves as it was. `sizes.rs` has the tests of prices
//! by size. `random.rs` compares programs with and without the metering.

use wasmparser::Validator;
use wasmtime::component::Linker;
use wasmtime::{Store, Trap, WasmBacktrace};

use super::corpus::depth::{APPLY_BYTES, DEEP_BYTES, kept, kept_vectors, last_level};
use super::corpus::on_a_deep_stack;
use super::*;

const DEEP: &str = "(func $deep (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1))) (local.get 0)))
      (else (i32.const 0))))";

fn plain_engine() -> Engine {
    Engine::new(&Limits { semantics: 4, ..Limits::default() }).unwrap()
}

/// Runs one command, and returns its verdict without the detail, which may differ.
fn verdict_of(engine: &Engine, text: &Text<'_>) -> Verdict {
    let component = text.load_into(engine);
    let (verdict, _) = ApplyInstance::new(&component).unwrap().apply(call(b""), Box::new(Map::default()));
    match verdict.unwrap() {
        Verdict::Failed(failure) => Verdict::Failed(Failure { detail: String::new(), ..failure }),
        other => other,
    }
}

fn failed(reason: Reason) -> Verdict {
    Verdict::Failed(Failure { reason, detail: String::new() })
}

/// Calls `$deep` so often within itself.
fn deep(levels: u64) -> Verdict {
    let apply = format!(
        "(i32.const 512) (call $deep (i32.const {levels})) i32.store (call $reply (i32.const 512) (i32.const 4))"
    );
    on_a_deep_stack(move || verdict_of(&ENGINE, &Text { apply: &apply, more: DEEP, ..Text::default() }))
}

#[test]
fn a_recursion_ends_at_the_byte() {
    let last = last_level(DEEP_BYTES);
    assert_eq!((APPLY_BYTES, DEEP_BYTES, last), (144, 100, 20_969));
    assert!(matches!(deep(last), Verdict::Reply(_)));
    assert_eq!(deep(last + 1), failed(Reason::Stack));
}

#[test]
fn a_smaller_stack_ends_it_earlier() {
    let limits = Limits { wasm_stack_bytes: APPLY_BYTES + 3 * DEEP_BYTES, ..Limits::default() };
    let engine = Engine::new(&limits).unwrap();
    for (levels, fits) in [(2, true), (3, false)] {
        let apply = format!("(i32.const 512) (call $deep (i32.const {levels})) i32.store (call $ok)");
        let verdict = verdict_of(&engine, &Text { apply: &apply, more: DEEP, ..Text::default() });
        assert_eq!(matches!(verdict, Verdict::Reply(_)), fits, "{levels}: {verdict:?}");
    }
}

/// The function that tells of a full stack is the last one, and so is the guest's own before that.
#[test]
fn a_guest_s_own_trap_is_no_full_stack() {
    for more in ["(func $last unreachable)", "(func $last (call $inner)) (func $inner unreachable)"] {
        for engine in [&*ENGINE, &plain_engine()] {
            let text = Text { apply: "(call $last) (call $ok)", more, ..Text::default() };
            assert_eq!(verdict_of(engine, &text), failed(Reason::Trap), "{more}");
        }
    }
}

#[test]
fn a_start_function_without_end_is_refused_and_ends_no_process() {
    let more = "(func $endless (call $endless)) (start $endless)";
    let encoded =
        Component::encode(&typed_module(&Text { more, ..Text::default() }.module(), CONTRACT, "machine-guest"));
    let refused = Component::load(&ENGINE, &encoded.unwrap()).err().expect("it has no instance");
    assert!(matches!(refused, LoadError::Instantiate(_)), "{refused}");
}

#[test]
fn what_is_rewritten_is_valid_and_keeps_its_names_and_sections() {
    for golden in [golden::KV, golden::COUNTER, golden::WORDS, golden::TALLY] {
        let form = depth::metered(&Limits::default(), golden).unwrap();
        Validator::new_with_features(features::PARSED_FEATURES).validate_all(&form).unwrap();
        let (before, after) = (Anatomy::of(golden).unwrap(), Anatomy::of(&form).unwrap());
        assert_eq!((before.imports, before.exports), (after.imports, after.exports));
        assert_eq!((before.descriptor, before.version), (after.descriptor, after.version));
        assert!(form.len() > golden.len());
        assert_eq!(depth::metered(&Limits::default(), golden).unwrap(), form, "the same bytes everywhere");
        let component = Component::load(&ENGINE, golden).unwrap();
        assert_eq!((component.hash(), &component.encoded()[..]), (*blake3::hash(golden).as_bytes(), golden));
    }
}

/// Two modules that call each other. Each counts its own frames, up to a whole stack.
const TWO_MODULES: &str = r#"(component
    (core module $a
      (type $t (func (param i32) (result i32)))
      (table (export "t") 1 funcref)
      (func (export "f") (type $t) (call_indirect (type $t) (local.get 0) (i32.const 0))))
    (core module $b
      (type $t (func (param i32) (result i32)))
      (import "a" "t" (table 1 funcref))
      (import "a" "f" (func $f (type $t)))
      (func $g (type $t) (i32.add (call $f (local.get 0)) (i32.const 1)))
      (elem (i32.const 0) $g))
    (core instance $ia (instantiate $a))
    (core instance $ib (instantiate $b (with "a" (instance $ia))))
    (func (export "run") (param "n" u32) (result u32) (canon lift (core func $ia "f"))))"#;

/// Calls `run` of a component, and checks that the metered stack ended it, and not the native one.
fn ends_by_the_metered_stack(name: &str, component: &str) {
    let component = component.to_owned();
    let (is_trap, is_used_up, shown) = on_a_deep_stack(move || {
        let limits = Limits::default();
        let engine = engine::without_pool(&limits).unwrap();
        let form = depth::metered(&limits, &wat::parse_str(component).unwrap()).unwrap();
        let component = wasmtime::component::Component::new(&engine, form).unwrap();
        let error = error_of_run(&engine, &component);
        let is_trap = matches!(error.downcast_ref(), Some(Trap::UnreachableCodeReached));
        let is_used_up = error.downcast_ref::<WasmBacktrace>().is_some_and(depth::is_used_up);
        (is_trap, is_used_up, format!("{error:#}"))
    });
    assert!(is_trap && is_used_up, "{name}: {shown}");
}

/// Calls `run` of a component that ends by a trap.
fn error_of_run(engine: &wasmtime::Engine, component: &wasmtime::component::Component) -> wasmtime::Error {
    let mut store = Store::new(engine, ());
    store.set_fuel(u64::MAX / 2).unwrap();
    store.set_epoch_deadline(u64::MAX / 2);
    let instance = Linker::new(engine).instantiate(&mut store, component).unwrap();
    let run = instance.get_typed_func::<(u32,), (u32,)>(&mut store, "run").unwrap();
    run.call(&mut store, (1,)).unwrap_err()
}

/// wasmtime makes modules of its own where components call each other. Their last function may trap
/// for its own reasons.
#[test]
fn a_trap_in_the_last_function_of_another_module_is_no_full_stack() {
    let trapping = r#"(component
        (core module $m (func (export "run") (param i32) (result i32) unreachable))
        (core instance $i (instantiate $m))
        (func (export "run") (param "n" u32) (result u32) (canon lift (core func $i "run"))))"#;
    let engine = engine::without_pool(&Limits::default()).unwrap();
    let component = wasmtime::component::Component::new(&engine, wat::parse_str(trapping).unwrap()).unwrap();
    let error = on_a_deep_stack(move || error_of_run(&engine, &component));
    assert!(matches!(error.downcast_ref(), Some(Trap::UnreachableCodeReached)), "{error:#}");
    let trace: &WasmBacktrace = error.downcast_ref().unwrap();
    assert!(!depth::is_used_up(trace), "{error:#}");
}

/// A guest may give any name to a function that it does not have.
#[test]
fn a_guest_cannot_name_the_added_function() {
    let text = r#"(component (core module $m (func $last (call $last))
        (@custom "name" (after last) "\01\08\01\01\05guest"))
        (core instance (instantiate $m)))"#;
    let form = depth::metered(&Limits::default(), &wat::parse_str(text).unwrap()).unwrap();
    let position = |name: &[u8]| form.windows(name.len()).rposition(|window| window == name);
    let (own, added) = (position(b"guest").unwrap(), position(b"lockstep-stack-used-up").unwrap());
    assert!(own < added, "the name that counts is the last one");
}

#[test]
fn modules_that_call_each_other_reach_the_metered_end_too() {
    ends_by_the_metered_stack("two modules", TWO_MODULES);
}

/// Makes a component of a ring of modules, each with an instance of its own. The function of each
/// keeps many products in its frame while it calls that of the next.
fn ring(links: u32) -> String {
    let products = |to: u32| -> String {
        let one = |k: u32| {
            format!("(local.set 1 (i32.xor (local.get 1) (i32.mul (local.get 0) (i32.const {}))))\n", 2 * k + 3)
        };
        (0..to).map(one).collect()
    };
    let kept = products(500);
    let mut parts = String::from(
        r#"(core module $first
            (type $t (func (param i32) (result i32)))
            (table (export "t") 1 funcref)
            (func (export "f") (type $t) (call_indirect (type $t) (local.get 0) (i32.const 0))))
        (core instance $i0 (instantiate $first))
        "#,
    );
    parts += &format!(
        r#"(core module $link
            (import "next" "f" (func $next (param i32) (result i32)))
            (func (export "f") (param i32) (result i32) (local i32)
                {kept} (local.set 1 (call $next (i32.add (local.get 0) (local.get 1)))) {kept} (local.get 1)))
        "#
    );
    for link in 1..=links {
        parts += &format!("(core instance $i{link} (instantiate $link (with \"next\" (instance $i{}))))\n", link - 1);
    }
    format!(
        r#"(component {parts}
        (core module $last
            (type $t (func (param i32) (result i32)))
            (import "first" "t" (table 1 funcref))
            (import "next" "f" (func $f (type $t)))
            (elem (i32.const 0) $f))
        (core instance (instantiate $last (with "first" (instance $i0)) (with "next" (instance $i{links}))))
        (func (export "run") (param "n" u32) (result u32) (canon lift (core func $i{links} "f"))))"#
    )
}

/// Each instance had a whole stack, so that many of them could fill the native one first.
#[test]
fn many_instances_share_the_stack() {
    for links in [3, 8, 38] {
        ends_by_the_metered_stack(&format!("{links} links"), &ring(links));
    }
}

/// The native frames of these functions were a hundred times as large as the metered ones, because
/// only parameters, locals and operands counted: the native stack was full first, at a depth that
/// differs between builds. Now every operator counts.
#[test]
fn values_that_a_compiler_keeps_across_a_call_do_not_fill_the_native_stack_first() {
    for products in [500, 2_000] {
        let functions =
            [("added", kept(products, false)), ("stored", kept(products, true)), ("vectors", kept_vectors(products))];
        for (name, function) in functions {
            let component = format!(
                r#"(component
                (core module $m (memory 1) {function} (export "run" (func $kept)))
                (core instance $i (instantiate $m))
                (func (export "run") (param "n" u32) (result u32) (canon lift (core func $i "run"))))"#
            );
            ends_by_the_metered_stack(&format!("{products} {name}"), &component);
        }
    }
}
