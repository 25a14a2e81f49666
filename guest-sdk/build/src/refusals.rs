//! Tests legal `.proto` files that are refused, and the exact words of each refusal: where, why,
//! and what to write instead.

use std::fs;

use super::generate;

/// Returns the error for `files`. The first file is the guest's own. Places name the files as they
/// are imported.
fn said(files: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let error =
        generate(&[directory.path().join(files[0].0)], &[directory.path()]).map(|output| output.rust).unwrap_err();
    error.to_string().replace(&format!("{}/", directory.path().display()), "")
}

/// The rows are declarations of a package `app`, from line 2 on.
#[test]
fn each_is_refused_with_its_place_and_what_to_write() {
    const RENAME: &str = "rename one of them (requests carry the names of services and methods only)";
    const NONE: &str = "its name has neither a letter nor a digit, so it has none in Rust: rename it";
    let alike = |place: &str, what: &str, rust: &str, first: &str| {
        format!("app.proto:{place}: {what}: in Rust it is called `{rust}`, as {first} is: {RENAME}")
    };
    let nameless = |place: &str, what: &str| format!("app.proto:{place}: {what}: {NONE}");
    let rows = [
        ("enum Fb { A = 0; }\nenum FB { B = 0; }", alike("3:1", "enum app.FB", "Fb", "enum app.Fb (app.proto:2:1)")),
        (
            "message order_line {}\nmessage OrderLine {}",
            alike("3:1", "message app.OrderLine", "OrderLine", "message app.order_line (app.proto:2:1)"),
        ),
        ("message Map {}\nenum map { A = 0; }", alike("3:1", "enum app.map", "Map", "message app.Map (app.proto:2:1)")),
        (
            "message M {\n message stock_ {}\n message Stock {} }",
            alike("4:2", "message app.M.Stock", "Stock", "message app.M.stock_ (app.proto:3:2)"),
        ),
        (
            "message M { string fooBar = 1;\n oneof foo_bar { string a = 2; } }",
            alike("3:2", "oneof app.M.foo_bar", "foo_bar", "field app.M.fooBar (app.proto:2:13)"),
        ),
        (
            "message M { oneof fooBar { string a = 1; }\n oneof FooBar { string b = 2; } }",
            alike("3:2", "oneof app.M.FooBar", "foo_bar", "oneof app.M.fooBar (app.proto:2:13)"),
        ),
        (
            "enum K { K_A = 0;\n A = 1; }",
            alike("3:2", "value A of enum app.K", "A", "value K_A of enum app.K (app.proto:2:10)"),
        ),
        (
            "enum K { A = 0; }\nmessage M { K foo = 1;\n optional int32 set_foo = 2; }",
            alike("4:2", "field app.M.set_foo", "set_foo", "field app.M.foo (app.proto:3:13)"),
        ),
        (
            "message M {}\nservice S { rpc _(M) returns (M);\n rpc __(M) returns (M); }",
            alike("4:2", "method app.S.__", "__", "method app.S._ (app.proto:3:13)"),
        ),
        ("message __ {}", nameless("2:1", "message app.__")),
        ("message M {\n string _ = 1; }", nameless("3:2", "field app.M._")),
        ("enum K { A = 0;\n __ = 1; }", nameless("3:2", "value __ of enum app.K")),
        (
            "enum K { A = 0; }\nmessage M {\n map<string, K> type = 1; }",
            "app.proto:4:2: field app.M.type: a map of enums cannot be called `type` in Rust: rename it".to_owned(),
        ),
        (
            "message Str { enum K { A = 0; } }",
            "app.proto:2:1: message app.Str: in Rust it makes a module `str`, which hides the type of that name from what is \
             declared beside it: rename it, or declare nothing within it"
                .to_owned(),
        ),
        (
            "message _1 { enum K { A = 0; } }",
            "app.proto:2:1: message app._1: what is declared within it stands in a module `_1` in Rust, as it is called itself: rename the \
             message, or declare nothing within it"
                .to_owned(),
        ),
    ];
    for (text, words) in rows {
        assert_eq!(said(&[("app.proto", &format!("syntax = \"proto3\"; package app;\n{text}"))]), words);
    }
}

#[test]
fn packages_files_and_syntaxes_are_refused_likewise() {
    let proto3 = |text: &str| format!("syntax = \"proto3\";\n{text}");
    let rows = [
        (
            proto3("package google.protobuf.app;\nmessage M {}"),
            String::new(),
            "a.proto:2:1: package google.protobuf.app: google.protobuf is the package of what comes with protobuf, whose types the SDK has \
             ready: choose another one",
        ),
        (
            proto3("package app._.v1;\nmessage M {}"),
            String::new(),
            "a.proto:2:1: package app._.v1: its name has neither a letter nor a digit, so it has none in Rust: rename it",
        ),
        (
            proto3("package app; import \"lib/b.proto\";\nmessage Order { enum K { A = 0; } }"),
            proto3("package app.order; message M {}"),
            "a.proto:3:1: message app.Order: what is declared within it stands in a module `order` in Rust, as package app.order \
             (lib/b.proto:2:1) does: rename the message, or declare nothing within it",
        ),
        (
            proto3("package app.str; import \"lib/b.proto\";\nmessage M {}"),
            proto3("package app; message M {}"),
            "a.proto:2:1: package app.str: in Rust it makes a module `str`, which hides the type of that name from what is declared beside \
             it: rename it",
        ),
        (
            proto3("package App; import \"lib/b.proto\";\nmessage M {}"),
            proto3("package app; message M {}"),
            "a.proto:3:1: message App.M: in Rust it is called `M`, as message app.M (lib/b.proto:2:14) is: rename one of them (requests \
             carry the names of services and methods only)",
        ),
        (
            "syntax = \"proto2\";\nmessage M { required N n = 1; }\nmessage N { required M m = 1; }".to_owned(),
            String::new(),
            "a.proto:2:1: message M: it requires itself, so no message of it has an end: make one of the fields that lead back to it optional",
        ),
        (
            "syntax = \"proto2\";\nmessage M { optional int32 Foo = 1;\n optional int32 foo = 2; }".to_owned(),
            String::new(),
            "a.proto:3:2: field M.foo: in Rust it is called `foo`, as field M.Foo (a.proto:2:13) is: rename one of them (requests carry the \
             names of services and methods only)",
        ),
        (
            "syntax = \"proto2\";\nmessage M { oneof o { int32 Foo = 1;\n int32 foo = 2; } }".to_owned(),
            String::new(),
            "a.proto:3:2: field M.foo: in Rust it is called `Foo`, as field M.Foo (a.proto:2:23) is: rename one of them (requests carry the \
             names of services and methods only)",
        ),
    ];
    for (own, imported, words) in rows {
        assert_eq!(said(&[("a.proto", &own), ("lib/b.proto", &imported)]), words);
    }
}

#[test]
fn an_edition_is_told_which_syntax_to_write() {
    let hint = "editions are not understood here\n  hint: write `syntax = \"proto3\";` in place of the edition, `optional` before each singular field \
                that tells unset from zero, and no `features`; what is sent stays the same, but for features that change the encoding";
    let edition = "// Mine.\nedition = \"2023\";\nmessage M {}";
    assert_eq!(said(&[("a.proto", edition)]), format!("a.proto:2:1: {hint}"));
    let importing = "syntax = \"proto3\";\nimport \"b.proto\";";
    assert_eq!(said(&[("a.proto", importing), ("b.proto", edition)]), format!("b.proto:2:1: {hint}"));
}
