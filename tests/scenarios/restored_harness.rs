//! The SDK's harness continues from the backup of a real cluster, which `lockstep guest rows`
//! reads.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use lockstep_guest::dispatch::Method;
use lockstep_guest::snapshot::AsItIs;
use lockstep_guest::test::Component;
use lockstep_guest::{Code, Harness, Machine, State, Status};
use lockstep_tests::pb::{AddRequest, AddResponse, GetRequest, GetResponse};
use lockstep_tests::{formed, kv_wasm, lockstep, lockstep_binary};

use crate::printed;

/// The key-value guest. Its handlers are in its component only.
struct Kv;

impl State for Kv {
    fn open() -> Self {
        Self
    }
}

impl Machine for Kv {
    type Snapshots = AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] =
        &[&[Method::command("Example/Add", |_, _, _| natively()), Method::query("Example/Get", |_, _, _| natively())]];
}

fn natively() -> Result<Vec<u8>, Status> {
    Err(Status::unknown("this ran natively"))
}

fn get(machine: &mut Harness<Kv>, key: &str) -> Result<String> {
    let request = GetRequest { key: key.into(), linearizable: false };
    Ok(machine.query::<_, GetResponse>("Example/Get", &request)?.value)
}

fn add(machine: &mut Harness<Kv>, key: &str) -> Result<u64> {
    let request = AddRequest { key: key.into(), val: "new".into() };
    Ok(machine.command::<_, AddResponse>("Example/Add", &request)?.commit_index)
}

#[tokio::test]
async fn a_test_goes_on_from_the_backup_of_a_cluster() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let mut last = 0;
    for n in 0..20 {
        last = cluster.add(0, &format!("k{n}"), &format!("v{n}")).await?;
    }
    let backed_up = lockstep(&["backup", &cluster.nodes[0].grpc_addr()])?;
    ensure!(backed_up.status.success(), "{}", printed::stderr(&backed_up));
    let backup = backed_up.stdout;
    tokio::task::spawn_blocking(move || goes_on(&backup, last)).await?
}

fn goes_on(backup: &[u8], last: u64) -> Result<()> {
    let mut machine = Harness::<Kv>::in_component(&Component::open_with(lockstep_binary(), kv_wasm())?);
    let began = machine.time_ms();
    add(&mut machine, "mine")?;
    machine.restore(backup.to_vec())?;
    ensure!(machine.index() >= last && machine.time_ms() > began, "index and log time are the cluster's");
    assert_eq!((get(&mut machine, "k7")?.as_str(), get(&mut machine, "mine")?.as_str()), ("v7", ""));
    assert_eq!(add(&mut machine, "k7")?, machine.index());
    assert_eq!(get(&mut machine, "k7")?, "new");
    machine.assert_replicas_agree();
    // An incomplete or damaged backup changes nothing.
    let mut damaged = backup.to_vec();
    damaged[backup.len() / 2] ^= 1;
    for bad in [&backup[..backup.len() - 9], &damaged] {
        let refused = machine.restore(bad.to_vec()).unwrap_err();
        assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    }
    assert_eq!(get(&mut machine, "k7")?, "new");
    Ok(())
}

#[test]
fn rows_of_what_is_no_backup_are_refused() -> Result<()> {
    let kv = kv_wasm();
    let rows = |file: &str| Command::new(lockstep_binary()).args(["guest", "rows", file]).stdin(Stdio::null()).output();
    for (file, words) in
        [(&*kv.display().to_string(), "no backup of Lockstep"), ("-", "stdin"), ("/no/file", "cannot read")]
    {
        let output = rows(file)?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1) && told.contains(words), "{file}: {told}");
    }
    Ok(())
}
