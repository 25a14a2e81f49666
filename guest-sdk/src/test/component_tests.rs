//! Tests the harness's end of the pipe. A fake program replays frames that a test wrote to a file.
//! `tests/scenarios/component_tests.rs` tests how a component really runs, with the real program.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::frames::{self, Came, FromGuest, Hello, Line, Outcome, PROTOCOL, Row, Said, Step};
use super::{Component, Harness};
use crate::dispatch::{Machine, Method};
use crate::log::Level;
use crate::snapshot::AsItIs;
use crate::{Code, Status};

const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake/lockstep");

crate::state! {
    struct Box {}
}

crate::migrate!(Box { _ => |_, _| Err(Status::unknown("this ran natively")) });

impl Machine for Box {
    type Snapshots = AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] =
        &[&[Method::command("Box/Put", |_, _, _| Err(Status::unknown("this ran natively")))]];
}

fn hello() -> Said {
    let methods = vec!["command Box/Put".to_owned()];
    let component = format!("ab{:062}", 0);
    Said::Hello(Hello {
        protocol: PROTOCOL,
        program: "9.9".into(),
        component,
        methods,
        version: "2".into(),
        migrates: true,
    })
}

fn replied(bytes: &[u8]) -> Said {
    Said::Outcome(Outcome { came: Some(Came::Reply(bytes.to_vec())) })
}

