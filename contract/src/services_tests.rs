//! Tests which methods of a descriptor are served, as which kind, and which are refused.

use super::*;
use crate::method::Consistency;

/// Compiles `body` as a proto3 file that may use the method options.
fn compile(body: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let source = format!("syntax = \"proto3\";\nimport \"lockstep/options.proto\";\n{body}");
    std::fs::write(dir.path().join("app.proto"), source).unwrap();
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler = protox::Compiler::new([dir.path(), protos.as_ref()]).unwrap();
    compiler.include_imports(true).open_file("app.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

fn contract(body: &str) -> Result<Contract, ContractError> {
    Contract::new(Some(&compile(body)), true)
}

const MESSAGES: &str = "message M { bool fresh = 7; string text = 2; }";

#[test]
fn the_option_says_what_a_method_is() {
    let contract = contract(&format!(
        "package app; {MESSAGES} service S {{
           rpc Put(M) returns (M) {{ option (lockstep.method) = {{ kind: COMMAND }}; }}
           rpc Get(M) returns (M) {{ option (lockstep.method) = {{ kind: QUERY, consistency_field: \"fresh\" }}; }}
           rpc Stat(M) returns (M) {{ option (lockstep.method) = {{ kind: QUERY, consistency: LOCAL }}; }}
           rpc See(M) returns (stream M) {{ option (lockstep.method) = {{ kind: WATCH, consistency: LINEARIZABLE }}; }}
         }}"
    ))
    .unwrap();
    let kind = |name: &str| contract.method(name).unwrap().kind;
    assert_eq!(kind("app.S/Put"), Kind::Command);
    assert_eq!(kind("app.S/Get"), Kind::Query);
    assert_eq!(kind("app.S/See"), Kind::Watch);
    let get = contract.method("app.S/Get").unwrap();
    assert_eq!(get.consistency(&[0x38, 1]), Consistency::Linearizable);
    assert_eq!(get.consistency(&[]), Consistency::Local);
    assert_eq!(contract.method("app.S/Stat").unwrap().consistency(&[0x38, 1]), Consistency::Local);
    assert_eq!(contract.method("app.S/See").unwrap().consistency(&[]), Consistency::Linearizable);
    assert_eq!(contract.services(), ["app.S"]);
}

#[test]
fn without_options_the_shape_decides() {
    let contract = contract(&format!(
        "{MESSAGES} service S {{
           rpc Put(M) returns (M);
           rpc Get(M) returns (M) {{ option idempotency_level = NO_SIDE_EFFECTS; }}
           rpc See(M) returns (stream M);
         }}"
    ))
    .unwrap();
    let method = |name: &str| contract.method(name).unwrap().clone();
    assert_eq!(method("S/Put").kind, Kind::Command);
    assert_eq!((method("S/Get").kind, method("S/Get").consistency(&[])), (Kind::Query, Consistency::Linearizable));
    assert_eq!((method("S/See").kind, method("S/See").consistency(&[])), (Kind::Watch, Consistency::Local));
    assert!(contract.method("S/Nope").is_none());
    assert_eq!(contract.explain_unknown("S/Nope"), "service S has no such method; it has Get, Put, See");
    assert_eq!(contract.explain_unknown("X/Get"), "no service \"X\" here; this node serves S");
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let cases = [
        ("service S { rpc A(stream M) returns (M); }", "method S/A: client streaming"),
        (
            "service S { rpc A(M) returns (stream M) { option (lockstep.method) = { kind: COMMAND }; } }",
            "method S/A: a command has one reply",
        ),
        (
            "service S { rpc A(M) returns (M) { option (lockstep.method) = { kind: WATCH }; } }",
            "method S/A: a WATCH needs a reply of `stream`",
        ),
        ("service RaftManager { rpc A(M) returns (M); }", "service RaftManager would shadow"),
        ("service RaftAdmin { rpc A(M) returns (M); }", "service RaftAdmin would shadow"),
        (
            "service S { rpc A(M) returns (M) { option (lockstep.method) = { kind: QUERY, consistency_field: \"text\" }; } }",
            "method S/A: consistency_field `text` is not a bool",
        ),
        (
            "service S { rpc A(M) returns (M) { option (lockstep.method) = \
             { kind: QUERY, consistency: LOCAL, consistency_field: \"fresh\" }; } }",
            "exclude each other",
        ),
        (
            "service S { rpc A(M) returns (M) { option (lockstep.method) = { kind: COMMAND, consistency: LOCAL }; } }",
            "method S/A: consistency is for queries and watches",
        ),
        ("", "names no service"),
    ];
    for (body, expected) in cases {
        let error = contract(&format!("{MESSAGES} {body}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{body}: {error}");
    }
    let shadow = contract(&format!("package lockstep.v9; {MESSAGES} service S {{ rpc A(M) returns (M); }}"));
    assert!(matches!(shadow, Err(ContractError::Shadows { .. })));
}

#[test]
fn a_component_without_a_usable_descriptor_is_refused() {
    assert!(matches!(Contract::new(None, true), Err(ContractError::NoDescriptor)));
    assert!(matches!(Contract::new(Some(b"\xff\xff"), true), Err(ContractError::Undecodable(_))));
    let watch = compile(&format!("{MESSAGES} service S {{ rpc A(M) returns (stream M); }}"));
    assert!(matches!(Contract::new(Some(&watch), false), Err(ContractError::NoWatcher { .. })));
}

#[test]
fn descriptors_of_several_crates_may_follow_each_other() {
    let mut set = compile(&format!("{MESSAGES} service S {{ rpc A(M) returns (M); }}"));
    set.extend(set.clone());
    let contract = Contract::new(Some(&set), true).unwrap();
    assert_eq!(contract.services(), ["S"]);
    assert!(contract.encoded().len() < set.len());
    set.extend(compile(&format!("package other; {MESSAGES} service S {{ rpc A(M) returns (M); }}")));
    let error = Contract::new(Some(&set), true).unwrap_err().to_string();
    assert!(error.contains("two different files are called app.proto"), "{error}");
    set.truncate(set.len() - 1);
    assert!(matches!(Contract::new(Some(&set), true), Err(ContractError::Undecodable(_))));
}

/// Compiles `protos` in `directory` and marks what they import, as a build does.
fn marked(directory: &std::path::Path, protos: &[&str]) -> Vec<u8> {
    let mut compiler = protox::Compiler::new([directory]).unwrap();
    compiler.include_imports(true).open_files(protos).unwrap();
    let mut set = Vec::new();
    for file in compiler.descriptor_pool().files() {
        let mut bytes = file.encode_to_vec();
        if !protos.contains(&file.name()) {
            descriptor::mark_import(&mut bytes);
        }
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut set);
        prost::encoding::encode_varint(bytes.len() as u64, &mut set);
        set.extend(bytes);
    }
    set
}

/// Compiles files with an import, which is marked as the SDK's build marks it.
fn compile_with_import(imported: &str, protos: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), format!("syntax = \"proto3\";\n{text}")).unwrap()
    };
    write("app.proto", "package app; import \"lib.proto\"; service S { rpc A(lib.M) returns (lib.M); }");
    write("lib.proto", &format!("package lib; message M {{}} {imported}"));
    marked(dir.path(), protos)
}

