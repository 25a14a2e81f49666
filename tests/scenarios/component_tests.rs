//! The SDK's harness on built components: it returns what a node returns, keeps the state, and
//! leaves no process behind. The machines here have no handlers of their own; a native call returns
//! an error that says so.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lockstep_guest::dispatch::Method;
use lockstep_guest::snapshot::AsItIs;
use lockstep_guest::test::Component;
use lockstep_guest::{Code, Harness, Machine, State, Status};
use lockstep_tests::chain_pb::{
    BurnRequest, BurnResponse, GetRequest, GetResponse, PutRequest, PutResponse, WalkRequest, WalkResponse,
};
use lockstep_tests::misbehaving_pb::{Done, What};
use lockstep_tests::{chain_wasm, kv_wasm, lockstep_binary, misbehaving_wasm, statics_wasm};
use prost::Message;
use tempfile::tempdir;

use crate::misbehaving::{COMMANDS, Expected, QUERIES, deed};

/// Declares a machine whose handlers are in its component only.
macro_rules! machine {
    ($name:ident: $($kind:ident $method:literal),*) => {
        struct $name;
        impl State for $name {
            fn open() -> Self {
                Self
            }
        }
        impl Machine for $name {
            type Snapshots = AsItIs;
            const METHODS: &'static [&'static [Method<Self>]] = &[&[$(Method::$kind($method, |_, _, _| natively())),*]];
        }
    };
}

machine!(Misbehaving: command "misbehaving.Misbehaving/Do", query "misbehaving.Misbehaving/Ask");
machine!(Chain: command "chain.Chain/Put", query "chain.Chain/Get", command "chain.Chain/Burn", watch "chain.Chain/Walk");
machine!(Statics: command "statics.Statics/Leaky", command "statics.Statics/Silent");

fn natively<T>() -> Result<T, Status> {
    Err(Status::unknown("this ran natively"))
}

fn open(file: impl AsRef<Path>) -> Result<Component> {
    Ok(Component::open_with(lockstep_binary(), file)?)
}

fn put(machine: &mut Harness<Chain>, key: &str, value: &str) -> Result<PutResponse> {
    Ok(machine.command("chain.Chain/Put", &PutRequest { key: key.into(), value: value.into() })?)
}

fn check(what: What, expected: Expected, answer: &Result<Vec<u8>, Status>) -> Result<()> {
    let (code, message) = match answer {
        Ok(_) => (0, ""),
        Err(status) => (status.code() as i32, status.message()),
    };
    ensure!(
        code == i32::from(expected.0) && message.contains(expected.1),
        "{what:?} came to {answer:?}, and on a node to {expected:?}"
    );
    Ok(())
}

#[test]
fn whatever_a_component_does_the_harness_says_what_a_node_says() -> Result<()> {
    let place = tempdir()?;
    let mut machine = Harness::<Misbehaving>::in_component(&open(misbehaving_wasm(place.path())?)?);
    let count = |machine: &mut Harness<Misbehaving>| -> Result<u64> {
        Ok(machine.command::<_, Done>("misbehaving.Misbehaving/Do", &deed(What::Count))?.value)
    };
    // The harness does not check what a client finds in the bytes.
    let own = |(what, _): &(What, Expected)| *what != What::ReplyNoMessage;
    for (n, (what, expected)) in (1..).zip(COMMANDS.into_iter().filter(own)) {
        let answer = machine.command_bytes("misbehaving.Misbehaving/Do", &deed(what).encode_to_vec());
        check(what, expected, &answer)?;
        ensure!(count(&mut machine)? == n, "{what:?} is left in the state");
    }
    for (what, expected) in QUERIES {
        // The message type of a reply does not matter: bytes 8 to 1 are a number.
        let answer = machine.query::<_, Done>("misbehaving.Misbehaving/Ask", &deed(what));
        check(what, expected, &answer.map(|done| done.encode_to_vec()))?;
    }
    let logged: usize = machine.take_log().iter().map(|(_, line)| line.len()).sum();
    ensure!((32 << 10..=64 << 10).contains(&logged), "{logged} bytes were logged");
    Ok(())
}

#[test]
fn the_state_is_the_harness_s() -> Result<()> {
    let mut machine = Harness::<Chain>::in_component(&open(chain_wasm())?);
    put(&mut machine, "a", "1")?;
    let (one, two) = machine.together(|machine| (put(machine, "a", "2"), put(machine, "b", "3")));
    let (one, two) = (one?.written.context("a write")?, two?.written.context("a write")?);
    assert_eq!((one.index, one.position, one.version), (2, 0, 2));
    assert_eq!((two.index, two.position, two.version), (2, 1, 1));
    let burnt = machine.command::<_, BurnResponse>("chain.Chain/Burn", &BurnRequest { units: 1_000_000 }).unwrap_err();
    assert_eq!((burnt.code(), burnt.message().contains("used all its fuel")), (Code::ResourceExhausted, true));
    let snapshot = machine.snapshot()?;
    put(&mut machine, "a", "4")?;
    machine.assert_replicas_agree();
    machine.snapshot_restore();
    machine.restore(snapshot)?;
    let request = GetRequest { key: "a".into(), linearizable: false };
    let read: GetResponse = machine.query("chain.Chain/Get", &request)?;
    assert_eq!(read.record.context("a record")?.value, "2");
    let refused = machine.restore(b"LSR1, more or less".to_vec()).unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss);
    Ok(())
}

