//! Tests of the words: which are taken, and which are refused with what.

use super::*;

const COMMANDS: [&str; 18] = [
    "demo",
    "test",
    "build",
    "guests",
    "setup",
    "torture",
    "changes",
    "faults",
    "abuse",
    "alike",
    "rolling",
    "bench",
    "bench-large",
    "costs",
    "instructions",
    "fuzz",
    "corpus",
    "advisories",
];

#[test]
fn every_command_has_help_wherever_it_is_asked_for() {
    for command in COMMANDS {
        assert!(HELP.contains(&format!("\n  {command} ")), "{command} is not in the list");
        for words in [&[command, "--help"][..], &[command, "-h"], &["help", command], &[command, "5", "--help"]] {
            let Task::Help(help) = parse(words).unwrap() else { panic!("{words:?} is a task") };
            assert!(help.starts_with(&format!("cargo xtask {command}")), "{help}");
        }
    }
    assert_eq!(parse(&[]).unwrap(), Task::Help(HELP.into()));
}

#[test]
fn good_words_are_taken() {
    let words = ["torture", "--cycles", "300", "--faults", "crash,cut-power", "--nodes", "5"];
    assert_eq!(parse(&words).unwrap(), Task::Torture(&words[1..]));
    let words = ["changes", "--legs", "6", "--guests", "kv,orders", "--state_mib", "1024"];
    assert_eq!(parse(&words).unwrap(), Task::Changes(&words[1..]));
    let words = ["faults", "5", "kill", "cut-off", "--seed", "7"];
    assert_eq!(parse(&words).unwrap(), Task::Faults(&words[1..]));
    let words = ["test", "--test", "scenarios", "first_hour", "--", "--help"];
    assert_eq!(parse(&words).unwrap(), Task::Test(&words[1..]));
    let words = ["alike", "--commands", "20000", "--seed", "3"];
    assert_eq!(parse(&words).unwrap(), Task::Alike(&words[1..]));
    let words = ["abuse", "--case", "pings", "--case", "silent", "--seconds", "3", "--json", "figures.json"];
    assert_eq!(parse(&words).unwrap(), Task::Abuse(&words[1..]));
    let words = ["fuzz", "peer", "--seconds", "60", "entry", "--jobs", "2", "--keep"];
    let asked = Fuzz { targets: vec!["peer", "entry"], seconds: 60, jobs: 2, keep: true };
    assert_eq!(parse(&words).unwrap(), Task::Fuzz(asked));
    assert_eq!(parse(&["fuzz"]).unwrap(), Task::Fuzz(Fuzz { seconds: 600, jobs: 1, ..Fuzz::default() }));
    let asked = Instructions { record: true, pieces: vec!["query", "call"] };
    assert_eq!(parse(&["instructions", "query", "--record", "call"]).unwrap(), Task::Instructions(asked));
    assert_eq!(parse(&["instructions"]).unwrap(), Task::Instructions(Instructions::default()));
    let words = ["corpus", "--wasmtime", "49.0.5", "--toolchain", "nightly", "--profile", "dev", "--target", AARCH64];
    let asked = Corpus { wasmtime: Some("49.0.5"), toolchain: Some("nightly"), is_dev: true, is_aarch64: true };
    assert_eq!(parse(&words).unwrap(), Task::Corpus(asked));
    assert_eq!(parse(&["corpus", "--profile", "release"]).unwrap(), Task::Corpus(Corpus::default()));
    assert_eq!(parse(&["advisories", "--db", "x"]).unwrap(), Task::Advisories(Some("x")));
    assert_eq!(parse(&["rolling", "--from", "v1"]).unwrap(), Task::Rolling(Some("v1")));
    assert_eq!(parse(&["rolling"]).unwrap(), Task::Rolling(None));
    assert_eq!(parse(&["bench"]).unwrap(), Task::Bench(Bench::default()));
    let words = [
        "bench",
        "--seconds",
        "9",
        "--rounds",
        "2",
        "--clients",
        "1,64",
        "--only",
        "put,mixed",
        "--etcd",
        "x",
        "--out",
        "y",
    ];
    let (clients, operations) = (vec![1, 64], vec!["put", "mixed"]);
    let asked = Bench { seconds: 9, rounds: 2, clients, etcd: Some("x"), out: Some("y"), operations };
    assert_eq!(parse(&words).unwrap(), Task::Bench(asked));
    assert_eq!(parse(&["bench-large"]).unwrap(), Task::BenchLarge(Large::default()));
    let words = ["bench-large", "--gib", "0.5", "--keys", "7", "--entries", "8", "--seconds", "9", "--rounds", "2"];
    let asked = Large { state_bytes: 1 << 29, keys: 7, entries: 8, seconds: 9, rounds: 2, out: None };
    assert_eq!(parse(&words).unwrap(), Task::BenchLarge(asked));
    let words = ["bench-large", "--out", "y"];
    assert_eq!(parse(&words).unwrap(), Task::BenchLarge(Large { out: Some("y"), ..Large::default() }));
}