#[test]
fn services_of_imports_are_described_and_not_served() {
    let never = "service Up { rpc A(stream M) returns (M); } service Down { rpc A(M) returns (stream M); }";
    let set = compile_with_import(never, &["app.proto"]);
    let contract = Contract::new(Some(&set), false).unwrap();
    assert_eq!(
        (contract.services(), contract.imported()),
        (&["app.S".to_owned()][..], &["lib.Down".into(), "lib.Up".into()][..])
    );
    assert!(contract.method("lib.Up/A").is_none() && contract.method("app.S/A").is_some());
    let unknown = contract.explain_unknown("lib.Up/A");
    assert_eq!(unknown, "service lib.Up is of a file that the guest only imports; this node serves app.S");
    let pool = DescriptorPool::decode(contract.encoded()).unwrap();
    assert!(pool.get_service_by_name("lib.Up").is_some());
    // The services of a file are the guest's own if its build names the file, or if another crate's
    // build in the same section does.
    let quiet = "service Q { rpc A(M) returns (M); }";
    let both = compile_with_import(quiet, &["app.proto", "lib.proto"]);
    assert_eq!(Contract::new(Some(&both), false).unwrap().services(), ["app.S", "lib.Q"]);
    let (one, other) = (compile_with_import(quiet, &["app.proto"]), compile_with_import(quiet, &["lib.proto"]));
    let beside = [one, other].concat();
    assert_eq!(Contract::new(Some(&beside), false).unwrap().services(), ["app.S", "lib.Q"]);
}

