//! The RocksDB settings, each with its reason. Sized for small machines: all memtables and caches
//! of a node stay below about 200 MiB. Opens nothing itself.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType, DBRecoveryMode,
    LogLevel, Options, WriteOptions,
};

use super::columns::{DATA, LOG, META, SYSTEM};
use super::file_limit::within;
use super::{open_files, pinned};
use crate::faults;

const MIB: usize = 1024 * 1024;
/// Size of one memtable of the Raft log. A larger one spares few bytes: by default, entries are
/// kept for longer than one is filled, so each is written to a table file anyway.
pub(super) const LOG_MEMTABLE_BYTES: usize = 16 * MIB;
/// Most memtables of the Raft log, of which all but one wait for a flush. All flushes of a process
/// take turns, so one of the state may be before them. RocksDB stops the writes when there are as
/// many.
const LOG_MEMTABLES: i32 = 4;
/// Number of table files of the Raft log that are compacted together. They have 128 MiB, unless the
/// limit of a file's size makes memtables smaller. Entries that are purged before are not copied.
const LOG_FILES: i32 = 8;
/// Numbers of such files at which RocksDB slows the writes down, and stops them. A compaction of
/// the log may wait for one of the state, and files come meanwhile.
const LOG_FILES_SLOW: i32 = 40;
const LOG_FILES_STOP: i32 = 52;
// Whoever reads the log opens all of them. Of the limit on table files, RocksDB takes 10 off.
const _: () = assert!(LOG_FILES_STOP < open_files::TABLES_MIN as i32 - 10);
/// Size of one memtable of the log's `meta`, which holds a few small records.
const META_MEMTABLE_BYTES: usize = 4 * MIB;
/// Most bytes of WALs. `meta` hardly ever fills its memtable, and would keep old WALs alive without
/// this limit.
const WAL_BYTES_MAX: u64 = 256 * MIB as u64;
/// Size of one memtable of the state. Both families together have no more in active ones, and one
/// entry: apply has them flushed when they are nearly full, and waits if they are again before that
/// flush has ended.
pub(crate) const STATE_MEMTABLE_BYTES: usize = 16 * MIB;
/// Full memtables that the state has: one that is filled, and one that is flushed meanwhile.
const STATE_MEMTABLES: usize = 2;
/// Most memtables of a family of the state, of which all but one wait for a flush. RocksDB stops
/// the writes when there are as many. Two flushes may begin at a time: that of apply, and that of a
/// checkpoint or of a tidying.
const STATE_FAMILY_MEMTABLES: i32 = STATE_MEMTABLES as i32 + 1;
/// Size of a table file that a compaction makes; RocksDB's own default.
const TABLE_FILE_BYTES: u64 = 64 * MIB as u64;
/// Size of a cache of table blocks. `log` and `meta` have one each, `data` and `system` share one.
const BLOCK_CACHE_BYTES: usize = 32 * MIB;
/// Size of all memtables of a scratch state, and of its cache of table blocks. A rehearsal has a
/// few of them beside the state in use.
const SCRATCH_MEMORY_BYTES: usize = 8 * MIB;
/// Size of one memtable of a scratch state.
pub(super) const SCRATCH_MEMTABLE_BYTES: usize = SCRATCH_MEMORY_BYTES / 2;
/// Number of neighbouring rows in which RocksDB counts removals. See [`REMOVALS_MAX`].
const REMOVALS_WINDOW: usize = 4096;
/// Removals within [`REMOVALS_WINDOW`] rows at which a state file is compacted soon. A scan has to
/// step over each removal.
const REMOVALS_MAX: usize = 2048;
/// Number of files of RocksDB's own text log. Each has [`TEXT_LOG_BYTES`].
const TEXT_LOG_FILES: usize = 3;
const TEXT_LOG_BYTES: usize = 4 * MIB;

/// RocksDB's property for the bytes in a family's active memtable.
const ACTIVE_MEMTABLE_BYTES: &str = "rocksdb.cur-size-active-mem-table";

/// Returns whether RocksDB will soon flush these families by itself, and open files for them.
///
/// That is so when the active memtables of all of them together have three quarters of
/// `memtable_bytes`. Memtables that are being flushed do not count.
pub(super) fn is_nearly_full(database: &DB, families: &[&'static str], memtable_bytes: usize) -> bool {
    let active = |&name: &&'static str| {
        let bytes = database.property_int_value_cf(pinned::family(database, name), ACTIVE_MEMTABLE_BYTES);
        bytes.ok().flatten().unwrap_or(0)
    };
    families.iter().map(active).sum::<u64>() >= memtable(memtable_bytes) as u64 / 4 * 3
}

