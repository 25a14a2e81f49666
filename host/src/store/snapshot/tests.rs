//! Tests of checkpoints: their position, how many are kept, and what is removed at open.

use std::sync::mpsc;

use tempfile::TempDir;

use super::super::record_files::tests::{fragments, recycle};
use super::super::{Batch, Column, State};
use super::*;

struct Disk {
    _root: TempDir,
    directory: DataDir,
    state: State,
}

fn disk() -> Disk {
    let root = tempfile::tempdir().unwrap();
    let directory = DataDir::open(root.path()).unwrap();
    let state = State::open(&directory, 0).unwrap();
    Disk { _root: root, directory, state }
}

/// Applies "entry" `index` of term 2.
fn apply(state: &State, index: u64) {
    let mut batch = Batch::new();
    batch.put(Column::Data, format!("key{index}").as_bytes(), b"value");
    batch.put(Column::System, b"applied", &index.to_be_bytes());
    state.current().commit(&batch).unwrap();
}

fn position(state: &dyn Read) -> Result<Option<(u64, u64)>, StoreError> {
    let applied = state.get(Column::System, b"applied")?;
    Ok(applied.map(|index| (u64::from_be_bytes(index.try_into().unwrap()), 2)))
}

fn indexes(checkpoints: &Checkpoints) -> Vec<u64> {
    checkpoints.list().iter().map(|checkpoint| checkpoint.index).collect()
}

#[test]
fn a_checkpoint_holds_the_state_of_its_own_position() {
    let disk = disk();
    let checkpoints = Checkpoints::open(&disk.directory, 0).unwrap();
    assert!(checkpoints.create(&disk.state.current(), &position).unwrap().is_none(), "nothing was applied");
    apply(&disk.state, 5);
    let checkpoint = checkpoints.create(&disk.state.current(), &position).unwrap().unwrap();
    apply(&disk.state, 6);
    assert_eq!((checkpoint.index, checkpoint.term), (5, 2));
    let opened = checkpoint.open().unwrap();
    assert_eq!(position(&*opened).unwrap(), Some((5, 2)));
    assert_eq!(opened.get(Column::Data, b"key6").unwrap(), None);
    assert!(
        opened
            .commit(&{
                let mut batch = Batch::new();
                batch.put(Column::Data, b"k", b"v");
                batch
            })
            .is_err(),
        "a checkpoint cannot change"
    );
}

#[test]
fn commits_go_on_while_a_checkpoint_is_made_and_rows_fit_the_position() {
    let disk = disk();
    let checkpoints = Checkpoints::open(&disk.directory, 0).unwrap();
    apply(&disk.state, 0);
    let (stop, stopped) = mpsc::channel::<()>();
    let state = disk.state.clone();
    let applying = std::thread::spawn(move || {
        let mut index = 0;
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            index += 1;
            apply(&state, index);
        }
    });
    for _ in 0..5 {
        let checkpoint = checkpoints.create(&disk.state.current(), &position).unwrap().unwrap();
        let opened = checkpoint.open().unwrap();
        let key = |index: u64| opened.get(Column::Data, format!("key{index}").as_bytes()).unwrap();
        assert!(key(checkpoint.index).is_some());
        assert!(key(checkpoint.index + 1).is_none());
    }
    stop.send(()).unwrap();
    applying.join().unwrap();
}

#[test]
fn three_are_kept_and_one_in_use_is_never_removed() {
    let disk = disk();
    let checkpoints = Checkpoints::open(&disk.directory, 0).unwrap();
    let make = |index| {
        apply(&disk.state, index);
        checkpoints.create(&disk.state.current(), &position).unwrap().unwrap()
    };
    let pinned = make(1).open().unwrap();
    for index in 2..=5 {
        make(index);
    }
    assert_eq!(indexes(&checkpoints), [1, 3, 4, 5]);
    assert!(pinned.get(Column::Data, b"key1").unwrap().is_some());
    drop(pinned);
    make(6);
    assert_eq!(indexes(&checkpoints), [4, 5, 6]);
    assert_eq!(names(&disk.directory.group(0).snapshots()).unwrap(), ["4-2", "5-2", "6-2"]);
    assert_eq!(checkpoints.newest().unwrap().index, 6);
}