#[test]
fn bad_words_are_refused_by_name_with_the_usage() {
    let table: &[(&[&str], &str)] = &[
        (&["dmeo"], "no command 'dmeo'"),
        (&["demo", "--fast"], "'--fast' is unknown"),
        (&["build", "x"], "'x' is unknown"),
        (&["torture", "--cycle", "3"], "no flag '--cycle'"),
        (&["torture", "--cycles"], "--cycles needs a value"),
        (&["torture", "--cycles", "many"], "'many' is not a number"),
        (&["torture", "--faults", "crash,flood"], "no fault 'flood'"),
        (&["changes", "--guests", "kv,tally"], "no guest 'tally'"),
        (&["changes", "--clients", "2"], "3 to 300"),
        (&["changes", "--state_mib"], "--state_mib needs a value"),
        (&["changes", "--guests", "kv,locks", "--state_mib", "1024"], "at most 200"),
        (&["faults", "kil"], "no case 'kil'"),
        (&["faults", "0"], "1 to 1000"),
        (&["alike", "--commands", "9"], "at least 10000"),
        (&["abuse", "--case", "ping"], "no case 'ping'"),
        (&["abuse", "--seconds", "0"], "1 to 600"),
        (&["abuse", "--program"], "--program needs a value"),
        (&["costs", "all"], "'all' is unknown"),
        (&["instructions", "--recrod"], "no flag '--recrod'"),
        (&["fuzz", "--seconds", "0"], "--seconds is at least 1"),
        (&["fuzz", "--jobs", "0"], "--jobs must be 1 to 64"),
        (&["fuzz", "--second", "1"], "no flag '--second'"),
        (&["rolling", "--from"], "--from needs a commit"),
        (&["rolling", "--from", "--hard"], "--from needs a commit"),
        (&["rolling", "v1"], "'v1' is unknown here"),
        (&["corpus", "--wasmtime", "48"], "'48' is no version"),
        (&["corpus", "--wasmtime"], "--wasmtime needs a value"),
        (&["corpus", "--profile", "fast"], "no profile 'fast'; there are dev, release"),
        (&["corpus", "--target", "wasm32-unknown-unknown"], "no target 'wasm32-unknown-unknown'"),
        (&["corpus", "dev"], "no flag 'dev'"),
        (&["advisories", "--db"], "--db needs a directory"),
        (&["advisories", "db"], "'db' is unknown here"),
        (&["bench", "5"], "no flag '5'"),
        (&["bench", "--seconds", "soon"], "'soon' is not a number"),
        (&["bench", "--rounds", "0"], "--rounds must be 1 to 100"),
        (&["bench", "--clients", "1,,2"], "'' is not a number"),
        (&["bench", "--clients", "4,4"], "--clients: 4 is there twice"),
        (&["bench", "--only", "put,scan"], "no operation 'scan'"),
        (&["bench", "--etcd"], "--etcd needs a value"),
        (&["bench-large", "--gib", "0"], "--gib must be 0.001 to 64"),
        (&["bench-large", "--gib", "NaN"], "--gib must be 0.001 to 64"),
        (&["bench-large", "--gib", "much"], "'much' is not a number"),
        (&["bench-large", "--rounds", "11"], "--rounds must be 1 to 10"),
        (&["bench-large", "--keys"], "--keys needs a value"),
        (&["bench-large", "--clients", "4"], "no flag '--clients'"),
        (&["test", "--tset", "x"], "'--tset' is no flag"),
    ];
    for (words, problem) in table {
        let refusal = parse(words).unwrap_err();
        assert!(refusal.problem.contains(problem), "{words:?}: {}", refusal.problem);
        assert!(refusal.usage.starts_with("cargo xtask"), "{}", refusal.usage);
    }
}
