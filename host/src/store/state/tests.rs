//! Tests of generations: commits, views, installs, and what crashes leave behind.

use std::ops::ControlFlow;
use std::time::Duration;

use tempfile::TempDir;

use super::super::record_files::tests::{fragments, recycle};
use super::super::{Batch, Column, Read};
use super::*;

fn directory() -> (TempDir, DataDir) {
    let root = tempfile::tempdir().unwrap();
    let directory = DataDir::open(root.path()).unwrap();
    (root, directory)
}

fn put(generation: &Generation, rows: &[(&str, &str)]) {
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put(Column::Data, key.as_bytes(), value.as_bytes());
    }
    generation.commit(&batch).unwrap();
}

fn get(state: &dyn Read, key: &str) -> Option<String> {
    state.get(Column::Data, key.as_bytes()).unwrap().map(|value| String::from_utf8(value).unwrap())
}

fn scan(state: &dyn Read, start: &str, end: Option<&str>, reverse: bool, limit: usize) -> Vec<String> {
    let mut keys = Vec::new();
    state
        .scan(Column::Data, start.as_bytes(), end.map(str::as_bytes), reverse, &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            if keys.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    keys
}

fn generations(directory: &DataDir) -> Vec<u64> {
    numbers(&directory.group(0).state()).unwrap()
}

#[test]
fn what_was_flushed_survives_and_nothing_of_a_batch_survives_alone() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 0).unwrap();
    let current = state.current();
    let mut batch = Batch::new();
    batch.put(Column::Data, b"k", b"1");
    batch.put(Column::System, b"applied", b"1");
    current.commit(&batch).unwrap();
    current.flush().unwrap();
    let mut batch = Batch::new();
    batch.put(Column::Data, b"k", b"2");
    batch.put(Column::System, b"applied", b"2");
    current.commit(&batch).unwrap();
    assert!(current.approximate_bytes() > 0);
    // A copy of the directory is what a killed process leaves.
    let copy = tempfile::tempdir().unwrap();
    for name in names(current.path()).unwrap() {
        fs::copy(current.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let found = Generation::open(copy.path()).unwrap();
    let data = found.get(Column::Data, b"k").unwrap();
    assert_eq!(data, found.get(Column::System, b"applied").unwrap());
    assert_eq!(data.as_deref(), Some(&b"1"[..]));
}

#[test]
fn both_families_reach_the_disk_at_one_position_whatever_is_committed_meanwhile() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 0).unwrap();
    let (current, committed) = (state.current(), AtomicU64::new(0));
    let commit = |position: u64| {
        let mut batch = Batch::new();
        batch.put(Column::Data, &position.to_be_bytes(), &[7; 100]);
        batch.put(Column::Data, b"position", &position.to_be_bytes());
        batch.put(Column::System, b"position", &position.to_be_bytes());
        current.commit(&batch).unwrap();
        committed.store(position, Ordering::Release);
    };
    commit(1);
    let before = std::thread::scope(|scope| {
        // Fewer flushes than begin a compaction, which would remove files that are copied below.
        let flushing = scope.spawn(|| {
            let mut before = 0;
            for _ in 0..3 {
                before = committed.load(Ordering::Acquire);
                current.flush().unwrap();
            }
            before
        });
        while !flushing.is_finished() {
            commit(committed.load(Ordering::Acquire) + 1);
            // A slow disk must not let the memtable become full.
            std::thread::sleep(Duration::from_micros(50));
        }
        flushing.join().unwrap()
    });
    let copy = tempfile::tempdir().unwrap();
    for name in names(current.path()).unwrap() {
        fs::copy(current.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let found = Generation::open(copy.path()).unwrap();
    let position = |column| {
        let bytes = found.get(column, b"position").unwrap().unwrap();
        u64::from_be_bytes(bytes.try_into().unwrap())
    };
    assert_eq!(position(Column::Data), position(Column::System));
    assert!((before..=committed.into_inner()).contains(&position(Column::Data)), "{before} were committed before");
}

#[test]
fn a_restart_finds_the_flushed_state() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 0).unwrap();
    put(&state.current(), &[("a", "1")]);
    state.current().flush().unwrap();
    drop(state);
    let state = State::open(&directory, 0).unwrap();
    assert_eq!(get(&*state.current(), "a").as_deref(), Some("1"));
}

#[test]
fn scans_are_ordered_bounded_and_stop() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 0).unwrap();
    let current = state.current();
    put(&current, &[("a", ""), ("b", ""), ("c", ""), ("d", "")]);
    let mut batch = Batch::new();
    batch.remove(Column::Data, b"c");
    batch.put(Column::System, b"b2", b"another column");
    current.commit(&batch).unwrap();
    let view = current.view();
    for state in [&*current as &dyn Read, &view] {
        assert_eq!(scan(state, "", None, false, 9), ["a", "b", "d"]);
        assert_eq!(scan(state, "", None, true, 9), ["d", "b", "a"]);
        assert_eq!(scan(state, "b", Some("d"), false, 9), ["b"]);
        assert_eq!(scan(state, "a", Some("d"), true, 1), ["b"]);
        assert_eq!(scan(state, "d", Some("a"), false, 9), Vec::<String>::new());
        assert_eq!(scan(state, "b", Some("b"), true, 9), Vec::<String>::new());
    }
}

