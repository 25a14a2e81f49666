//! The disk. Knows RocksDB, files and fsync; knows no wasm and no network.
