//! Executes every command of the README, of the client's README, of `docs/operations.md`, of
//! `docs/lost-majority.md`, of `docs/security.md`, of `docs/access.md`, of `docs/upgrade.md`, of
//! `docs/rows.md`, of `docs/archive.md`, of `docs/replay.md`, of `docs/bench.md`, of
//! `docs/benchmarks/README.md`, of `docs/compatibility.md` and of `docs/limits.md` as it stands
//! there. The `sh` blocks of a page are one script, which runs from the checkout. `guide` executes
//! the guide for authors, and `benchmarks` the page on benchmarks. Left out are the test command
//! itself, which would run this test again, `faults`, which takes half an hour, and the demo and
//! the torture, which have their own tests.
#![allow(clippy::unwrap_used)]

mod benchmarks;
mod guide;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::changes::guest::Guest;
use lockstep_tests::torture::plan::FaultKind;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the `sh` blocks of a page, in order.
fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(checkout().join(page)).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "```sh" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

/// Runs a script from the checkout. It runs in a network namespace of its own where the system
/// allows that, so that its ports are free.
fn run(script: &str) -> Result<Output> {
    let isolated = |flags: &str| {
        let probe =
            Command::new("unshare").args([flags, "sh", "-c", "ip link set lo up"]).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    let script = format!("set -eu\nset -o pipefail\n{script}");
    let mut command = match ["-n", "-rn"].into_iter().find(|flags| isolated(flags)) {
        Some(flags) => {
            let mut command = Command::new("unshare");
            command.args([flags, "bash", "-c"]).arg(format!("ip link set lo up\n{script}"));
            command
        }
        None => {
            let mut command = Command::new("bash");
            command.arg("-c").arg(script);
            command
        }
    };
    // The commands must also work on a machine with little free disk space.
    command.env("LOCKSTEP_MIN_FREE_BYTES", "0");
    Ok(command.current_dir(checkout()).stdin(Stdio::null()).output()?)
}

fn succeeded(output: &Output) -> Result<String> {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}:\n{text}", output.status);
    Ok(text)
}

/// The README's cluster by hand. The script ends its node processes also when a command fails.
fn cluster_script() -> String {
    let blocks = blocks("README.md");
    let elsewhere = |block: &String| block.contains("cargo xtask") || block.contains("hello.Hello");
    let script: String = blocks.into_iter().filter(|block| !elsewhere(block)).collect();
    assert!(script.contains("--raft_bootstrap") && script.contains("add_voter") && script.contains("Example/Watch"));
    format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}")
}

/// Held by tests that use the directories and ports of the pages.
static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Held by tests of the demo: a demo clears up what an earlier one left.
static ONE_DEMO_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn the_readme_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let text = succeeded(&run(&cluster_script())?)?;
    for expected in [r#""commitIndex""#, r#""value":"world""#, "RaftManager  of the node"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    Ok(())
}

#[test]
fn the_readme_works_with_addresses_instead_of_names() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let text = succeeded(&run(&cluster_script().replace("localhost", "127.0.0.1"))?)?;
    assert!(text.contains(r#""value":"world""#), "{text}");
    Ok(())
}

/// Runs the example of the client crate on the README's cluster, before that is stopped.
#[test]
fn the_page_of_the_client_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = cluster_script();
    let (cluster, stop) = script.split_once("kill %1").context("the cluster is stopped")?;
    let page = blocks("client/README.md").concat();
    let text = succeeded(&run(&format!("{cluster}{page}kill %1{stop}"))?)?;
    assert!(text.contains("written at index ") && text.contains("read \"world\""), "{text}");
    Ok(())
}

