//! The tools for an author without a cluster: `lockstep guest` with good guests, with bad ones, and
//! with a project that it made itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::{
    chain_wasm, kv_wasm, locks_wasm, lockstep, lockstep_binary, misbehaving_wasm, statics_wasm, unfinished_wasm,
};
use tempfile::tempdir;

use crate::printed::all as text;

fn guest(arguments: &[&str]) -> Result<Output> {
    lockstep(&[&["guest"], arguments].concat())
}

/// Runs a tool that must succeed and returns its output.
fn done(arguments: &[&str]) -> Result<String> {
    let output = guest(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", text(&output));
    Ok(text(&output))
}

/// Runs a tool that must exit with `code` and returns its output.
///
/// The code is 1, or 2 when the arguments are wrong.
fn refused(arguments: &[&str], code: i32) -> Result<String> {
    let output = guest(arguments)?;
    ensure!(output.status.code() == Some(code), "{arguments:?}: {:?} {}", output.status, text(&output));
    Ok(text(&output))
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "does not say {word:?}:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

fn written(directory: &Path, name: &str, bytes: impl AsRef<[u8]>) -> Result<String> {
    let path = directory.join(name);
    std::fs::write(&path, bytes)?;
    as_text(&path)
}

fn as_text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("paths of tests are text")?.to_owned())
}

fn hash_in(text: &str) -> &str {
    let after = text.split("component  ").nth(1).unwrap_or_default();
    &after[..after.find(char::is_whitespace).unwrap_or(after.len())]
}

const KV_SCRIPT: &str = r#"
{"method": "Example/Add", "request": {"key": "a", "val": "1"}}
{"method": "Example/Add", "request": {"key": "b", "val": "2"}, "reply": {"commitIndex": 3}}
{"method": "Example/Get", "request": {"key": "a"}, "reply": {"value": "1"}}
{"method": "Example/Watch", "request": {"key": "b"}, "reply": [{"value": "2", "abandoned": false}]}
{"method": "Example/Add", "request": {"key": "a", "val": "3"}}
{"method": "Example/Get", "request": {"key": "a"}, "reply": {"value": "3"}}
"#;

#[test]
fn a_good_guest_is_checked_inspected_tested_and_measured() -> Result<()> {
    let (directory, kv) = (tempdir()?, as_text(&kv_wasm())?);
    let script = written(directory.path(), "calls.jsonl", KV_SCRIPT)?;
    let checked = done(&["check", &kv])?;
    assert_says(&checked, &["nodes take", "Example (4 methods)"]);
    let inspected = done(&["inspect", &kv])?;
    assert_says(
        &inspected,
        &["contract   1.0.0", "lockstep:machine/store@1.0.0", "Example/Add", "command", "\"commitIndex\": uint64"],
    );
    assert_eq!(hash_in(&checked).len(), 64);
    assert_eq!(hash_in(&checked), hash_in(&inspected));
    let json: serde_json::Value = serde_json::from_str(&done(&["check", &kv, "--json"])?)?;
    assert_eq!((&json["ok"], &json["component"]), (&true.into(), &hash_in(&checked).into()));
    let tested = done(&["test", &kv, "--script", &script])?;
    assert_says(
        &tested,
        &["6 calls: 6 replies, 0 errors", "4 of 4 met", "all commands in one entry: the same", "ok: 2 rows"],
    );
    let measured = done(&["bench", &kv, "--script", &script])?;
    assert_says(&measured, &["a fresh instance", "1024", "100.0%", "Example/Add", "no fsync"]);
    Ok(())
}

