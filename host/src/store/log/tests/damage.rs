//! Logs that are not whole: a tail torn by a crash is cut, lost synced data is refused by name, and
//! nothing panics. The random part prints its seed. `LOCKSTEP_DAMAGE_SEED` repeats it, and
//! `LOCKSTEP_DAMAGE_CASES` makes it longer.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::super::columns::{LOG, Meta, encode_log_key, encode_meta_key};
use super::super::super::options;
use super::super::super::pinned::family;
use super::super::super::record_files::BLOCK_BYTES;
use super::super::super::record_files::tests::{fragments, recycle};
use super::super::check;
use super::super::synced::{Ends, Synced};
use super::*;

/// Bytes at the end of the WAL. The test tears the WAL at each of them.
const TORN_BYTES: u64 = 4096;
/// Number of random damages in a normal run.
const CASES: u64 = 60;

/// Copies a data directory as a killed process leaves it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Returns what a killed process leaves: a copy made while the log is open.
pub(super) fn killed(root: &TempDir) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    copy(root.path(), image.path());
    image
}

fn files(image: &TempDir, is: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let all = fs::read_dir(image.path().join("raft")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = all.filter(|path| is(path.file_name().unwrap().to_str().unwrap())).collect();
    found.sort();
    found
}

pub(super) fn wal(image: &TempDir) -> PathBuf {
    let longest = |path: &PathBuf| fs::metadata(path).unwrap().len();
    files(image, |name| name.ends_with(".log")).into_iter().max_by_key(longest).unwrap()
}

pub(super) fn cut(path: &Path, bytes: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

pub(super) fn flip(path: &Path, at: u64, bit: u32) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
}

pub(super) fn synced(image: &TempDir) -> Synced {
    Synced::open(&image.path().join("SYNCED"), &image.path().join("raft")).unwrap()
}

/// Returns what was synced of group 0.
fn promised(image: &TempDir) -> Ends {
    synced(image).read().unwrap()[&GROUP]
}

/// Replaces what was synced of group 0.
fn promise(image: &TempDir, ends: Ends) {
    synced(image).write(&[(GROUP, ends)]).unwrap();
}

/// Lowers `SYNCED` to `last`, as after a power cut that lost its newer content.
fn promise_only(image: &TempDir, last: LogId) {
    promise(image, Ends { last: Some(last), ..promised(image) });
}

/// Changes a closed log.
fn tamper(root: &TempDir, change: impl FnOnce(&DB)) {
    let path = DataDir::open(root.path()).unwrap().raft();
    change(&DB::open_cf_descriptors(&options::raft(), path, options::raft_families()).unwrap());
}

fn error_of(image: &TempDir) -> String {
    open(image).err().expect("it is refused").to_string()
}

/// Makes a log with some history: a vote, an identity, two terms, a truncation, a purge.
async fn history(root: &TempDir) -> Log {
    let mut log = open(root).unwrap();
    log.0.disk.save_identity(&Identity { node_id: 9, name: "a".into(), cluster: None, boot: 3 }).unwrap();
    log.save_vote(&vote(1)).await.unwrap();
    for index in 0..30 {
        append(&mut log, 1, index..index + 1).await;
    }
    log.truncate_after(Some(log_id(1, 24))).await.unwrap();
    log.save_vote(&vote(2)).await.unwrap();
    log.purge(log_id(1, 4)).await.unwrap();
    for index in 25..40 {
        append(&mut log, 2, index..index + 1).await;
    }
    log
}

/// Checks an opened image of the log against what was promised and against the whole log.
async fn check_opened(mut log: Log, promised: &Ends) {
    let state = log.get_log_state().await.unwrap();
    assert!(state.last_log_id >= promised.last, "{state:?}");
    let read = log.get_log_reader().await.read_vote().await.unwrap();
    assert!(read >= promised.vote, "{read:?}");
    assert!(log.0.disk.identity().is_some_and(|identity| identity.node_id == 9 && identity.boot >= promised.boot));
    let entries = log.get_log_reader().await.try_get_log_entries(..).await.unwrap();
    let first = state.last_purged_log_id.map_or(0, |purged| purged.index + 1);
    for (entry, index) in entries.iter().zip(first..) {
        let term = if index < 25 { 1 } else { 2 };
        // Truncated entries may be back when the truncation was not synced. They are truncated
        // again later.
        let is_known = entry.log_id == log_id(term, index) || entry.log_id == log_id(1, index);
        assert!(is_known, "{}", entry.log_id);
        let payload = EntryPayload::Normal(EntryData(Bytes::copy_from_slice(&index.to_be_bytes())));
        assert_eq!(entry.payload, payload, "{index}");
    }
    let last = state.last_log_id.map_or(first, |last| last.index + 1);
    assert_eq!(entries.len() as u64, last - first);
}

fn check_refusal(text: &str) {
    let needed = ["remove_server", "it will be a new node"];
    assert!(needed.iter().all(|words| text.contains(words)), "a refusal that says no way back: {text}");
}

#[tokio::test]
async fn a_torn_tail_that_nobody_was_told_of_is_cut() {
    let root = tempfile::tempdir().unwrap();
    let log = history(&root).await;
    let image = killed(&root);
    drop(log);
    promise_only(&image, log_id(2, 38));
    // RocksDB itself opens a log whose last record ends too early,
    cut(&wal(&image), 3);
    check_opened(open(&image).unwrap(), &promised(&image)).await;
    // and refuses one whose last record is complete and wrong.
    let image = killed(&root);
    promise_only(&image, log_id(2, 38));
    let path = wal(&image);
    flip(&path, fs::metadata(&path).unwrap().len() - 3, 2);
    let mut log = open(&image).unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 38)));
    append(&mut log, 2, 39..42).await;
    drop(log);
    assert!(image.path().join("raft.damaged").exists(), "the original is kept,");
    promise_only(&image, log_id(2, 99));
    check_refusal(&error_of(&image));
    assert!(image.path().join("raft.damaged").exists(), "also by a start that refuses the log,");
    promise_only(&image, log_id(2, 38));
    let mut log = open(&image).unwrap();
    assert!(!image.path().join("raft.damaged").exists(), "until a start needs no repair");
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 41)));
    append(&mut log, 2, 42..43).await;
}

