//! Tests of what is admitted, what is refused, and what the message says.

use super::*;

/// Returns the error only, because a component cannot be printed.
fn refused(bytes: &[u8]) -> LoadError {
    let loaded = Component::encode(bytes).and_then(|encoded| Component::load(&ENGINE, &encoded));
    loaded.err().expect("it must not be let in")
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn text_is_not_wasm() {
    assert!(matches!(refused(b"#!/bin/sh"), LoadError::NotWasm));
    assert!(matches!(refused(b""), LoadError::NotWasm));
}

#[test]
fn cut_off_file_is_damaged() {
    let whole = typed_module(&Text::default().module(), CONTRACT, "machine-guest");
    assert!(matches!(refused(&whole[..whole.len() / 2]), LoadError::Damaged(_)));
    let encoded = Component::encode(&whole).unwrap();
    assert!(matches!(refused(&encoded[..encoded.len() / 2]), LoadError::Damaged(_)));
}

#[test]
fn forbidden_imports_are_named_with_advice() {
    let cases = [
        (r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#, "wasi:cli/environment@0.2.0", "no WASI"),
        (r#"(component (import "acme:clock/now@1.0.0" (instance)))"#, "acme:clock/now@1.0.0", "only the interfaces"),
        (
            r#"(component (import "lockstep:machine/clock@1.0.0" (instance)))"#,
            "lockstep:machine/clock@1.0.0",
            "only the interfaces",
        ),
        (
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#,
            "wasi_snapshot_preview1#fd_write",
            "wasm32-unknown-unknown",
        ),
        (
            r#"(module (import "__wbindgen_placeholder__" "__wbindgen_throw" (func)))"#,
            "__wbindgen_placeholder__#__wbindgen_throw",
            "browsers",
        ),
        (r#"(module (import "env" "malloc" (func)))"#, "env#malloc", "undefined at link time"),
    ];
    for (text, name, advice) in cases {
        let error = refused(&component(text));
        assert!(matches!(&error, LoadError::ForbiddenImport { names, .. } if names == &[name]), "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains(advice), "{error}");
    }
}

#[test]
fn other_major_version_is_refused() {
    let error = refused(&component(r#"(component (import "lockstep:machine/store@2.0.0" (instance)))"#));
    assert!(matches!(&error, LoadError::WrongVersion { found, .. } if found == "2.0.0"), "{error}");

    let newer = CONTRACT.replace("@1.0.0", "@2.0.0");
    let module = Text::default().module().replace("@1.0.0", "@2.0.0");
    let error = refused(&typed_module(&module, &newer, "machine-guest"));
    assert!(matches!(&error, LoadError::WrongVersion { wanted, .. } if wanted == "1.0.0"), "{error}");
}

#[test]
fn newer_minor_version_is_accepted_while_its_types_fit() {
    let newer = CONTRACT.replace("@1.0.0", "@1.4.0");
    let module = Text::default().module().replace("@1.0.0", "@1.4.0");
    let encoded = Component::encode(&typed_module(&module, &newer, "machine-guest")).unwrap();
    Component::load(&ENGINE, &encoded).unwrap();
}

#[test]
fn component_without_machine_is_refused() {
    let error = refused(&component("(component)"));
    assert!(
        matches!(&error, LoadError::MissingExport { name } if name.contains("lockstep:machine/machine")),
        "{error}"
    );
}

#[test]
fn machine_of_other_types_is_refused() {
    let text = r#"(component
        (core module $m (func (export "f")))
        (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f")))
        (instance $machine (export "apply" (func $f)) (export "query" (func $f)) (export "snapshot" (func $f)) (export "restore" (func $f)))
        (export "lockstep:machine/machine@1.0.0" (instance $machine)))"#;
    assert!(matches!(refused(&component(text)), LoadError::Link(_)));
}

#[test]
fn a_module_that_lacks_a_function_is_told_which() {
    let text = Text::default().module();
    for function in ["snapshot", "restore"] {
        let lacking = text.replace(&format!("lockstep:machine/machine@1.0.0#{function}"), "another");
        let refused = Component::encode(&typed_module(&lacking, CONTRACT, "machine-guest")).unwrap_err().to_string();
        let wanted = format!("export a core function named lockstep:machine/machine@1.0.0#{function}");
        assert!(refused.contains(&wanted), "{refused}");
    }
}

#[test]
fn module_without_component_type_is_refused() {
    assert!(matches!(refused(&component("(module)")), LoadError::NoComponentType));
}

#[test]
fn guest_whose_start_never_ends_is_refused() {
    let more = "(func $forever (loop (br 0))) (start $forever)";
    let module = Text { more, ..Text::default() }.module();
    let error = refused(&typed_module(&module, CONTRACT, "machine-guest"));
    assert!(matches!(error, LoadError::Instantiate(_)), "{error}");
}

#[test]
fn guest_that_starts_with_too_much_memory_is_refused() {
    let module =
        Text::default().module().replace("(memory (export \"memory\") 2)", "(memory (export \"memory\") 2000)");
    let error = refused(&typed_module(&module, CONTRACT, "machine-guest"));
    assert!(matches!(error, LoadError::Slot { .. }), "{error}");
}

/// Such guests are only too large, so the message must not suggest that the file is of another
/// build.
#[test]
fn what_is_larger_than_a_slot_is_told_the_limits_of_the_profile() {
    let memory = Text::default().module().replace("(export \"memory\") 2)", "(export \"memory\") 1025)");
    let with = |more: &str| Text { more, ..Text::default() }.module();
    let cases = [
        (memory, "minimum byte size of 67174400"),
        (with(&"(table 1 funcref)".repeat(9)), "9"),
        (with("(table 65537 funcref)"), "65537"),
    ];
    for (module, reason) in cases {
        let error = refused(&typed_module(&module, CONTRACT, "machine-guest"));
        let text = error.to_string();
        assert!(matches!(error, LoadError::Slot { .. }), "{text}");
        assert!(
            text.contains("one memory of 64 MiB and 8 tables of 65536 elements") && text.contains(reason),
            "{text}"
        );
    }
}

#[test]
fn what_a_newer_contract_added_needs_a_newer_host() {
    let add = |text: &str, to: &str| {
        text.replace("@1.0.0", "@1.1.0").replacen(to, &format!("{to}\n    count: func() -> u64;"), 1)
    };
    let contract = add(CONTRACT, "interface store {");
    let import = r#"(import "lockstep:machine/store@1.1.0" "count" (func $count (result i64)))"#;
    let module =
        Text::default().module().replace("@1.0.0", "@1.1.0").replacen("(module", &format!("(module {import}"), 1);
    let error = refused(&typed_module(&module, &contract, "machine-guest"));
    assert!(matches!(&error, LoadError::Newer { found, .. } if found == "1.1.0"), "{error}");
    assert!(error.to_string().contains("needs a host that speaks 1.1.0"), "{error}");
}

#[test]
fn what_was_never_released_is_refused() {
    for version in ["1.0.0-rc.1", "1.0.0+here", "1", "1.0", "01.0.0-0"] {
        let text = format!(r#"(component (import "lockstep:machine/store@{version}" (instance)))"#);
        // A text that is not a version at all is not even a valid name.
        let Ok(bytes) = wat::parse_str(text) else { continue };
        let error = refused(&bytes);
        assert!(matches!(&error, LoadError::NoRelease { found, .. } if found == version), "{version}: {error}");
    }
}

#[test]
fn proposals_outside_the_list_are_refused() {
    let cases = [
        "(func $relaxed (result v128) (i32x4.relaxed_trunc_f32x4_s (v128.const i32x4 0 0 0 0)))",
        "(func $tail (return_call $tail))",
        "(memory $second 1)",
        "(tag $exception)",
        "(type $structure (struct))",
        "(memory $wide i64 1)",
        "(memory $shared 1 1 shared)",
    ];
    for more in cases {
        let module = Text { more, ..Text::default() }.module();
        let error = refused(&typed_module(&module, CONTRACT, "machine-guest"));
        assert!(matches!(error, LoadError::Compile(_) | LoadError::Encode(_)), "{more}: {error}");
    }
}

#[test]
fn simd_within_the_baseline_is_accepted() {
    let more = "(func (export \"simd\") (result v128) (i8x16.swizzle (i8x16.popcnt (v128.const i32x4 0 1 2 3)) (f32x4.nearest (v128.const i32x4 0 0 0 0))))";
    Text { more, ..Text::default() }.load();
}

#[test]
fn encoding_a_component_changes_nothing() {
    let module = typed_module(&Text::default().module(), CONTRACT, "machine-guest");
    let encoded = Component::encode(&module).unwrap();
    assert_eq!(Component::encode(&encoded).unwrap(), encoded);
    assert_eq!(Component::encode(&module).unwrap(), encoded);
    let component = Component::load(&ENGINE, &encoded).unwrap();
    assert_eq!(component.hash(), *blake3::hash(&encoded).as_bytes());
    assert_eq!(component.encoded(), &encoded);
}

#[test]
fn descriptor_sections_are_found_wherever_they_are() {
    let more = r#"(@custom "lockstep.descriptor" "one") (@custom "lockstep.descriptor" "two")"#;
    assert_eq!(Text { more, ..Text::default() }.load().descriptor(), Some(&b"onetwo"[..]));
    assert_eq!(Text::default().load().descriptor(), None);
}

#[test]
fn watcher_is_probed() {
    assert!(!Text::default().load().has_watcher());
    assert!(Text { watch: Some("(i32.const 256)"), ..Text::default() }.load().has_watcher());
}

#[test]
fn migrator_is_probed_and_its_type_checked() {
    assert!(!Text { watch: Some("unreachable"), ..Text::default() }.load().has_migrator());
    let text = Text { migrate: Some("unreachable"), ..Text::default() };
    assert!(text.load().has_migrator() && text.load().has_watcher());

    let other = CONTRACT.replace("-> result<migration, status>", "-> result<_, status>");
    let error = refused(&typed_module(&text.module(), &other, text.world()));
    assert!(matches!(error, LoadError::Link(_)), "{error}");
    let lacking = text.module().replace("migrator@1.0.0#migrate", "another");
    let error = refused(&typed_module(&lacking, CONTRACT, text.world()));
    assert!(error.to_string().contains("lockstep:machine/migrator@1.0.0#migrate"), "{error}");
}

#[test]
fn the_version_is_found_wherever_it_is_declared() {
    let one = r#"(@custom "lockstep.version" "2.1 rc")"#;
    assert_eq!(Text::default().load().version(), "");
    assert_eq!(Text { more: one, ..Text::default() }.load().version(), "2.1 rc");
    let twice = format!("{one} {one}");
    let module = typed_module(&Text { more: &twice, ..Text::default() }.module(), CONTRACT, "machine-guest");
    let encoded = Component::encode(&module).unwrap();
    assert_eq!(Component::load(&ENGINE, &encoded).unwrap().version(), "2.1 rc");
    let checked = Component::check(&module).unwrap();
    assert_eq!((checked.version.as_str(), checked.has_migrator), ("2.1 rc", false));
    let packed = with_version(&component("(component)"), "3").unwrap();
    assert_eq!(Anatomy::of(&packed).unwrap().version, "3");
}

#[test]
fn versions_that_nobody_can_read_are_refused() {
    let long = "1".repeat(65);
    let declared = |text: &str| format!(r#"(@custom "lockstep.version" "{text}")"#);
    let cases = [
        (declared("1") + &declared("2"), "differs between two of its sections"),
        (declared(&long), "has 65 bytes"),
        (declared(r"2\0a"), r#"is no printable ASCII: "2\n""#),
        (declared(r"\c3\bc"), "is no printable ASCII"),
        (declared(r"\ff"), "is no printable ASCII"),
    ];
    for (more, reason) in &cases {
        let module = typed_module(&Text { more, ..Text::default() }.module(), CONTRACT, "machine-guest");
        let text = refused(&module).to_string();
        assert!(text.contains(reason) && text.contains("guest pack --version"), "{more}: {text}");
        let anatomy = Anatomy::of(&module).unwrap();
        assert!(anatomy.version.is_empty() && matches!(anatomy.refused, Some(LoadError::Version(_))), "{more}");
    }
    let longest = declared(&"1".repeat(64));
    assert_eq!(Text { more: &longest, ..Text::default() }.load().version().len(), 64);
}

#[test]
fn more_than_a_node_hands_on_is_refused_before_it_is_read() {
    let mut huge = vec![0; crate::types::COMPONENT_BYTES_MAX + 1];
    let header = component("(component)");
    huge[..header.len()].copy_from_slice(&header);
    let error = Component::load(&ENGINE, &huge).err().unwrap();
    assert!(matches!(error, LoadError::TooLarge { .. }), "{error}");
}

/// Without the limit, inspecting fifty thousand nested components takes 22 seconds.
#[test]
fn components_within_components_end_somewhere() {
    let nested = |depth: usize| format!("{}{}", "(component ".repeat(depth), ")".repeat(depth));
    assert!(matches!(refused(&component(&nested(64))), LoadError::MissingExport { .. }));
    let error = refused(&component(&nested(65)));
    assert!(matches!(error, LoadError::Nested) && error.to_string().contains("more than 64 deep"), "{error}");
}

#[test]
fn a_file_is_taken_apart_also_when_it_is_refused() {
    let module = typed_module(&Text::default().module(), CONTRACT, "machine-guest");
    let good = Anatomy::of(&module).unwrap();
    assert_eq!(good.encoded, Some(Component::encode(&module).unwrap()));
    assert_eq!(good.contract.as_deref(), Some("1.0.0"));
    assert!(good.exports.contains(&"lockstep:machine/machine@1.0.0".to_owned()), "{:?}", good.exports);
    assert!(good.refused.is_none() && !good.has_watcher && !good.has_migrator);
    let wasi = Anatomy::of(&component(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#)).unwrap();
    assert_eq!(wasi.imports, ["wasi:cli/environment@0.2.0"]);
    assert!(matches!(wasi.refused, Some(LoadError::ForbiddenImport { .. })));
    let plain = Anatomy::of(&component("(module)")).unwrap();
    assert!(plain.encoded.is_none() && matches!(plain.refused, Some(LoadError::NoComponentType)));
    assert!(matches!(Anatomy::of(b"text"), Err(LoadError::NotWasm)));
}