/// Options of `raft/`.
pub(super) fn raft() -> Options {
    let mut options = common();
    // The default, point-in-time, drops synced records after bit rot and opens the database without
    // an error.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A recycled WAL has old records after its end. This recovery mode cannot tell them from
    // damage.
    options.set_recycle_log_file_num(0);
    // With this, RocksDB finds at open that a WAL is missing or too short.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(within(WAL_BYTES_MAX));
    options
}

/// Options of a copy of a damaged `raft/`: opens it up to the first record that is not whole.
pub(super) fn raft_up_to_damage() -> Options {
    let mut options = raft();
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // This serves WALs that are too short. `SYNCED` tells whether too much is missing.
    options.set_track_and_verify_wals_in_manifest(false);
    options
}

/// The families of `raft/`.
pub(super) fn raft_families() -> Vec<ColumnFamilyDescriptor> {
    let mut log = family();
    log.set_write_buffer_size(memtable(LOG_MEMTABLE_BYTES));
    log.set_max_write_buffer_number(LOG_MEMTABLES);
    log.set_level_zero_file_num_compaction_trigger(LOG_FILES);
    log.set_level_zero_slowdown_writes_trigger(LOG_FILES_SLOW);
    log.set_level_zero_stop_writes_trigger(LOG_FILES_STOP);
    let mut meta = family();
    meta.set_write_buffer_size(memtable(META_MEMTABLE_BYTES));
    vec![ColumnFamilyDescriptor::new(LOG, log), ColumnFamilyDescriptor::new(META, meta)]
}

/// Write options of `raft/`: the data is on disk when the call returns.
pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// Write options of `raft/` for a check of the tests themselves: a power cut loses these writes.
pub(super) fn unsynced() -> WriteOptions {
    WriteOptions::default()
}

/// Options of `state/` and of checkpoints.
pub(super) fn state() -> Options {
    let mut options = common();
    // Without a WAL, this keeps `data` and `system` at the same log position on disk.
    options.set_atomic_flush(true);
    // Above this, and with half of it in active memtables, RocksDB flushes by itself.
    options.set_db_write_buffer_size(STATE_MEMTABLES * memtable(STATE_MEMTABLE_BYTES));
    options
}

/// The families of `state/`. One cache serves both.
pub(super) fn state_families() -> Vec<ColumnFamilyDescriptor> {
    let mut family = family();
    family.set_max_write_buffer_number(STATE_FAMILY_MEMTABLES);
    // 0 turns off the ratio over the whole file: a single stretch of removals is enough.
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

/// Options of a scratch state. It lives for minutes beside the state in use, and takes little of
/// what that one needs.
pub(super) fn scratch() -> Options {
    let mut options = common();
    options.set_db_write_buffer_size(memtable(SCRATCH_MEMORY_BYTES));
    options.set_max_open_files(open_files::scratch_tables_max());
    options
}

/// The families of a scratch state. One that takes few entries is not compacted: that would copy
/// tables that it shares with its checkpoint. In one that takes many, files would pile up until
/// RocksDB stops the writes.
pub(super) fn scratch_families(is_compacted: bool) -> Vec<ColumnFamilyDescriptor> {
    let mut family = family_with(SCRATCH_MEMORY_BYTES);
    family.set_write_buffer_size(memtable(SCRATCH_MEMTABLE_BYTES));
    family.set_disable_auto_compactions(!is_compacted);
    vec![ColumnFamilyDescriptor::new(DATA, family.clone()), ColumnFamilyDescriptor::new(SYSTEM, family)]
}

/// Write options of `state/`: no WAL, because the Raft log is its WAL.
pub(super) fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// Uses hardly any memory, many small files and constant compaction. The rows must stay the same.
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
    // Statistics in the text log every ten minutes would push important lines out of three small
    // files.
    options.set_stats_dump_period_sec(0);
    options
}

fn family() -> Options {
    family_with(BLOCK_CACHE_BYTES)
}

fn family_with(cache_bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
    // Index and filter blocks count against the cache, so that a large state does not grow the
    // process.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(memtable(STATE_MEMTABLE_BYTES));
    options.set_target_file_size_base(within(TABLE_FILE_BYTES));
    options
}

/// Limits a memtable's size to the file limit, because a flush writes it to a file.
fn memtable(bytes: usize) -> usize {
    usize::try_from(within(bytes as u64)).unwrap_or(bytes)
}