#[tokio::test]
async fn a_power_cut_may_leave_a_log_without_a_promise_beside_its_state() {
    let root = tempfile::tempdir().unwrap();
    let log = history(&root).await;
    let image = killed(&root);
    drop(log);
    promise(&image, Ends::default());
    fs::create_dir_all(image.path().join("state/0/1")).unwrap();
    check_opened(open(&image).unwrap(), &Ends::default()).await;
}

#[tokio::test]
async fn a_log_below_what_was_synced_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let log = history(&root).await;
    let image = killed(&root);
    drop(log);
    let path = wal(&image);
    let whole = fs::metadata(&path).unwrap().len();
    cut(&path, 3);
    for _ in 0..2 {
        let error = error_of(&image);
        check_refusal(&error);
        assert!(error.contains("the last log id on disk is T2-N1.38, and T2-N1.39 had been synced"), "{error}");
    }
    let image = killed(&root);
    flip(&wal(&image), whole / 2, 5);
    let before = fs::read(wal(&image)).unwrap();
    let error = error_of(&image);
    check_refusal(&error);
    assert!(error.contains("checksum mismatch") && error.contains("had been synced"), "{error}");
    assert_eq!(fs::read(wal(&image)).unwrap(), before, "what is refused stays as it was");
    assert!(!image.path().join("raft.repairing").exists());
    let error = error_of(&image);
    assert!(error.contains("had been synced"), "a second start says the same: {error}");
}

#[tokio::test]
async fn the_wal_torn_at_any_byte_opens_with_what_was_synced_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let log = history(&root).await;
    let image = killed(&root);
    drop(log);
    let promised = promised(&image);
    let whole = fs::read(wal(&image)).unwrap();
    let length = whole.len() as u64;
    let mut opened = 0;
    // A normal run tries one byte in 41. Over many runs every byte is tried.
    let step = if std::env::var_os("LOCKSTEP_DAMAGE_CASES").is_some() { 1 } else { 41 };
    let offset = u64::from(std::process::id()) % step;
    for bytes in (offset..TORN_BYTES.min(length)).step_by(usize::try_from(step).unwrap()) {
        for promised in [promised, Ends { last: Some(log_id(1, 10)), vote: Some(vote(1)), ..promised }] {
            let torn = killed(&image);
            cut(&wal(&torn), bytes);
            promise(&torn, promised);
            match open(&torn) {
                Ok(log) => {
                    opened += 1;
                    check_opened(log, &promised).await;
                }
                Err(error) => check_refusal(&error.to_string()),
            }
        }
    }
    assert!(opened > 0, "a torn tail that was never acknowledged opens");
}