#[test]
fn what_a_node_takes_and_an_author_should_not_leave_so_is_told() -> Result<()> {
    let (finished, unfinished) = (tempdir()?, tempdir()?);
    let told = done(&["check", &as_text(&misbehaving_wasm(finished.path())?)?])?;
    ensure!(told.contains("nodes take") && !told.contains("warning"), "{told}");
    let file = as_text(&unfinished_wasm(unfinished.path())?)?;
    let told = done(&["check", &file])?;
    assert_says(&told, &["nodes take", "warning: the stack is not first in memory", "--stack-first"]);
    assert_says(&told, &["warning: snapshot and restore do not work", "unreachable"]);
    let json: serde_json::Value = serde_json::from_str(&done(&["check", &file, "--json"])?)?;
    assert_eq!((&json["ok"], json["warnings"].as_array().map(Vec::len)), (&true.into(), Some(2)));
    Ok(())
}

#[test]
fn what_no_node_takes_is_refused_with_what_to_do() -> Result<()> {
    let directory = tempdir()?;
    let file = |name: &str, bytes: &[u8]| written(directory.path(), name, bytes);
    let wasi = wat::parse_str(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#)?;
    let cases = [
        (file("text.wasm", b"#!/bin/sh\n")?, &["not WebAssembly", "text.wasm"][..]),
        (file("wasi.wasm", &wasi)?, &["wasi_snapshot_preview1#fd_write", "wasm32-unknown-unknown"][..]),
        (file("plain.wasm", &wat::parse_str("(module)")?)?, &["component type", "guest SDK"][..]),
        (file("other.wasm", &wat::parse_str("(component)")?)?, &["is this a guest?"][..]),
        (file("bare.wasm", &without_descriptor(&std::fs::read(kv_wasm())?)?)?, &["lockstep guest pack"][..]),
    ];
    for (path, words) in &cases {
        assert_says(&refused(&["check", path], 1)?, words);
        let json = guest(&["check", path, "--json"])?;
        let json: serde_json::Value = serde_json::from_slice(&json.stdout)?;
        assert_eq!(json["ok"], false);
        assert_says(json["problem"].as_str().unwrap_or_default(), &words[..1]);
    }
    assert_says(&done(&["inspect", &cases[1].0])?, &["wasi_snapshot_preview1#fd_write", "refused"]);
    assert_says(&refused(&["inspect", &cases[0].0], 1)?, &["not WebAssembly"]);
    assert_says(&refused(&["check", "/nowhere.wasm"], 1)?, &["cannot read /nowhere.wasm"]);
    Ok(())
}

#[test]
fn a_guest_that_keeps_state_in_a_static_is_found() -> Result<()> {
    let (directory, statics) = (tempdir()?, as_text(&statics_wasm())?);
    let sound = "{\"method\": \"statics.Statics/Sound\"}\n";
    let (leaky, silent) = (sound.replace("Sound", "Leaky"), sound.replace("Sound", "Silent"));
    let script = |name: &str, lines: &[&str]| written(directory.path(), name, lines.concat());
    let tested = done(&["test", &statics, "--script", &script("sound", &[sound; 5])?])?;
    assert_says(&tested, &["5 replies", "ok: 1 rows"]);
    // The second call that answers from memory shows the difference. The fifth call is not needed.
    let told = refused(&["test", &statics, "--script", &script("leaky", &[sound, &leaky, sound, &leaky, sound])?], 1)?;
    assert_says(
        &told,
        &[
            "with all commands in one entry",
            "line 4: ",
            "{\"count\":\"1\"}",
            "{\"count\":\"2\"}",
            "head -n 4 ",
            "static",
        ],
    );
    // Here only the state shows the difference.
    let told = refused(&["test", &statics, "--script", &script("silent", &[&silent, &silent, sound, sound])?], 1)?;
    assert_says(&told, &["with all commands in one entry", "head -n 2 ", "digest", "after line 2: "]);
    let peek = sound.replace("Sound", "Peek");
    let told = refused(&["test", &statics, "--script", &script("peek", &[sound, &peek, sound, &peek, &peek])?], 1)?;
    assert_says(&told, &["with queries in one instance", "line 4: ", "{\"count\":\"2\"}", "head -n 4 ", "static"]);
    Ok(())
}

#[test]
fn a_script_is_held_against_the_guest() -> Result<()> {
    let (directory, chain) = (tempdir()?, as_text(&chain_wasm())?);
    let script = |name: &str, line: &str| written(directory.path(), name, line);
    let unmet = script("unmet", r#"{"method": "chain.Chain/Put", "request": {"key": "a"}, "error": "ABORTED"}"#)?;
    assert_says(
        &refused(&["test", &chain, "--script", &unmet], 1)?,
        &["1 of 1 expectations", "error ABORTED", "\"version\":\"1\""],
    );
    let wrong = script("wrong", "\n{\"method\": \"chain.Chain/Putt\"}")?;
    assert_says(&refused(&["test", &chain, "--script", &wrong], 2)?, &["wrong:2:2: ", "chain.Chain/Put"]);
    // A command that uses up its fuel is a result like any other.
    let burn = r#"{"method": "chain.Chain/Burn", "request": {"units": 1000000}, "error": "RESOURCE_EXHAUSTED"}"#;
    let put = r#"{"method": "chain.Chain/Put", "request": {"key": "a"}}"#;
    let burning = script("burn", &[put, burn, put].join("\n"))?;
    assert_says(&done(&["test", &chain, "--script", &burning])?, &["2 replies, 1 errors", "1 of 1 met", "ok: 1 rows"]);
    // For a watch the script compares everything that it sends at once.
    let walk = |page: u32, reply: &str| {
        format!(r#"{{"method": "chain.Chain/Walk", "request": {{"page": {page}}}, "reply": {reply}}}"#)
    };
    let puts: Vec<String> = ["b", "c"].iter().map(|key| put.replace("\"a\"", &format!("{key:?}"))).collect();
    let all = r#"[{"key": "a"}, {"key": "b"}, {"key": "c"}]"#;
    let lines = [put, &puts[0], &puts[1], &walk(1, all), &walk(2, all), &walk(9, all), &walk(0, "[]")].join("\n");
    assert_says(&done(&["test", &chain, "--script", &script("walk", &lines)?])?, &["4 of 4 met", "ok: 3 rows"]);
    Ok(())
}

#[test]
fn a_panic_that_nobody_expected_fails_the_test_and_is_told() -> Result<()> {
    let (directory, chain) = (tempdir()?, as_text(&chain_wasm())?);
    let script = |name: &str, lines: &[&str]| written(directory.path(), name, lines.join("\n"));
    let panic = r#"{"method": "chain.Chain/Panic", "request": {"word": "fire"}}"#;
    let put = r#"{"method": "chain.Chain/Put", "request": {"key": "a"}, "reply": {"written": {"version": 1}}}"#;
    let told = refused(&["test", &chain, "--script", &script("panic", &[put, panic])?], 1)?;
    assert_says(
        &told.replace("panicked", "panics"),
        &["failed in 1 calls", "line 2: ", "chain.Chain/Panic", "INTERNAL: ", "the word is \"fire\"", "hint: "],
    );
    let meant = panic.replace("}}", "}, \"error\": \"INTERNAL\"}");
    assert_says(&done(&["test", &chain, "--script", &script("meant", &[put, &meant])?])?, &["2 of 2 met"]);
    // The script compares a message within the reply, and the error shows what was expected.
    let other = put.replace("\"version\": 1", "\"version\": 2");
    let told = refused(&["test", &chain, "--script", &script("other", &[&other])?], 1)?;
    assert_says(&told, &["1 of 1 expectations", r#"expected {"written":{"version":2}}"#]);
    Ok(())
}

/// Time in the script starts at 2024-01-01, 1704067200000.
const TIME_SCRIPT: &str = r#"{"method": "statics.Statics/Sound"}
{"method": "statics.Statics/Clock", "reply": {"count": "1704067201000"}}
{"method": "statics.Statics/Clock", "after": "10s", "reply": {"count": "1704067211000"}}
{"method": "statics.Statics/Sound", "after": "1m"}
{"method": "statics.Statics/Clock", "reply": {"count": "1704067271000"}}
{"method": "statics.Statics/Refuse"}
{"method": "statics.Statics/Refuse", "error": "FAILED_PRECONDITION", "reason": "HELD"}
"#;

#[test]
fn a_script_lets_time_pass_and_compares_reasons_and_unexpected_refusals_are_noted() -> Result<()> {
    let (directory, statics) = (tempdir()?, as_text(&statics_wasm())?);
    let script = |name: &str, text: &str| written(directory.path(), name, text);
    // Where commands share an entry, the queries run last and see the last time. The script gives
    // the same results in both runs.
    let told = done(&["test", &statics, "--script", &script("time", TIME_SCRIPT)?])?;
    let note = "note: line 6: statics.Statics/Refuse was refused: FAILED_PRECONDITION: held by ann (reason HELD)";
    assert_says(&told, &["4 of 4 met", note, "all commands in one entry: the same"]);
    let other = TIME_SCRIPT.replace("\"HELD\"", "\"GONE\"");
    let told = refused(&["test", &statics, "--script", &script("other", &other)?], 1)?;
    assert_says(&told, &["1 of 4", "error FAILED_PRECONDITION with reason GONE", "held by ann (reason HELD)"]);
    // The measurements also report refusals.
    let told = done(&["bench", &statics, "--script", &script("bench", TIME_SCRIPT)?])?;
    assert_says(&told, &["50.0%, 50.0% refused with FAILED_PRECONDITION"]);
    Ok(())
}

/// Returns the sections of a module, each with its id and its length.
pub(crate) fn sections(module: &[u8]) -> Result<Vec<&[u8]>> {
    let (mut found, mut at) = (Vec::new(), 8);
    while at < module.len() {
        let (mut length, mut shift, mut body) = (0_usize, 0, at + 1);
        loop {
            let byte = *module.get(body).context("a length ends")?;
            length |= usize::from(byte & 0x7f) << shift;
            (shift, body) = (shift + 7, body + 1);
            if byte & 0x80 == 0 {
                break;
            }
        }
        found.push(module.get(at..body + length).context("a section ends")?);
        at = body + length;
    }
    Ok(found)
}

/// Tells whether this is the section in which the SDK's build stores the descriptor.
pub(crate) fn is_descriptor(section: &[u8]) -> bool {
    let name = b"lockstep.descriptor";
    section[0] == 0 && section.windows(name.len()).take(8).any(|window| window == name)
}

/// Returns the module without its descriptor, as from a compiler of another language.
fn without_descriptor(module: &[u8]) -> Result<Vec<u8>> {
    let kept = sections(module)?.into_iter().filter(|section| !is_descriptor(section));
    let kept = [&module[..8], &kept.collect::<Vec<_>>().concat()].concat();
    ensure!(kept.len() < module.len(), "there was no descriptor");
    Ok(kept)
}

/// Makes a module with a component type that nests `depth` types.
fn nested(depth: usize) -> Vec<u8> {
    let sized = |id: u8, body: &[u8]| {
        let mut section = vec![id];
        let mut length = body.len();
        while length >= 0x80 {
            section.push(length as u8 | 0x80);
            length >>= 7;
        }
        section.push(length as u8);
        section.extend_from_slice(body);
        section
    };
    // One type: a component type with one declaration, which is a type, and so on.
    let types = [&[1][..], &[0x41, 1, 1].repeat(depth), &[0x41, 0]].concat();
    let encoding = b"\x16wit-component-encoding\x04\x00";
    let component = [&b"\0asm\x0d\0\x01\0"[..], &sized(0, encoding), &sized(7, &types)].concat();
    [&b"\0asm\x01\0\0\0"[..], &sized(0, &[&b"\x11component-type:zz"[..], &component].concat())].concat()
}

/// Such a module used to overflow the stack of the tool, and that of a node.
#[test]
fn a_component_type_nested_without_end_is_refused_in_words() -> Result<()> {
    let directory = tempdir()?;
    // The size of the stack decides where the first depth fails. The second is too deep for any
    // stack.
    for (depth, words) in [(5_000, "cannot be made a component"), (100_000, "nested too deeply")] {
        let deep = written(directory.path(), "deep.wasm", nested(depth))?;
        let proto = as_text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/example.proto"))?;
        assert_says(&done(&["inspect", &deep])?, &["cannot be made a component", words, "refused"]);
        assert_says(&refused(&["pack", &deep, "--proto", &proto], 1)?, &[words]);
        assert_says(&refused(&["check", &deep], 1)?, &[words]);
        let node =
            ["node", "--raft_bootstrap", "--raft_id=a", "--raft_data_dir", &as_text(directory.path())?, "--fsm", &deep];
        let node = lockstep(&node)?;
        ensure!(node.status.code() == Some(2), "{:?} {}", node.status, text(&node));
        assert_says(&text(&node), &["--fsm", words]);
    }
    Ok(())
}

#[test]
fn services_are_bounded_in_number_and_name() -> Result<()> {
    let directory = tempdir()?;
    let bare = written(directory.path(), "bare.wasm", without_descriptor(&std::fs::read(kv_wasm())?)?)?;
    let packed = as_text(&directory.path().join("packed.wasm"))?;
    let pack = |methods: &[String]| -> Result<Output> {
        let methods: String = methods.iter().map(|name| format!("rpc {name}(M) returns (M);\n")).collect();
        let text = format!("syntax = \"proto3\"; package p; message M {{}} service S {{ {methods} }}");
        guest(&["pack", &bare, "--proto", &written(directory.path(), "many.proto", text)?, "-o", &packed])
    };
    let many = |count: usize| (0..count).map(|n| format!("Method{n}")).collect::<Vec<_>>();
    let (long, longer) = (["x".repeat(256)], ["x".repeat(257)]);
    for (methods, words) in [(&many(4_097)[..], "more than 4096 methods"), (&longer[..], "at most 256 bytes")] {
        let output = pack(methods)?;
        ensure!(output.status.code() == Some(1), "{:?} {}", output.status, text(&output));
        assert_says(&text(&output), &[words, "nothing was written"]);
    }
    for methods in [&many(4_096)[..], &long] {
        let output = pack(methods)?;
        ensure!(output.status.success(), "{}", text(&output));
        assert_says(&done(&["inspect", &packed])?, &[&format!("p.S/{}", methods[methods.len() - 1])]);
    }
    Ok(())
}

#[test]
fn a_guest_of_another_language_is_packed_once() -> Result<()> {
    let directory = tempdir()?;
    let bare = written(directory.path(), "bare.wasm", without_descriptor(&std::fs::read(kv_wasm())?)?)?;
    let proto = as_text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/example.proto"))?;
    let packed = as_text(&directory.path().join("packed.wasm"))?;
    let told = done(&["pack", &bare, "--proto", &proto, "-o", &packed])?;
    assert_says(&told, &["packed.wasm serves Example (4 methods)"]);
    let checked = done(&["check", &packed])?;
    assert_eq!(hash_in(&told), hash_in(&checked));
    let script = written(directory.path(), "calls.jsonl", KV_SCRIPT)?;
    assert_says(&done(&["test", &packed, "--script", &script])?, &["4 of 4 met", "ok: 2 rows"]);
    let again = as_text(&directory.path().join("again.wasm"))?;
    let told = done(&["pack", &packed, "--proto", &proto, "-o", &again])?;
    assert_eq!(hash_in(&told), hash_in(&checked), "the same descriptor again is the same component");
    assert_says(&refused(&["pack", &as_text(&kv_wasm())?, "--proto", &proto], 1)?, &["already carries a descriptor"]);
    let broken = written(
        directory.path(),
        "broken.proto",
        "syntax = \"proto3\"; service S { rpc A(Nothing) returns (Nothing); }",
    )?;
    assert_says(&refused(&["pack", &bare, "--proto", &broken, "-o", &again], 1)?, &["broken.proto", "Nothing"]);
    Ok(())
}

#[test]
fn the_version_of_a_guest_is_packed_and_shown() -> Result<()> {
    let directory = tempdir()?;
    let bare = written(directory.path(), "bare.wasm", without_descriptor(&std::fs::read(kv_wasm())?)?)?;
    let proto = as_text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/example.proto"))?;
    let packed = as_text(&directory.path().join("packed.wasm"))?;
    let pack = |version: &str| guest(&["pack", &bare, "--proto", &proto, "--version", version, "-o", &packed]);
    let long = "1".repeat(65);
    for (version, words) in [("zwölf", "no printable ASCII"), (long.as_str(), "has 65 bytes"), ("", "--version")] {
        let output = pack(version)?;
        ensure!(!output.status.success(), "{version:?} was packed");
        assert_says(&text(&output), &[words]);
    }
    let output = pack("2.0")?;
    ensure!(output.status.success(), "{}", text(&output));
    assert_says(&text(&output), &["version    2.0"]);
    for tool in ["check", "inspect"] {
        assert_says(&done(&[tool, &packed])?, &["version    2.0", "migrates   no, it takes the state as it is"]);
        let json: serde_json::Value = serde_json::from_str(&done(&[tool, &packed, "--json"])?)?;
        assert_eq!((&json["version"], &json["migrates"]), (&"2.0".into(), &false.into()));
    }
    assert_says(&done(&["inspect", &as_text(&kv_wasm())?])?, &["version    none declared"]);
    let second = as_text(&locks_wasm(2))?;
    assert_says(&done(&["check", &second])?, &["version    2\n", "migrates   the state of an earlier version"]);
    let told = done(&["check", &second, "--against", &as_text(&locks_wasm(1))?])?;
    assert_says(&told, &["fine       locks.Locks/Count"]);
    Ok(())
}

#[test]
fn a_guest_is_compared_with_the_one_before() -> Result<()> {
    let directory = tempdir()?;
    let bare = written(directory.path(), "bare.wasm", without_descriptor(&std::fs::read(kv_wasm())?)?)?;
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/example.proto");
    let example = std::fs::read_to_string(example)?;
    let packed = |name: &str, text: String| -> Result<String> {
        std::fs::create_dir(directory.path().join(name))?;
        let proto = written(directory.path(), &format!("{name}/example.proto"), text)?;
        let file = as_text(&directory.path().join(format!("{name}.wasm")))?;
        done(&["pack", &bare, "--proto", &proto, "-o", &file])?;
        Ok(file)
    };
    let old = packed("old", example.clone())?;
    assert_says(&done(&["check", &old, "--against", &old])?, &["contract   that of"]);
    let grown = packed("grown", example.replace("message GetRequest {", "message GetRequest { string tenant = 99;"))?;
    assert_says(&done(&["check", &grown, "--against", &old])?, &["fine       GetRequest.tenant: the field is new"]);
    // The other way round, the field is gone.
    let told = refused(&["check", &old, "--against", &grown], 1)?;
    assert_says(&told, &["BREAKS     GetRequest.tenant: the field (number 99) is gone"]);
    assert_says(&told, &["1 difference breaks clients that were made for", "hint: ", "--allow_breaking"]);
    done(&["check", &old, "--against", &grown, "--allow-breaking"])?;
    let told = refused(&["check", &old, "--against", &grown, "--json"], 1)?;
    assert_says(&told, &[r#""breaks":true"#, r#""subject":"GetRequest.tenant""#, r#""ok":true"#]);
    let told = refused(&["check", &old, "--against", &bare], 1)?;
    assert_says(&told, &["--against ", "carries no protobuf descriptor"]);
    refused(&["check", &old, "--allow-breaking"], 2)?;
    Ok(())
}

/// Returns a target directory of cargo that all runs share, beside that of these tests.
fn shared_target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.ancestors().nth(3).context("tests run in target/release/deps")?.join("generated"))
}

#[test]
fn a_new_project_builds_tests_and_is_taken_as_it_stands() -> Result<()> {
    let (directory, target) = (tempdir()?, shared_target()?);
    let new = |name: &str| {
        let mut command = Command::new(lockstep_binary());
        command.args(["guest", "new", name]).current_dir(directory.path()).stdin(Stdio::null()).output()
    };
    let made = new("my-machine")?;
    ensure!(made.status.success(), "{}", text(&made));
    assert_says(&text(&made), &["my_machine.MyMachine", "LOCKSTEP_COMPONENT=target/", "lockstep dev"]);
    // The printed commands work in the project's directory, whatever name the program was called
    // by.
    let program = lockstep_binary().display().to_string();
    assert_says(&text(&made), &[&format!("LOCKSTEP={program} "), &format!("  {program} dev target/")]);
    let again = new("my-machine")?;
    ensure!(again.status.code() == Some(2), "{}", text(&again));
    assert_says(&text(&again), &["is there already"]);
    assert_says(&text(&new("../other")?), &["is no name for a project"]);
    let project = directory.path().join("my-machine");
    // The lock file names versions that this checkout was built with, so nothing has to be
    // downloaded.
    let cargo_with = |arguments: &[&str], variables: &[(&str, &Path)]| -> Result<Output> {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).env("CARGO_NET_OFFLINE", "true").current_dir(&project).env("CARGO_TARGET_DIR", &target);
        command.env_remove("LOCKSTEP").env_remove("LOCKSTEP_COMPONENT").envs(variables.iter().copied());
        Ok(command.stdin(Stdio::null()).output()?)
    };
    let cargo = |arguments: &[&str], variables: &[(&str, &Path)]| -> Result<String> {
        let output = cargo_with(arguments, variables)?;
        ensure!(output.status.success(), "cargo {arguments:?}: {}", text(&output));
        Ok(text(&output))
    };
    let formatted = Command::new("cargo").args(["fmt", "--check"]).current_dir(&project).output()?;
    ensure!(formatted.status.success(), "not as cargo fmt has it: {}", text(&formatted));
    cargo(&["test"], &[])?;
    cargo(&["build", "--release", "--target", "wasm32-unknown-unknown"], &[])?;
    let built = as_text(&target.join("wasm32-unknown-unknown/release/my_machine.wasm"))?;
    assert_says(&done(&["check", &built])?, &["my_machine.MyMachine (2 methods"]);
    let script = as_text(&project.join("calls.jsonl"))?;
    assert_says(&done(&["test", &built, "--script", &script])?, &["5 of 5 met", "4 replies, 1 errors", "ok: 2 rows"]);
    // Runs the same tests on the built component, and on components that do not fit or do not
    // exist.
    let (own, other) = (lockstep_binary(), kv_wasm());
    let (program, component) = (("LOCKSTEP", &*own), "LOCKSTEP_COMPONENT");
    let tested = cargo(&["test"], &[program, (component, Path::new(&built))])?;
    assert_says(&tested, &["counts_add_up_and_survive_a_snapshot ... ok", "a_count_without_a_name_is_refused ... ok"]);
    let cases = [
        (vec![program, (component, &*other)], &["lacks", "command my_machine.MyMachine/Add", "another guest"][..]),
        (
            vec![program, (component, Path::new("no.wasm"))],
            &["no component no.wasm", "my-machine/no.wasm", "Build it first"],
        ),
        (
            vec![("LOCKSTEP", Path::new("no-lockstep")), (component, Path::new(&built))],
            &["none in PATH", "set LOCKSTEP"],
        ),
    ];
    for (variables, words) in cases {
        let output = cargo_with(&["test"], &variables)?;
        ensure!(!output.status.success(), "{variables:?}: {}", text(&output));
        for word in words {
            ensure!(text(&output).contains(word), "{variables:?} does not say {word:?}:\n{}", text(&output));
        }
    }
    Ok(())
}