/// Frames in a file that the fake program takes for its component.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, said: impl IntoIterator<Item = Said>) -> Self {
        let mut bytes = Vec::new();
        for said in said {
            frames::write(&mut bytes, &FromGuest { said: Some(said) }).unwrap();
        }
        Self::raw(name, &bytes)
    }

    fn raw(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("lockstep-guest-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn open(&self) -> Component {
        Component::open_with(FAKE, &self.0).unwrap()
    }

    fn refused(&self) -> String {
        Component::open_with(FAKE, &self.0).unwrap_err().to_string()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn panic_of(code: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(code)).unwrap_err();
    panic.downcast_ref::<String>().expect("a text").clone()
}

#[test]
fn what_the_guest_writes_and_logs_reaches_the_harness() {
    let (key, value) = (b"\x01\x07".to_vec(), b"five".to_vec());
    let row = Row { key: key.clone(), value: value.clone() };
    let line = Said::Log(Line { level: frames::Level::Warn.into(), text: "full".into() });
    let written = Written::new("writes", [hello(), Said::Put(row), line, replied(b"\x08\x05")]);
    let mut machine = Harness::<Box>::in_component(&written.open());
    let reply: u64 = machine.command("Box/Put", &()).unwrap();
    assert_eq!(reply, 5);
    assert_eq!(machine.take_log(), [(Level::Warn, "full".to_owned())]);
    assert_eq!(machine.store.into_iter().collect::<Vec<_>>(), [(key, value)]);
}

#[test]
fn a_rule_of_the_harness_ends_the_call_with_its_own_status() {
    let row = |value: Vec<u8>| Said::Put(Row { key: b"\x01".to_vec(), value });
    let ended = Said::Outcome(Outcome { came: None });
    let said = [hello(), row(vec![1]), row(vec![0; 1024 * 1024 + 1]), ended, replied(b"\x08\x01")];
    let written = Written::new("rule", said);
    let mut machine = Harness::<Box>::in_component(&written.open());
    let status = machine.command::<_, u64>("Box/Put", &()).unwrap_err();
    assert_eq!((status.code(), status.message().contains("1048577 bytes")), (Code::ResourceExhausted, true));
    assert!(machine.store.is_empty(), "the first write is undone as well");
    // The program is between calls again and serves the next one.
    assert_eq!(machine.command::<_, u64>("Box/Put", &()), Ok(1));
}

#[test]
fn a_migration_runs_call_by_call_and_twice() {
    let row = |value: &[u8]| Said::Put(Row { key: b"\x01".to_vec(), value: value.to_vec() });
    let migrated = |cursor: &[u8]| {
        let migrated = frames::Migrated { done: cursor.is_empty(), cursor: cursor.to_vec() };
        Said::Outcome(Outcome { came: Some(Came::Migrated(migrated)) })
    };
    let run = [row(b"half"), migrated(b"on"), row(b"whole"), migrated(b"")];
    let written = Written::new("migrates", [hello()].into_iter().chain(run.clone()).chain(run));
    let component = written.open();
    let mut machine = Harness::<Box>::in_component(&component);
    machine.predecessor = Some(component.as_predecessor());
    assert_eq!(machine.predecessor.as_ref().unwrap().hash[..2], [0xab, 0]);
    assert_eq!(machine.migrate(), Ok(()));
    assert_eq!(machine.store.into_iter().collect::<Vec<_>>(), [(b"\x01".to_vec(), b"whole".to_vec())]);
    let written = Written::new("migrates.no", [Said::Hello(Hello { protocol: PROTOCOL, ..Hello::default() })]);
    let old = written.open().harness();
    let mut machine = Harness::<Box> { guest: old.guest.clone(), ..Harness::taking_over(old) };
    let told = panic_of(|| drop(machine.migrate_from("1")));
    assert!(told.contains("does not export `migrator`"), "{told}");
}

#[test]
fn a_program_that_breaks_ends_the_test_and_is_no_outcome() {
    let written = Written::new("breaks.dies", [hello()]);
    let component = written.open();
    let told = panic_of(|| drop(Harness::<Box>::in_component(&component).command::<_, u64>("Box/Put", &())));
    for word in ["breaks.dies", "guest serve", "it ended", "exit status: 3", "the disk is on fire"] {
        assert!(told.contains(word), "{word} is not in {told}");
    }
    let step = Said::Outcome(Outcome { came: Some(Came::Step(Step::default())) });
    let written = Written::new("confused", [hello(), step]);
    let component = written.open();
    let told = panic_of(|| drop(Harness::<Box>::in_component(&component).command::<_, u64>("Box/Put", &())));
    assert!(told.contains("answers another call"), "{told}");
}

#[test]
fn a_program_that_is_none_or_too_old_is_refused_with_what_to_do() {
    let later = Hello { protocol: PROTOCOL + 1, program: "9.9".into(), ..Hello::default() };
    let cases = [
        (Written::new("later", [Said::Hello(later)]), &["Lockstep 9.9", "same checkout"][..]),
        (Written::raw("text", b"usage: lockstep"), &["cannot be understood"]),
        (Written::new("impolite", [replied(b"")]), &["hello first"]),
    ];
    for (written, words) in &cases {
        let told = written.refused();
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    }
    let told = Component::open_with("no-such-lockstep", FAKE).unwrap_err().to_string();
    assert!(told.contains("`no-such-lockstep`, and there is none in PATH\nset LOCKSTEP to"), "{told}");
    let told = Component::open_with("no/such/lockstep", FAKE).unwrap_err().to_string();
    assert!(told.contains("`no/such/lockstep`, and there is none\nset LOCKSTEP to"), "{told}");
}

#[test]
fn a_file_is_looked_for_from_the_package_up_to_its_workspace() {
    let told = Component::open_with(FAKE, "target/no.wasm").unwrap_err().to_string();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    for place in [package, package.parent().unwrap()] {
        let tried = place.join("target/no.wasm");
        assert!(told.contains(&format!("\n  {}\n", tried.display())), "{} is not in {told}", tried.display());
    }
    assert_eq!(told.matches("target/no.wasm\n").count(), 3, "nothing above the workspace: {told}");
}

#[test]
fn a_component_of_another_machine_is_named_with_what_it_lacks() {
    let methods = vec!["query Box/Put".to_owned(), "command Hat/Wear".to_owned()];
    let other = Hello { protocol: PROTOCOL, component: "abcdef".into(), methods, ..Hello::default() };
    let component = Written::new("other", [Said::Hello(other)]).open();
    let told = panic_of(|| drop(Harness::<Box>::in_component(&component)));
    for word in ["component abcdef", "lacks\n  command Box/Put\n", "command Hat/Wear", "another guest"] {
        assert!(told.contains(word), "{word} is not in {told}");
    }
}