#[test]
fn a_view_does_not_see_later_commits_and_crosses_threads() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 0).unwrap();
    put(&state.current(), &[("a", "old")]);
    let view = state.current().view();
    put(&state.current(), &[("a", "new"), ("b", "new")]);
    state.current().flush().unwrap();
    drop(state);
    let seen = std::thread::spawn(move || (get(&view, "a"), scan(&view, "", None, false, 9)));
    assert_eq!(seen.join().unwrap(), (Some("old".into()), vec!["a".to_owned()]));
}

#[test]
fn an_installed_generation_replaces_the_old_one_for_good() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 0).unwrap();
    put(&state.current(), &[("a", "old")]);
    let view = state.current().view();
    let new = Arc::new(state.create().unwrap());
    put(&new, &[("a", "new")]);
    state.install(new, 7).unwrap();
    assert_eq!(get(&*state.current(), "a").as_deref(), Some("new"));
    assert_eq!(get(&view, "a").as_deref(), Some("old"), "who was reading reads on");
    assert_eq!(generations(&directory), [1, 2]);
    drop(view);
    assert_eq!(generations(&directory), [2], "the last reader takes the old directory along");
    drop(state);
    let state = State::open(&directory, 0).unwrap();
    assert_eq!(get(&*state.current(), "a").as_deref(), Some("new"));
    assert_eq!(state.installed_from(), Some(7));
}

#[test]
fn what_names_no_generation_is_refused_with_the_way_back() {
    let (_root, directory) = directory();
    drop(State::open(&directory, 0).unwrap());
    for soup in [&b"\xff\xfe"[..], b"", b"one", b"1 2 3", b"-1"] {
        fs::write(directory.group(0).state().join("CURRENT"), soup).unwrap();
        let error = State::open(&directory, 0).unwrap_err().to_string();
        assert!(error.contains("names no generation") && error.contains("Delete"), "{error}");
    }
}

#[test]
fn one_generation_is_built_at_a_time_and_an_abandoned_one_goes() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 0).unwrap();
    let first = state.create().unwrap();
    assert!(matches!(state.create(), Err(StoreError::Misuse(_))));
    drop(first);
    assert_eq!(generations(&directory), [1]);
    let second = Arc::new(state.create().unwrap());
    state.install(second, 8).unwrap();
    state.create().unwrap();
}

#[test]
fn what_a_crash_left_beside_the_current_generation_is_removed() {
    let (_root, directory) = directory();
    drop(State::open(&directory, 0).unwrap());
    drop(Generation::open(&directory.group(0).state().join("7")).unwrap());
    fs::write(directory.group(0).state().join("CURRENT.tmp"), "7").unwrap();
    let state = State::open(&directory, 0).unwrap();
    assert_eq!(generations(&directory), [1]);
    assert_eq!(state.current().path(), directory.group(0).state().join("1"));
}

#[test]
fn a_missing_generation_is_not_replaced_by_an_empty_one() {
    let (_root, directory) = directory();
    drop(State::open(&directory, 0).unwrap());
    let current = directory.group(0).state().join("CURRENT");
    fs::write(&current, "3\n").unwrap();
    assert!(matches!(State::open(&directory, 0), Err(StoreError::Damaged { .. })));
    fs::remove_file(&current).unwrap();
    fs::create_dir(directory.group(0).state().join("2")).unwrap();
    assert!(matches!(State::open(&directory, 0), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_manifest_that_rocksdb_would_read_for_ever_is_damage() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 0).unwrap();
    put(&state.current(), &[("key", "value")]);
    state.current().flush().unwrap();
    let path = state.current().path().to_owned();
    drop(state);
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let manifest = files.into_iter().find(|path| path.to_str().unwrap().contains("MANIFEST-")).unwrap();
    recycle(&manifest, *fragments(&manifest).last().unwrap());
    let error = State::open(&directory, 0).err().unwrap();
    assert!(matches!(error, StoreError::StateDamaged { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("only recycled logs have") && text.contains("to have it made again"), "{text}");
    assert!(!text.contains("Remove this node"), "one way back: {text}");
}

#[tokio::test]
async fn a_state_is_released_when_the_last_view_of_it_is_gone_and_can_be_opened_again() {
    let (_root, directory) = directory();
    let state = State::open(&directory, 7).unwrap();
    put(&state.current(), &[("k", "1")]);
    let (view, mut released) = (state.current().view(), Box::pin(state.released()));
    drop(state);
    assert!(futures::poll!(&mut released).is_pending(), "a view still reads it");
    assert_eq!(get(&view, "k").as_deref(), Some("1"));
    drop(view);
    released.await;
    State::open(&directory, 7).unwrap();
}