/// Splitmix, which is good enough to choose bits.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_survived_or_refused_by_name() {
    let seed = number("LOCKSTEP_DAMAGE_SEED", getrandom::u64().unwrap());
    let cases = number("LOCKSTEP_DAMAGE_CASES", CASES);
    eprintln!("LOCKSTEP_DAMAGE_SEED={seed} LOCKSTEP_DAMAGE_CASES={cases}");
    let mut random = Random(seed);
    let root = tempfile::tempdir().unwrap();
    let log = history(&root).await;
    let in_wal = killed(&root);
    drop(log);
    // After a clean stop and a start, the data of the WAL is in tables.
    drop(open(&root).unwrap());
    let mut log = open(&root).unwrap();
    append(&mut log, 2, 40..44).await;
    let in_tables = killed(&root);
    drop(log);
    let (mut opened, mut refused) = (0, 0);
    for case in 0..cases {
        let image = killed(if case % 2 == 0 { &in_wal } else { &in_tables });
        let promised = promised(&image);
        let mut targets = files(&image, |name| !name.starts_with("LO") && !name.starts_with("OPTIONS"));
        targets.push(image.path().join("SYNCED"));
        targets.retain(|path| fs::metadata(path).unwrap().len() > 0);
        let target = &targets[usize::try_from(random.below(targets.len() as u64)).unwrap()];
        let at = random.below(fs::metadata(target).unwrap().len());
        let bit = u32::try_from(random.below(8)).unwrap();
        eprintln!("case {case}: bit {bit} of byte {at} of {}", target.display());
        flip(target, at, bit);
        match open(&image) {
            Ok(log) => {
                opened += 1;
                check_opened(log, &promised).await;
            }
            Err(error) => {
                refused += 1;
                check_refusal(&error.to_string());
            }
        }
    }
    eprintln!("{opened} opened, {refused} refused");
    assert!(cases < 40 || (opened > 0 && refused > 0), "both happen");
}

#[tokio::test]
async fn a_record_that_rocksdb_would_read_for_ever_is_damage_like_any_other() {
    let root = tempfile::tempdir().unwrap();
    let log = history(&root).await;
    let image = killed(&root);
    drop(log);
    let path = wal(&image);
    recycle(&path, *fragments(&path).last().unwrap());
    let error = error_of(&image);
    check_refusal(&error);
    assert!(error.contains("only recycled logs have") && error.contains("T2-N1.39 had been synced"), "{error}");
    assert_eq!(error.matches("empty").count(), 1, "one way back: {error}");
    promise_only(&image, log_id(2, 38));
    check_opened(open(&image).unwrap(), &promised(&image)).await;
    assert!(image.path().join("raft.damaged").exists(), "its tail was cut, and the original is kept");

    let image = killed(&root);
    let manifest = files(&image, |name| name.starts_with("MANIFEST-")).pop().unwrap();
    let sound = fs::read(&manifest).unwrap();
    for at in fragments(&manifest) {
        recycle(&manifest, at);
        let error = error_of(&image);
        check_refusal(&error);
        assert!(error.contains(&format!("the record at byte {at}: it is of a kind")), "{error}");
        fs::write(&manifest, &sound).unwrap();
    }
    open(&image).unwrap();
}

/// RocksDB accepted what followed the zeros. Truncated entries came back, with others after them.
#[tokio::test]
async fn zeros_in_the_middle_of_the_log_are_damage() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    log.0.disk.save_identity(&Identity { node_id: 9, name: "a".into(), cluster: None, boot: 3 }).unwrap();
    append(&mut log, 1, 0..30).await;
    let kept = fragments(&wal(&root)).len();
    log.truncate_after(Some(log_id(1, 24))).await.unwrap();
    append(&mut log, 2, 25..28).await;
    let block = u64::try_from(BLOCK_BYTES).unwrap();
    let mut next = 28;
    while fs::metadata(wal(&root)).unwrap().len() < 2 * block {
        append(&mut log, 2, next..next + 1).await;
        next += 1;
    }
    let image = killed(&root);
    drop(log);
    let path = wal(&image);
    let hole = fragments(&path)[kept];
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(hole).unwrap()..BLOCK_BYTES].fill(0);
    fs::write(&path, bytes).unwrap();
    let error = error_of(&image);
    check_refusal(&error);
    assert!(error.contains(&format!("the record at byte {hole}: it begins with zeros")), "{error}");
    promise_only(&image, log_id(1, 24));
    assert_eq!(open(&image).unwrap().get_log_state().await.unwrap().last_log_id, Some(log_id(1, 29)));
}