#[test]
fn the_page_on_operations_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/operations.md").concat();
    assert!(script.contains("--raft_bootstrap") && script.contains("add_voter") && script.contains("restore --from"));
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in [r#""commitIndex""#, "lockstep 0.1.0", "--raft_data_dir"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    // From a follower, twice while a mode and a limit are set, and from the restored cluster.
    assert_eq!(text.matches(r#""value":"world""#).count(), 4, "{text}");
    Ok(())
}

/// Expects that every command of CONTRIBUTING.md is one of the README, too.
#[test]
fn the_commands_for_contributors_are_those_of_the_readme() {
    let readme = blocks("README.md").concat();
    let script = blocks("CONTRIBUTING.md").concat();
    assert!(script.contains("cargo xtask test"));
    for command in script.lines() {
        assert!(readme.lines().any(|line| line == command), "the README has no command {command}");
    }
}

#[test]
fn the_page_on_a_lost_majority_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/lost-majority.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in ["nothing was changed", "the only member now, in incarnation 1"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert_eq!(text.matches(r#""value":"world""#).count(), 2, "{text}");
    Ok(())
}

#[test]
fn the_page_on_security_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/security.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in [
        "node nodeA of the cluster \"lockstep\"",
        r#""value":"world""#,
        "PERMISSION_DENIED",
        "--tls_cert and --tls_key with the certificate of a client",
        "localhost:20081 speaks TLS",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    Ok(())
}

#[test]
fn the_page_on_access_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/access.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in [
        "for --token_jwks of every node",
        r#""lockstep_role": "admin""#,
        "its signature was not checked",
        "nobody may do this without a name: show a token",
        "shop-7 may not call http/metrics",
        r#"lockstep_calls_refused_total{reason="denied"} 1"#,
        r#""code":"UNAUTHENTICATED""#,
        r#"reloads_total{file="policy"} 1"#,
        "beside those that it had",
        r#"reloads_total{file="keys"} 1"#,
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    Ok(())
}

#[test]
fn the_page_on_rows_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/rows.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in [
        "this was a dry run: nothing was restored",
        "state     kept as it is",
        r#"{"in":"values","key":"hello","value":"world"}"#,
        "this was a dry run: nothing was written",
        "imported 1 rows, in place of 2",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    // From the restored cluster, from the file, and behind the import.
    assert_eq!(text.matches(r#""value":"world""#).count(), 3, "{text}");
    Ok(())
}

#[test]
fn the_page_on_replay_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/replay.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in [
        "hashes that are recorded are the same",
        "command 0: Example/Add",
        r#""call":"put""#,
        r#""value":"again""#,
        "2 commands, 0 answered differently",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    Ok(())
}

#[test]
fn the_page_on_the_benchmark_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/bench.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in [
        "put on lockstep",
        "mixed on lockstep",
        "open loop, 200 calls/s",
        "8 in flight each",
        "Example/Get on lockstep",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    // One object for each number of clients, and their count.
    assert_eq!(text.matches(r#""client_cpu_us_per_call":"#).count(), 2, "{text}");
    assert!(text.lines().any(|line| line == "2"), "{text}");
    Ok(())
}

#[test]
fn the_page_on_upgrades_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/upgrade.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in [
        "this was a dry run: nothing was changed",
        "prepared: nodeA, nodeB, nodeC",
        "changed at entry ",
        "BREAKS     Example: the service is gone",
        "BREAKS     state tag 1: was Map<String, String>, and is ",
        "--allow_breaking",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert_eq!(text.matches(r#""value":"world""#).count(), 1, "{text}");
    Ok(())
}

#[test]
fn the_page_on_compatibility_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/compatibility.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in ["already, since entry", "and semantics", "is never lowered, so not to 1"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    assert_eq!(text.matches(r#""value":"world""#).count(), 1, "{text}");
    Ok(())
}

#[test]
fn the_page_on_the_archive_does_what_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let script = blocks("docs/archive.md").concat();
    let text = succeeded(&run(&format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"))?)?;
    for expected in ["backed up 2 log entries", "hashes in them are as here", "start it with: "] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    // From the restored cluster alone.
    assert_eq!(text.matches(r#""value":"moon""#).count(), 1, "{text}");
    Ok(())
}

#[test]
fn the_page_on_limits_does_what_it_says() -> Result<()> {
    let text = succeeded(&run(&blocks("docs/limits.md").concat())?)?;
    assert!(text.contains("prices.Prices/Do") && text.contains("limits: 100000000 a command"), "{text}");
    Ok(())
}

/// Writes the README's own guest, builds it, runs it in `dev` and calls it, in a copy of the
/// checkout.
#[test]
fn the_guest_of_the_readme_builds_and_runs_as_it_says() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap();
    let copy = tempfile::tempdir()?;
    let text = std::fs::read_to_string(checkout().join("README.md"))?;
    let section =
        text.split("## Write your own").nth(1).and_then(|rest| rest.split("\n## ").next()).context("no section")?;
    let command = |start: &str| {
        let found = section.lines().find_map(|line| line.strip_prefix("$ ")).filter(|line| line.starts_with(start));
        found.with_context(|| format!("no command {start}"))
    };
    let dev = command("build/lockstep dev")?;
    let blocks: Vec<String> = blocks("README.md")
        .into_iter()
        .filter(|block| block.contains("hello"))
        .filter(|block| section.contains(&**block))
        .collect();
    let [build, call] = blocks.as_slice() else { panic!("the section has {} blocks of hello", blocks.len()) };
    let copy = copy.path().display();
    let script = format!(
        "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
        for entry in .cargo *; do case $entry in build|target) ;; *) cp -r $entry {copy} ;; esac; done
        mkdir {copy}/build; cp build/lockstep {copy}/build; cd {copy}
        {build}
        {dev} > dev.log 2>&1 &
        until grep -q 'Ctrl-C stops' dev.log; do kill -0 %1; sleep 0.1; done
        {call}
        cat dev.log"
    );
    let text = succeeded(&run(&script)?)?;
    let line = section.split('`').find(|words| words.starts_with("cargo build")).context("no build command")?;
    assert!(line.split_whitespace().all(|word| text.contains(word)), "cargo xtask guests does not run {line}:\n{text}");
    assert_eq!(text.matches(r#"{"count":"1","last":"world"}"#).count(), 2, "{text}");
    assert!(text.contains("hello.wasm is ready") && text.contains("kv.wasm is ready"), "{text}");
    Ok(())
}

#[test]
fn the_demo_shows_what_it_promises_and_leaves_nothing_behind() -> Result<()> {
    let _turn = ONE_DEMO_AT_A_TIME.lock().unwrap();
    let block = blocks("README.md").into_iter().find(|block| block.contains("cargo xtask demo")).unwrap();
    let text = succeeded(&run(&block)?)?;
    for expected in ["through a follower", "from every node", "SIGKILL", "Nothing was lost", "exit code 0"] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    let left = std::fs::read_dir(std::env::temp_dir())?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("lockstep-demo-"))
        .filter(|entry| text.contains(&*entry.file_name().to_string_lossy()))
        .count();
    assert_eq!(left, 0, "directories are left behind");
    Ok(())
}

/// Help and wrong arguments cost no build.
#[test]
fn xtask_answers_help_and_slips_before_it_builds() -> Result<()> {
    let xtask = |words: &str| run(&format!("cargo xtask {words} || echo \"code $?\""));
    let text = succeeded(&xtask("torture --help")?)?;
    let faults = FaultKind::ALL.map(FaultKind::name).join(",");
    assert!(text.contains(&format!(": {faults}\n")) && !text.contains("code"), "{text}");
    let text = succeeded(&xtask("changes --help")?)?;
    let guests = Guest::ALL.map(Guest::name).join(",");
    assert!(text.contains(&format!(": {guests}\n")) && !text.contains("code"), "{text}");
    for (words, expected) in [
        ("demo --help", "kills the leader"),
        ("test --help", "--test scenarios first_hour"),
        ("faults --help", "one-way"),
        ("bench --help", "1 to 600"),
        ("bench 5", "error: there is no flag '5'"),
        ("bench-large --help", "GiB of keys and values"),
        ("bench-large --gib 0", "error: --gib must be 0.001 to 64"),
        ("alike --help", "Ten million commands"),
        ("costs --help", "native twin"),
        ("instructions --help", "--record"),
        ("help", "cargo xtask <command> --help"),
        ("demo --fast", "error: '--fast' is unknown here"),
        ("torture --cycle 3", "error: there is no flag '--cycle'"),
        ("faults kil", "error: no case 'kil'"),
        ("tset", "error: there is no command 'tset'"),
    ] {
        let text = succeeded(&xtask(words)?)?;
        assert!(text.contains(expected), "{words}: {expected} is not in:\n{text}");
        assert_eq!(text.contains("code 2"), expected.starts_with("error"), "{words}:\n{text}");
        assert!(!text.contains("$ cargo"), "{words} built something:\n{text}");
    }
    Ok(())
}

/// Kills a demo, and expects that its nodes end and that the next demo removes its directory.
#[test]
fn a_demo_that_is_killed_leaves_no_node() -> Result<()> {
    let _turn = ONE_DEMO_AT_A_TIME.lock().unwrap();
    use std::io::{BufRead, BufReader};
    let mut demo = Command::new("cargo")
        .args(["xtask", "demo"])
        .current_dir(checkout())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(demo.stdout.take().context("piped")?).lines();
    let mut addresses = Vec::new();
    for line in lines.map_while(Result::ok) {
        addresses.extend(line.split_whitespace().filter(|word| word.starts_with("127.0.0.1:")).map(str::to_owned));
        if line.contains("Watch a key") {
            break;
        }
    }
    // The demo prints the addresses of its nodes when it starts them.
    assert!(addresses.len() >= 6, "the demo did not come to its watch: {addresses:?}");
    demo.kill()?;
    demo.wait()?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    for address in addresses {
        while std::net::TcpStream::connect(&address).is_ok() {
            ensure!(std::time::Instant::now() < deadline, "a node still serves {address}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    // The next demo removes what this one left.
    let text = succeeded(&run("cargo xtask demo")?)?;
    assert!(text.contains("which a demo left that was killed"), "{text}");
    Ok(())
}

#[test]
fn every_path_that_the_pages_name_exists() {
    let mut pages: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "client/README.md"]
            .map(|page| checkout().join(page))
            .into();
    let docs = std::fs::read_dir(checkout().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let benchmarks = std::fs::read_dir(checkout().join("docs/benchmarks")).unwrap().map(|entry| entry.unwrap().path());
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    pages.extend(docs.chain(benchmarks).filter(is_page));
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") && !link.starts_with('#') {
                // A link is relative to its page.
                assert!(page.with_file_name(link).exists(), "{} names {link}, which is not there", page.display());
            }
        }
    }
    let contract = std::fs::read_to_string(checkout().join("wit/machine.wit")).unwrap();
    for word in
        contract.split_whitespace().map(|word| word.trim_end_matches('.')).filter(|word| word.starts_with("docs/"))
    {
        assert!(checkout().join(word).exists(), "the contract names {word}, which is not there");
    }
}
