//! Gives every file of the corpora to its target, as `fuzz/` does, with the ordinary compiler.
//! Compares the list of targets with the programs of `fuzz/`, and the seeds with their files.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use super::{TARGETS, seeds};

/// Set to write the seeds into the corpora.
const WRITE: &str = "LOCKSTEP_WRITE_SEEDS";

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn no_file_of_a_corpus_breaks_its_parser() {
    for (name, target) in TARGETS {
        let corpus = fuzz().join("corpus").join(name);
        let files = names(&corpus);
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(corpus.join(&file)).unwrap();
            assert!(catch_unwind(|| target(&bytes)).is_ok(), "fuzz/corpus/{name}/{file}: see the panic above");
        }
    }
}

#[test]
fn every_target_has_its_program() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "fuzz/Cargo.toml has no {name}");
        let program = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("lockstep::fuzzing::{name}(bytes)")), "{program}");
    }
    assert_eq!(names(&fuzz().join("corpus")), targets);
    assert_eq!(names(&fuzz().join("fuzz_targets")).len(), targets.len(), "a program without a target");
}

/// A format that changes gets further seeds; the old ones stay.
#[test]
fn every_seed_is_in_its_corpus() {
    let write = std::env::var_os(WRITE).is_some();
    for seeds::Seed { target, name, bytes } in seeds::all() {
        let file = fuzz().join("corpus").join(target).join(name);
        if write {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &bytes).unwrap();
        }
        let found = std::fs::read(&file).ok();
        assert_eq!(found, Some(bytes), "{} differs: run this test once with {WRITE}=1", file.display());
    }
}
