//! Tests the check of advisories with a small made-up database.

use super::*;

const LOCK: &str = r#"
version = 4

[[package]]
name = "engine"
version = "48.0.8"
source = "registry+https://github.com/rust-lang/crates.io-index"

[[package]]
name = "frames"
version = "0.4.20"
source = "registry+https://github.com/rust-lang/crates.io-index"

[[package]]
name = "frames"
version = "0.3.27"
source = "registry+https://github.com/rust-lang/crates.io-index"

[[package]]
name = "mine"
version = "0.1.0"
"#;

fn advisory(id: &str, package: &str, more: &str, versions: &str) -> String {
    format!(
        "```toml\n[advisory]\nid = \"{id}\"\npackage = \"{package}\"\ndate = \"2026-02-03\"\n{more}\n\
         [affected]\nfunctions = {{ \"a::b\" = [\"< 1\"] }}\n\n[versions]\n{versions}\n```\n\n# It crashes\n\nText.\n"
    )
}

fn judged(advisories: &[String], ignored: &str) -> Report {
    let advisories: Vec<Advisory> = advisories.iter().map(|text| Advisory::read(text).unwrap()).collect();
    judge(&locked(LOCK).unwrap(), &advisories, &Ignored::read(ignored).unwrap())
}

#[test]
fn a_hit_names_the_crate_the_advisory_and_what_mends_it() {
    let report =
        judged(&[advisory("RUSTSEC-2026-0001", "engine", "", r#"patched = [">= 48.0.9", ">= 47.1, < 48"]"#)], "");
    assert_eq!(report.hits, ["engine 48.0.8: RUSTSEC-2026-0001: It crashes; mended by >=48.0.9 or >=47.1, <48"]);
    let text = report.text(Path::new("db"));
    assert!(text.starts_with("advisories: 3 locked crates against 1 advisories of db, the newest of 2026-02-03\n"));
    assert!(text.contains("\n  HIT engine 48.0.8"), "{text}");
}

#[test]
fn each_locked_version_is_judged_by_the_ranges() {
    for (versions, expected) in [
        (r#"patched = [">= 0.4.20"]"#, &["0.3.27"][..]),
        (r#"patched = ["^0.3.27", ">= 0.4.21"]"#, &["0.4.20"]),
        ("patched = []\nunaffected = [\"< 0.4\"]", &["0.4.20"]),
        ("patched = []", &["0.4.20", "0.3.27"]),
        (r#"patched = [">= 0.3.27"]"#, &[]),
    ] {
        let report = judged(&[advisory("RUSTSEC-2026-0002", "frames", "", versions)], "");
        assert_eq!(report.hits.len(), expected.len(), "{versions}: {:?}", report.hits);
        for (hit, version) in report.hits.iter().zip(expected) {
            assert!(hit.starts_with(&format!("frames {version}: ")), "{versions}: {hit}");
        }
    }
}

#[test]
fn what_is_withdrawn_elsewhere_or_of_the_checkout_hits_nothing() {
    let all = "patched = []";
    let report = judged(
        &[
            advisory("RUSTSEC-2026-0003", "engine", "withdrawn = \"2026-02-04\"", all),
            advisory("RUSTSEC-2026-0004", "another", "", all),
            advisory("RUSTSEC-2026-0005", "mine", "", all),
        ],
        "",
    );
    assert!(report.hits.is_empty() && report.notices.is_empty(), "{report:?}");
}

#[test]
fn a_notice_is_told_and_fails_nothing() {
    let report =
        judged(&[advisory("RUSTSEC-2026-0006", "engine", "informational = \"unmaintained\"", "patched = []")], "");
    assert!(report.hits.is_empty(), "{report:?}");
    assert_eq!(
        report.notices,
        ["unmaintained: engine 48.0.8: RUSTSEC-2026-0006: It crashes; mended by no version yet"]
    );
}

#[test]
fn what_is_ignored_is_told_with_its_reason_and_must_hit_something() {
    let ignored = "[[ignored]]\nid = \"RUSTSEC-2026-0007\"\nreason = \"guests have no such instruction\"\n";
    let hit = advisory("RUSTSEC-2026-0007", "engine", "", "patched = []");
    let report = judged(&[hit], ignored);
    assert!(report.hits.is_empty(), "{report:?}");
    assert!(report.notices[0].starts_with("ignored: engine 48.0.8: RUSTSEC-2026-0007"), "{report:?}");
    assert!(report.notices[0].ends_with("; guests have no such instruction"), "{report:?}");
    let report = judged(&[advisory("RUSTSEC-2026-0008", "another", "", "patched = []")], ignored);
    assert_eq!(report.notices, [format!("{IGNORED} names RUSTSEC-2026-0007, which hits nothing: take it out")]);
    let silent = "[[ignored]]\nid = \"RUSTSEC-2026-0007\"\nreason = \" \"\n";
    assert!(Ignored::read(silent).is_err_and(|error| error.to_string().contains("RUSTSEC-2026-0007 has no reason")));
}

#[test]
fn a_database_is_read_from_its_directory() {
    let database = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let file = database.path().join("crates").join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    assert!(find(Some(database.path())).unwrap_err().to_string().contains("has no directory `crates`"));
    put("engine/RUSTSEC-2026-0009.md", &advisory("RUSTSEC-2026-0009", "engine", "", "patched = []"));
    put("frames/RUSTSEC-2026-0010.md", &advisory("RUSTSEC-2026-0010", "frames", "", "patched = []"));
    put("README.md", "not of a crate");
    assert_eq!(find(Some(database.path())).unwrap(), Ok(database.path().to_owned()));
    assert_eq!(read(database.path()).unwrap().len(), 2);
    put("engine/RUSTSEC-2026-0011.md", "no front matter");
    let error = format!("{:#}", read(database.path()).unwrap_err());
    assert!(error.contains("RUSTSEC-2026-0011.md: it does not begin with a block of TOML"), "{error}");
}

/// The files of the checkout can be read.
#[test]
fn the_own_lock_and_the_own_exceptions_are_read() {
    let own = |name: &str| std::fs::read_to_string(crate::root().join(name)).unwrap();
    let locked = locked(&own("Cargo.lock")).unwrap();
    for name in ["wasmtime", "rustls", "h2", "hyper", "tonic", "aws-lc-sys"] {
        assert!(locked.contains_key(name), "{name} is not locked");
    }
    Ignored::read(&own(IGNORED)).unwrap();
}