#[test]
fn a_set_without_marks_has_no_imports() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lib.proto"), "message M {} service Up { rpc A(stream M) returns (M); }").unwrap();
    std::fs::write(dir.path().join("app.proto"), "import \"lib.proto\"; service S { rpc A(M) returns (M); }").unwrap();
    let mut compiler = protox::Compiler::new([dir.path()]).unwrap();
    compiler.include_imports(true).open_file("app.proto").unwrap();
    let error = Contract::new(Some(&compiler.encode_file_descriptor_set()), false).unwrap_err().to_string();
    assert!(
        error.starts_with("method Up/A: client streaming") && error.contains("if lib.proto is a file that"),
        "{error}"
    );
}

#[test]
fn a_guest_whose_services_are_all_imported_is_told_to_name_their_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lib.proto"), "package lib; message M {} service Q { rpc A(M) returns (M); }")
        .unwrap();
    std::fs::write(dir.path().join("app.proto"), "import \"lib.proto\";").unwrap();
    let set = marked(dir.path(), &["app.proto"]);
    let error = Contract::new(Some(&set), false).unwrap_err().to_string();
    assert!(error.contains("nothing to serve: lib.Q stand in files that are only imported"), "{error}");
    assert!(error.contains("compile_protos") && error.contains("--proto"), "{error}");
}

/// The decoder's message repeats content of the descriptor, and it goes to terminals and logs.
#[test]
fn a_reason_shows_nothing_that_a_terminal_obeys() {
    use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
    let field = FieldDescriptorProto {
        name: Some("f".into()),
        number: Some(1),
        type_name: Some(format!("\u{1b}[2J\n{}", "x".repeat(100_000))),
        ..Default::default()
    };
    let message = DescriptorProto { name: Some("M".into()), field: vec![field], ..Default::default() };
    let file = FileDescriptorProto { name: Some("a.proto".into()), message_type: vec![message], ..Default::default() };
    let set = prost::Message::encode_to_vec(&FileDescriptorSet { file: vec![file] });
    let error = Contract::new(Some(&set), true).unwrap_err().to_string();
    assert!(matches!(Contract::new(Some(&set), true), Err(ContractError::Undecodable(_))), "{error}");
    assert!(error.len() < 1_000 && !error.chars().any(char::is_control), "{error:?}");
}

/// The descriptor library panics at a syntax that it does not know, such as that of editions.
#[test]
fn a_syntax_that_is_not_known_is_refused() {
    use prost::Message;
    use prost_types::{FileDescriptorProto, FileDescriptorSet};
    for syntax in ["editions", "", "pr\0\0o3"] {
        let (name, syntax) = (Some("a.proto".into()), Some(syntax.into()));
        let set = FileDescriptorSet { file: vec![FileDescriptorProto { name, syntax, ..Default::default() }] };
        let error = Contract::new(Some(&set.encode_to_vec()), true).unwrap_err().to_string();
        assert!(error.contains("a.proto has the syntax "), "{error}");
        assert!(error.ends_with("proto2 and proto3 are known"), "{error}");
    }
}
