//! Tests what the generator makes of small `.proto` files, and what it refuses.

use std::collections::BTreeMap;

use prost_reflect::DescriptorPool;

use super::*;

/// Compiles `body` as one file that imports the options.
fn compile_text(header: &str, body: &str) -> Result<Output, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.proto");
    let text = format!("syntax = \"proto3\";\n{header}\nimport \"lockstep/options.proto\";\n{body}");
    fs::write(&path, text).unwrap();
    generate(&[&path], &[directory.path()])
}

fn kinds(body: &str) -> Result<BTreeMap<String, Kind>, Error> {
    let output = compile_text("package app.v1;", body)?;
    let pool = DescriptorPool::decode(output.descriptor.as_slice()).unwrap();
    rules::method_kinds(&pool, &["app.proto".to_owned()])
}

fn refusal(body: &str) -> String {
    kinds(body).unwrap_err().to_string()
}

const MESSAGES: &str = "message Q { bool fresh = 1; string text = 2; } message R {}";

#[test]
fn kind_comes_from_the_option_then_idempotency_then_streaming() {
    let kinds = kinds(&format!(
        "{MESSAGES} service S {{
           rpc Plain(Q) returns (R);
           rpc Safe(Q) returns (R) {{ option idempotency_level = NO_SIDE_EFFECTS; }}
           rpc Told(Q) returns (R) {{ option (lockstep.method) = {{ kind: QUERY, consistency_field: \"fresh\" }}; }}
           rpc Forced(Q) returns (R) {{
             option idempotency_level = NO_SIDE_EFFECTS;
             option (lockstep.method).kind = COMMAND;
           }}
           rpc Flow(Q) returns (stream R);
         }}"
    ))
    .unwrap();
    let kind = |name: &str| kinds[&format!("app.v1.S/{name}")];
    assert_eq!(kind("Plain"), Kind::Command);
    assert_eq!(kind("Safe"), Kind::Query);
    assert_eq!(kind("Told"), Kind::Query);
    assert_eq!(kind("Forced"), Kind::Command);
    assert_eq!(kind("Flow"), Kind::Watch);
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let one = |method: &str| refusal(&format!("{MESSAGES} service S {{ {method} }}"));
    let client = one("rpc Up(stream Q) returns (R);");
    assert!(client.contains("/app.proto:4:73: app.v1.S/Up: client streaming"), "{client}");
    let option = |rules: &str, reply: &str| {
        one(&format!("rpc M(Q) returns ({reply}) {{ option (lockstep.method) = {{ {rules} }}; }}"))
    };
    assert!(option("kind: COMMAND", "stream R").contains("a command has one reply"));
    assert!(option("kind: QUERY", "stream R").contains("a query has one reply"));
    assert!(option("kind: WATCH", "R").contains("needs a reply of `stream`"));
    assert!(option("kind: COMMAND consistency: LOCAL", "R").contains("always ordered"));
    assert!(option("kind: QUERY consistency_field: \"text\"", "R").contains("is not a bool"));
    assert!(option("kind: QUERY consistency_field: \"nope\"", "R").contains("not a field of app.v1.Q"));
    let both = option("kind: QUERY consistency: LOCAL consistency_field: \"fresh\"", "R");
    assert!(both.contains("exclude each other"), "{both}");
}

#[test]
fn trait_carries_receivers_comments_and_full_names() {
    let output = compile_text(
        "package app.v1;",
        &format!(
            "{MESSAGES}
             // Counts things.
             service Counter {{
               // Adds one.
               rpc Add(Q) returns (R);
               rpc Flow(Q) returns (stream R);
             }}"
        ),
    )
    .unwrap();
    // The code is formatted; compare without line breaks.
    let rust = output.rust.split_whitespace().collect::<Vec<_>>().join(" ");
    let has = |text: &str| assert!(rust.contains(text), "{text} not in\n{}", output.rust);
    has("#[cfg_attr(not(doctest), doc = \" Counts things.\")]");
    has("pub trait Counter: ::lockstep_guest::State {");
    has("#[cfg_attr(not(doctest), doc = \" Adds one.\")]");
    has("fn add( &mut self, cx: &::lockstep_guest::Command, request: Q, ) -> ::lockstep_guest::Reply<R>;");
    has(
        "fn flow( &self, cx: &::lockstep_guest::Watch, request: Q, ) -> ::lockstep_guest::Reply<::lockstep_guest::Step<R>>;",
    );
    has("Method::command( \"app.v1.Counter/Add\"");
    has("Method::watch( \"app.v1.Counter/Flow\"");
    has("pub use super::lockstep_proto::{app::v1::Counter, app::v1::Q, app::v1::R, app};");
}

#[test]
fn maps_are_ordered_and_nested_messages_are_values() {
    let output =
        compile_text("", "message Outer { map<string, Inner> by_name = 1; message Inner { uint64 n = 1; } }").unwrap();
    assert!(output.rust.contains("BTreeMap<"), "{}", output.rust);
    assert!(!output.rust.contains("HashMap<"));
    assert!(output.rust.contains("message_value!(Outer, \"Outer\");"));
    assert!(output.rust.contains("message_value!(outer::Inner, \"Outer.Inner\");"));
    assert!(!output.rust.contains("ByNameEntry"));
}

#[test]
fn descriptor_keeps_options_and_only_the_authors_comments() {
    let output = compile_text(
        "",
        &format!(
            "// Mine.\nservice S {{ rpc Ask(Q) returns (R) {{ option (lockstep.method).kind = QUERY; }} }} {MESSAGES}"
        ),
    )
    .unwrap();
    let pool = DescriptorPool::decode(output.descriptor.as_slice()).unwrap();
    assert_eq!(rules::method_kinds(&pool, &["app.proto".to_owned()]).unwrap()["S/Ask"], Kind::Query);
    for file in pool.files() {
        let has_comments =
            file.file_descriptor_proto().source_code_info.as_ref().is_some_and(|info| !info.location.is_empty());
        assert_eq!(has_comments, file.name() == "app.proto", "{}", file.name());
    }
}

#[test]
fn what_does_not_compile_is_said_with_its_place_and_a_hint() {
    let of = |body: &str| compile_text("", body).unwrap_err().to_string();
    let cases = [
        ("message M { Missing field = 1; }", "/app.proto:4:13: name 'Missing' is not defined", ""),
        ("\nmessage M {\n  string = 1;\n}", "/app.proto:6:10: expected", ""),
        (
            "message M {} service S { rpc A(M) returns (M) { option (lockstep.method) = { kind: COMAND }; } }",
            "/app.proto:4:",
            "hint: kind is COMMAND, QUERY or WATCH",
        ),
        (
            "message M {} service S { rpc A(M) returns (M) { option (lockstep.method).kind = COMAND; } }",
            "/app.proto:4:",
            "hint: kind is COMMAND, QUERY or WATCH",
        ),
        (
            "message M { google.protobuf.Timestamp at = 1; }",
            "/app.proto:4:",
            "hint: add `import \"google/protobuf/timestamp.proto\";`",
        ),
        ("import \"lost.proto\";", "/app.proto:4:1: import 'lost.proto' not found", "hint: looked in /"),
    ];
    for (body, place, hint) in cases {
        let told = of(body);
        assert!(told.contains(place) && told.contains(hint), "{body}: {told}");
    }
}

#[test]
fn options_that_are_not_imported_are_said_to_be_missing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.proto");
    let method = "rpc A(M) returns (M) { option (lockstep.method) = { kind: QUERY }; }";
    fs::write(&path, format!("syntax = \"proto3\";\nmessage M {{}}\nservice S {{\n  {method}\n}}")).unwrap();
    let told = generate(&[&path], &[directory.path()]).unwrap_err().to_string();
    assert!(told.contains("/app.proto:4:"), "{told}");
    assert!(told.contains("hint: add `import \"lockstep/options.proto\";`"), "{told}");
    let missing = generate(&["proto/none.proto"], &["proto"]).unwrap_err().to_string();
    assert!(missing.starts_with("there is no file /") && missing.ends_with("/proto/none.proto"), "{missing}");
}

#[test]
fn only_what_is_given_has_services_and_the_rest_is_marked_as_imported() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("syntax = \"proto3\";\n{text}")).unwrap();
        path
    };
    let blob = "package blob; message Blob {} service Blobs { rpc Up(stream Blob) returns (Blob); }";
    let blob = write("blob.proto", blob);
    let app = "package app; import \"blob.proto\"; service Shop { rpc Put(blob.Blob) returns (blob.Blob); }";
    let app = write("app.proto", app);
    let output = generate(&[&app], &[directory.path()]).unwrap();
    assert!(output.rust.contains("trait Shop") && output.rust.contains("struct Blob"), "{}", output.rust);
    assert!(!output.rust.contains("Blobs"), "{}", output.rust);
    // Field 8042 with field 1 set to true.
    let mark = [0xd2, 0xf6, 0x03, 2, 8, 1];
    let marks = |set: &[u8]| set.windows(mark.len()).filter(|window| *window == mark).count();
    assert_eq!(marks(&output.descriptor), 1);
    assert_eq!(descriptor(&[&app], &[directory.path()]).unwrap(), output.descriptor);
    // A file that is named is the guest's own.
    let refused = generate(&[&app, &blob], &[directory.path()]).unwrap_err().to_string();
    assert!(refused.contains("blob.Blobs/Up: client streaming"), "{refused}");
}

/// prost computes these names with functions of its own. Only one of them is public.
#[test]
fn names_are_those_that_prost_writes() {
    for name in
        ["Foo", "fooBar", "FOO_BAR", "XMLHttp2Request", "type", "Self", "super", "_1", "a__b", "gen", "Try", "x_"]
    {
        let prosts = prost_build::Module::from_protobuf_package_name(name);
        assert_eq!(prosts.parts().collect::<Vec<_>>(), [names::snake(name)], "{name}");
    }
}