#[test]
fn a_watch_of_a_component_pages_as_on_a_node() -> Result<()> {
    let mut machine = Harness::<Chain>::in_component(&open(chain_wasm())?);
    let keys = |from: u8, to: u8| (from..=to).map(|n| char::from(n).to_string()).collect::<Vec<_>>();
    for key in keys(b'a', b'l') {
        put(&mut machine, &key, "value")?;
    }
    let request = WalkRequest { after: "b".into(), page: 3 };
    let stream = machine.watch::<_, WalkResponse>("chain.Chain/Walk", &request);
    let sent = |machine: &mut Harness<Chain>| -> Vec<String> {
        machine.sent(&stream).into_iter().map(|row| row.key).collect()
    };
    assert_eq!(sent(&mut machine), keys(b'c', b'l'));
    put(&mut machine, "m", "value")?;
    assert_eq!(sent(&mut machine), ["m"]);
    assert_eq!(machine.steps(&stream), 5);
    Ok(())
}

#[test]
fn every_call_has_an_instance_of_its_own() -> Result<()> {
    let mut machine = Harness::<Statics>::in_component(&open(statics_wasm())?);
    let counts: Vec<u64> = machine
        .together(|machine| (0..3).map(|_| machine.command("statics.Statics/Leaky", &())).collect::<Result<_, _>>())?;
    assert_eq!(counts, [1, 1, 1], "a static begins anew");
    machine.assert_replicas_agree();
    Ok(())
}

#[test]
fn what_cannot_be_tested_is_named_with_what_to_do() -> Result<()> {
    let place = tempdir()?;
    let text = place.path().join("text.wasm");
    std::fs::write(&text, "#!/bin/sh\n")?;
    let told = open(&text).unwrap_err().to_string();
    ensure!(
        told.contains("text.wasm") && told.contains("a node would refuse") && told.contains("not WebAssembly"),
        "{told}"
    );
    let told = open("nowhere/no.wasm").unwrap_err().to_string();
    ensure!(told.contains("there is no component nowhere/no.wasm") && told.contains("Build it first"), "{told}");
    let kv = open(kv_wasm())?;
    let panic = catch_unwind(AssertUnwindSafe(|| drop(Harness::<Chain>::in_component(&kv)))).unwrap_err();
    let told = panic.downcast_ref::<String>().context("a text")?;
    ensure!(told.contains("lacks\n  command chain.Chain/Burn") && told.contains("query Example/Get"), "{told}");
    Ok(())
}

/// Encodes a field of a protobuf message with this content.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn tell(program: &mut Child, message: &[u8]) -> Result<()> {
    let stdin = program.stdin.as_mut().context("piped")?;
    stdin.write_all(&u32::try_from(message.len())?.to_le_bytes())?;
    Ok(stdin.write_all(message)?)
}

fn hear(program: &mut Child) -> Result<Vec<u8>> {
    let (stdout, mut length) = (program.stdout.as_mut().context("piped")?, [0; 4]);
    stdout.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_le_bytes(length) as usize];
    stdout.read_exact(&mut message)?;
    Ok(message)
}

#[test]
fn the_program_ends_with_its_harness_also_in_the_middle_of_a_call() -> Result<()> {
    let serve = |file: PathBuf| -> Result<Child> {
        let mut command = Command::new(lockstep_binary());
        command.args(["guest", "serve"]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn()?;
        hear(&mut program)?;
        Ok(program)
    };
    let mut idle = serve(kv_wasm())?;
    drop(idle.stdin.take());
    ensure!(idle.wait()?.success(), "the end of the harness is no error");
    let place = tempdir()?;
    let mut busy = serve(misbehaving_wasm(place.path())?)?;
    let (restore, what) = (&[1 << 3, 4], [What::Loop as u8]);
    tell(&mut busy, &field(1, restore))?;
    ensure!(hear(&mut busy)? == [11 << 3, 1], "the guest reads a byte of its source");
    tell(&mut busy, &field(2, &field(1, &what)))?;
    // The guest now computes. It would continue until its stream has been quiet for 20 seconds.
    let began = Instant::now();
    drop(busy.stdin.take());
    ensure!(busy.wait()?.success(), "the end of the harness is no error");
    ensure!(began.elapsed() < Duration::from_secs(10), "it went on for {:?}", began.elapsed());
    Ok(())
}
