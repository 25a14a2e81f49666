//! How RocksDB is set up, each setting with its reason. Sized for small machines: all memtables and caches of a node stay below
//! about 200 MiB. Opens nothing itself.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType, DBRecoveryMode,
    LogLevel, Options, WriteOptions,
};

use super::columns::{DATA, LOG, META, SYSTEM};
use super::file_limit::within;
use super::{open_files, pinned};
use crate::faults;

const MIB: usize = 1024 * 1024;
/// One memtable of the Raft log. Entries that are purged before it is full never reach a table file's lower levels.
const LOG_MEMTABLE_BYTES: usize = 32 * MIB;
/// One memtable of the log's `meta`: a handful of small records.
const META_MEMTABLE_BYTES: usize = 4 * MIB;
/// `meta` hardly ever fills its memtable; this bounds the WALs it would otherwise keep alive.
const WAL_BYTES_MAX: u64 = 256 * MIB as u64;
/// All memtables of the state. The apply thread flushes at 16 MiB; this is for one that is late.
const STATE_MEMTABLES_BYTES: usize = 32 * MIB;
/// A table file that a compaction makes; RocksDB's own default.
const TABLE_FILE_BYTES: u64 = 64 * MIB as u64;
/// Cache of table blocks, for state and log each.
const BLOCK_CACHE_BYTES: usize = 32 * MIB;
/// A state file in which this many of so many neighbouring rows are removals is compacted soon: a scan passes over each of them.
const REMOVALS_WINDOW: usize = 4096;
/// See [`REMOVALS_WINDOW`].
const REMOVALS_MAX: usize = 2048;
/// RocksDB's own text log: this many files of this many bytes.
const TEXT_LOG_FILES: usize = 3;
const TEXT_LOG_BYTES: usize = 4 * MIB;

/// RocksDB's name for what a family holds in the memtable that is written now, in bytes.
const ACTIVE_MEMTABLE_BYTES: &str = "rocksdb.cur-size-active-mem-table";

/// Whether RocksDB will soon flush `family` by itself, and open files for it: three quarters of a memtable are full.
pub(super) fn is_nearly_full(database: &DB, family: &'static str) -> bool {
    let memtable = memtable(if family == LOG { LOG_MEMTABLE_BYTES } else { STATE_MEMTABLES_BYTES / 2 }) as u64;
    let bytes = database.property_int_value_cf(pinned::family(database, family), ACTIVE_MEMTABLE_BYTES);
    bytes.ok().flatten().is_some_and(|bytes| bytes >= memtable / 4 * 3)
}

/// For `raft/`.
pub(super) fn raft() -> Options {
    let mut options = common();
    // The default, point-in-time, drops synced records after bit rot and opens all the same.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A recycled WAL has old records behind its end, which that mode cannot tell from damage.
    options.set_recycle_log_file_num(0);
    // A WAL that is missing or too short is found at open.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(within(WAL_BYTES_MAX));
    options
}

/// For a copy of a damaged `raft/`: everything up to the first record that is not whole.
pub(super) fn raft_up_to_damage() -> Options {
    let mut options = raft();
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // A WAL that is too short is what this is for; `SYNCED` says whether too much is gone.
    options.set_track_and_verify_wals_in_manifest(false);
    options
}

/// The families of `raft/`.
pub(super) fn raft_families() -> Vec<ColumnFamilyDescriptor> {
    let mut log = family();
    log.set_write_buffer_size(memtable(LOG_MEMTABLE_BYTES));
    let mut meta = family();
    meta.set_write_buffer_size(memtable(META_MEMTABLE_BYTES));
    vec![ColumnFamilyDescriptor::new(LOG, log), ColumnFamilyDescriptor::new(META, meta)]
}

/// Writes to `raft/`: on disk when the call returns.
pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// Writes to `raft/` in a test of the tests: a power cut would take them away.
pub(super) fn unsynced() -> WriteOptions {
    WriteOptions::default()
}

/// For `state/` and checkpoints.
pub(super) fn state() -> Options {
    let mut options = common();
    // Without a WAL this is what keeps `data` and `system` at the same log position on disk.
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(memtable(STATE_MEMTABLES_BYTES));
    options
}

/// The families of `state/`. One cache serves both.
pub(super) fn state_families() -> Vec<ColumnFamilyDescriptor> {
    let mut family = family();
    // A share of the whole file, 0: a single stretch of removals is enough.
    family.add_compact_on_deletion_collector_factory(REMOVALS_WINDOW, REMOVALS_MAX, 0.0);
    if faults::is_set("state-cramped") {
        cramp(&mut family);
    }
    if faults::is_set("state-piled") {
        family.set_compaction_style(DBCompactionStyle::Universal);
        family.set_level_zero_file_num_compaction_trigger(16);
    }
    vec![ColumnFamilyDescriptor::new(DATA, family.clone()), ColumnFamilyDescriptor::new(SYSTEM, family)]
}

/// Writes to `state/`: no WAL, the Raft log is its WAL.
pub(super) fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// Hardly any memory, many small files, and compaction all the time: another way to the same rows.
fn cramp(family: &mut Options) {
    let mut table = BlockBasedOptions::default();
    table.disable_cache();
    table.set_block_size(512);
    family.set_block_based_table_factory(&table);
    family.set_write_buffer_size(MIB / 4);
    family.set_target_file_size_base(MIB as u64 / 4);
    family.set_max_bytes_for_level_base(MIB as u64);
    family.set_level_zero_file_num_compaction_trigger(2);
    family.set_compression_type(DBCompressionType::None);
}

fn common() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(open_files::tables_max());
    options.set_log_level(LogLevel::Info);
    options.set_keep_log_file_num(TEXT_LOG_FILES);
    options.set_max_log_file_size(TEXT_LOG_BYTES);
    // Statistics in the text log every ten minutes would push what matters out of three small files.
    options.set_stats_dump_period_sec(0);
    options
}

fn family() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    // Index and filter blocks count against the cache, so that a large state does not grow the process.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(memtable(STATE_MEMTABLES_BYTES / 2));
    options.set_target_file_size_base(within(TABLE_FILE_BYTES));
    options
}

/// What is flushed becomes a file.
fn memtable(bytes: usize) -> usize {
    usize::try_from(within(bytes as u64)).unwrap_or(bytes)
}