#[test]
fn the_same_position_is_not_made_twice() {
    let disk = disk();
    let checkpoints = Checkpoints::open(&disk.directory, 0).unwrap();
    apply(&disk.state, 1);
    let first = checkpoints.create(&disk.state.current(), &position).unwrap().unwrap();
    let second = checkpoints.create(&disk.state.current(), &position).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(names(&disk.directory.group(0).snapshots()).unwrap(), ["1-2"]);
}

#[test]
fn open_lists_the_sound_and_removes_the_unfinished_and_the_broken() {
    let disk = disk();
    let checkpoints = Checkpoints::open(&disk.directory, 0).unwrap();
    for index in [9, 10, 11] {
        apply(&disk.state, index);
        checkpoints.create(&disk.state.current(), &position).unwrap();
    }
    drop(checkpoints);
    let root = disk.directory.group(0).snapshots();
    fs::create_dir(root.join("making.tmp")).unwrap();
    fs::create_dir(root.join("making.tmp.tmp")).unwrap();
    fs::create_dir(root.join("12-2")).unwrap();
    for name in names(&root.join("11-2")).unwrap().iter().filter(|name| name.ends_with(".sst")) {
        fs::remove_file(root.join("11-2").join(name)).unwrap();
    }
    let manifest = names(&root.join("10-2")).unwrap().into_iter().find(|name| name.starts_with("MANIFEST-")).unwrap();
    let manifest = root.join("10-2").join(manifest);
    recycle(&manifest, *fragments(&manifest).last().unwrap());
    let checkpoints = Checkpoints::open(&disk.directory, 0).unwrap();
    assert_eq!(indexes(&checkpoints), [9]);
    assert_eq!(names(&root).unwrap(), ["9-2"]);
    checkpoints.newest().unwrap().open().unwrap();
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let disk = disk();
    let checkpoints = Checkpoints::open(&disk.directory, 0).unwrap();
    apply(&disk.state, 1);
    let refused = checkpoints.create(&disk.state.current(), &|_| Err(StoreError::Misuse("no".into())));
    assert!(refused.is_err());
    assert!(names(&disk.directory.group(0).snapshots()).unwrap().is_empty());
    assert!(checkpoints.newest().is_none());
}

#[test]
fn names_are_positions_and_nothing_else() {
    assert_eq!(encode_name(42, 7), "42-7");
    assert_eq!(decode_name("42-7"), Some((42, 7)));
    for name in ["42", "42-7.tmp", "042-7", "+42-7", "a-b", "42-7-1"] {
        assert_eq!(decode_name(name), None, "{name}");
    }
}

#[test]
fn an_abandoned_range_is_set_aside_now_and_later() {
    let disk = disk();
    let checkpoints = Checkpoints::open(&disk.directory, 0).unwrap();
    for index in 1..=3 {
        apply(&disk.state, index);
        checkpoints.create(&disk.state.current(), &position).unwrap();
    }
    let read = checkpoints.list()[1].open().unwrap();
    checkpoints.abandon(2..4);
    assert_eq!(indexes(&checkpoints), [1]);
    let root = disk.directory.group(0).snapshots();
    assert_eq!(names(&root).unwrap(), ["1-2", "2-2.tmp"], "one is in use");
    assert!(read.get(Column::Data, b"key2").unwrap().is_some(), "who reads one can finish");
    assert!(checkpoints.create(&disk.state.current(), &position).is_err(), "it stands in that range, too");
    apply(&disk.state, 4);
    drop(read);
    checkpoints.create(&disk.state.current(), &position).unwrap();
    assert_eq!(names(&root).unwrap(), ["1-2", "4-2"]);
    assert_eq!(indexes(&Checkpoints::open(&disk.directory, 0).unwrap()), [1, 4]);
}