#[tokio::test]
async fn missing_files_are_refused_and_never_made_anew() {
    let root = tempfile::tempdir().unwrap();
    drop(history(&root).await);
    for name in ["raft/CURRENT", "SYNCED", "raft"] {
        let image = killed(&root);
        let path = image.path().join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        let files_before = fs::read_dir(image.path().join("raft")).map_or(0, |files| files.count());
        for _ in 0..2 {
            check_refusal(&error_of(&image));
        }
        let files_now = fs::read_dir(image.path().join("raft")).unwrap().count();
        assert!(files_now >= files_before, "{name}: nothing is removed");
    }
}

#[tokio::test]
async fn a_log_of_another_node_is_refused() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(history(&root).await);
    let log = open(&other).unwrap();
    log.0.disk.save_identity(&Identity { node_id: 8, name: "a".into(), cluster: None, boot: 30 }).unwrap();
    drop(log);
    fs::remove_dir_all(root.path().join("raft")).unwrap();
    copy(&other.path().join("raft"), &root.path().join("raft"));
    let error = error_of(&root);
    check_refusal(&error);
    assert!(error.contains("directories of two nodes were mixed"), "{error}");
}

#[tokio::test]
async fn damage_inside_the_log_is_found_at_open() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    append(&mut log, 1, 0..5).await;
    drop(log);
    let key = encode_log_key(0, 2);
    let mut sound = Vec::new();
    tamper(&root, |database| {
        sound = database.get_cf(family(database, LOG), key).unwrap().unwrap();
        let mut flipped = sound.clone();
        flipped[25] ^= 1;
        database.put_cf(family(database, LOG), key, flipped).unwrap();
    });
    let error = error_of(&root);
    check_refusal(&error);
    assert!(error.contains("log entry 2: damaged record: the checksum does not fit"), "{error}");
    tamper(&root, |database| database.delete_cf(family(database, LOG), key).unwrap());
    assert!(error_of(&root).contains("log entry 2 is missing"), "a hole");
    tamper(&root, |database| database.put_cf(family(database, LOG), key, &sound).unwrap());
    open(&root).unwrap();
    let meta = |meta| encode_meta_key(0, meta);
    for record in [Meta::Purged, Meta::Identity, Meta::Vote] {
        let image = killed(&root);
        tamper(&image, |database| database.put_cf(family(database, "meta"), meta(record), b"\x01soup").unwrap());
        let error = error_of(&image);
        assert!(error.contains(&format!("meta record {record:?}")), "{error}");
    }
}

#[tokio::test]
async fn what_is_too_long_to_be_checked_at_open_is_checked_when_it_is_read() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    let noise =
        |index: u64| (0..1000u64).flat_map(|n| (n * index).wrapping_mul(0x9e37_79b9).to_be_bytes()).collect::<Vec<_>>();
    log.blocking_append((0..400).map(|index| entry(1, index, &noise(index)))).await.unwrap();
    drop(log);
    tamper(&root, |database| {
        let (log, key) = (family(database, LOG), encode_log_key(0, 20));
        let mut flipped = database.get_cf(log, key).unwrap().unwrap();
        flipped[25] ^= 1;
        database.put_cf(log, key, flipped).unwrap();
        database.flush_cf(log).unwrap();
        assert!(check::check(database, root.path(), 0, check::CHECKED_BYTES).is_err());
        let found = check::check(database, root.path(), 0, 1 << 20).unwrap();
        assert_eq!((found.first, found.last()), (Some(0), Some(log_id(1, 399))));
        database.delete_cf(log, encode_log_key(0, 0)).unwrap();
        database.put_cf(family(database, "meta"), encode_meta_key(0, Meta::Purged), purged_at(4)).unwrap();
        assert!(check::check(database, root.path(), 0, 1 << 20).is_err(), "where it begins is looked at in any case");
    });
}

fn purged_at(index: u64) -> Vec<u8> {
    crate::codec::encode_record(&log_id(1, index))
}

#[tokio::test]
async fn a_read_that_finds_damage_ends_the_node() {
    let root = tempfile::tempdir().unwrap();
    let mut log = open(&root).unwrap();
    append(&mut log, 1, 0..5).await;
    drop(log);
    let directory = DataDir::open(root.path()).unwrap();
    let fatal = Fatal::default();
    let mut log = LogDisk::open(&directory, fatal.clone()).unwrap().log(GROUP).unwrap();
    let (database, key) = (log.0.shared.database.clone(), encode_log_key(0, 2));
    database.put_cf(family(&database, LOG), key, b"soup").unwrap();
    assert!(log.get_log_reader().await.try_get_log_entries(..).await.is_err());
    let reason = fatal.raised().await;
    assert!(reason.contains("the log could not be read") && reason.contains("log entry 2"), "{reason}");
}
