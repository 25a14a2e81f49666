//! Tests of the words: which are taken, and which are refused with what.

use super::*;

const COMMANDS: [&str; 13] = [
    "demo",
    "test",
    "build",
    "guests",
    "setup",
    "torture",
    "faults",
    "abuse",
    "alike",
    "bench",
    "costs",
    "fuzz",
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
    let words = ["faults", "5", "kill", "cut-off", "--seed", "7"];
    assert_eq!(parse(&words).unwrap(), Task::Faults(&words[1..]));
    let words = ["test", "--test", "scenarios", "first_hour", "--", "--help"];
    assert_eq!(parse(&words).unwrap(), Task::Test(&words[1..]));
    let words = ["alike", "--commands", "20000", "--seed", "3"];
    assert_eq!(parse(&words).unwrap(), Task::Alike(&words[1..]));
    let words = ["abuse", "--case", "pings", "--case", "silent", "--seconds", "3", "--json", "figures.json"];
    assert_eq!(parse(&words).unwrap(), Task::Abuse(&words[1..]));
    let words = ["fuzz", "peer", "--seconds", "60", "entry", "--keep"];
    let asked = Fuzz { targets: vec!["peer", "entry"], seconds: 60, keep: true };
    assert_eq!(parse(&words).unwrap(), Task::Fuzz(asked));
    assert_eq!(parse(&["fuzz"]).unwrap(), Task::Fuzz(Fuzz { seconds: 600, ..Fuzz::default() }));
    assert_eq!(parse(&["advisories", "--db", "x"]).unwrap(), Task::Advisories(Some("x")));
    assert_eq!(parse(&["bench"]).unwrap(), Task::Bench(5));
    assert_eq!(parse(&["bench", "9"]).unwrap(), Task::Bench(9));
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
        (&["faults", "kil"], "no case 'kil'"),
        (&["faults", "0"], "1 to 1000"),
        (&["alike", "--commands", "9"], "at least 10000"),
        (&["abuse", "--case", "ping"], "no case 'ping'"),
        (&["abuse", "--seconds", "0"], "1 to 600"),
        (&["abuse", "--program"], "--program needs a value"),
        (&["costs", "all"], "'all' is unknown"),
        (&["fuzz", "--seconds", "0"], "--seconds is at least 1"),
        (&["fuzz", "--second", "1"], "no flag '--second'"),
        (&["advisories", "--db"], "--db needs a directory"),
        (&["advisories", "db"], "'db' is unknown here"),
        (&["bench", "soon"], "'soon' is not a number"),
        (&["bench", "5", "6"], "'6' is one argument"),
        (&["test", "--tset", "x"], "'--tset' is no flag"),
    ];
    for (words, problem) in table {
        let refusal = parse(words).unwrap_err();
        assert!(refusal.problem.contains(problem), "{words:?}: {}", refusal.problem);
        assert!(refusal.usage.starts_with("cargo xtask"), "{}", refusal.usage);
    }
}
