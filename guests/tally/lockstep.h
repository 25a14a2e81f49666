// The contract wit/machine.wit 1.0.0 for guests in C: its imports as functions, its exports as names, and memory that lasts for one call.
// Written by hand after the canonical ABI, laid out as `wit-bindgen c` would; no libc is needed. Knows nothing of any one service.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMPORT(interface, name) __attribute__((import_module("lockstep:machine/" interface "@1.0.0"), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

// Bytes, text: a pointer and a length, as the canonical ABI has lists and strings.
typedef struct {
  const uint8_t *at;
  size_t len;
} bytes;

#define TEXT(literal) ((bytes){(const uint8_t *)(literal), sizeof(literal) - 1})

// ---- Memory: handed out one after the other, and taken back as a whole when the call is over. ----

extern uint8_t __heap_base;
static uint8_t *heap_next;

static void *allocate(size_t size, size_t align) {
  if (!heap_next) heap_next = &__heap_base;
  uintptr_t at = ((uintptr_t)heap_next + align - 1) & ~(uintptr_t)(align - 1);
  uintptr_t end = at + size;
  uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
  // Denied growth ends the call; the host undoes what it wrote.
  if (end < at || (end > have && __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == (size_t)-1)) __builtin_trap();
  heap_next = (uint8_t *)end;
  return (void *)at;
}

// What the host calls to put arguments and results into our memory.
EXPORT("cabi_realloc") void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  void *at = allocate(size, align);
  if (old) __builtin_memcpy(at, old, old_size < size ? old_size : size);
  return at;
}

// ---- Imports. Results that do not fit a register are written to the last pointer. ----

typedef struct {
  bool some;
  bytes value;
} optional_bytes;

typedef struct {
  bytes rows;
  bool more;
} page;

IMPORT("store", "get") void import_get(const uint8_t *key, size_t key_len, optional_bytes *result);
IMPORT("store", "scan") void import_scan(const uint8_t *start, size_t start_len, uint32_t has_end, const uint8_t *end, size_t end_len,
                                         uint32_t reverse, uint32_t limit, page *result);
IMPORT("store", "put") void import_put(const uint8_t *key, size_t key_len, const uint8_t *value, size_t value_len);
IMPORT("snapshot-sink", "write") void import_sink(const uint8_t *chunk, size_t len);
IMPORT("snapshot-source", "read") void import_source(uint32_t max, bytes *result);

static optional_bytes store_get(bytes key) {
  optional_bytes result;
  import_get(key.at, key.len, &result);
  return result;
}

static void store_put(bytes key, bytes value) { import_put(key.at, key.len, value.at, value.len); }

// All rows from `start` on, as many as fit a page.
static page store_scan_from(bytes start) {
  page result;
  import_scan(start.at, start.len, 0, NULL, 0, 0, 0, &result);
  return result;
}

// ---- What the exports return: `result<list<u8>, status>` and `result<_, status>` have one layout. ----

typedef struct {
  uint8_t refused;
  union {
    bytes reply;
    struct {
      uint32_t code;
      bytes message;
      bytes details;
    } status;
  };
} outcome;

enum { INVALID_ARGUMENT = 3, UNIMPLEMENTED = 12, DATA_LOSS = 15 };

static outcome outcome_area;

static outcome *ok(bytes reply) {
  outcome_area = (outcome){.refused = 0, .reply = reply};
  return &outcome_area;
}

static outcome *refuse(uint32_t code, bytes message) {
  outcome_area = (outcome){.refused = 1, .status = {code, message, {NULL, 0}}};
  return &outcome_area;
}

// The parameters of the exports: `context` takes the first three.
#define CONTEXT uint64_t index, uint32_t position, uint64_t time_ms
#define METHOD_AND_REQUEST const uint8_t *method_at, size_t method_len, const uint8_t *request_at, size_t request_len

// The host has read the outcome: all memory is free again. A call that ended otherwise ends this instance.
#define FREES_AFTER(name) \
  EXPORT("cabi_post_lockstep:machine/machine@1.0.0#" #name) void after_##name(outcome *returned) { \
    (void)returned; \
    heap_next = &__heap_base; \
  }
FREES_AFTER(apply)
FREES_AFTER(query)
FREES_AFTER(snapshot)
FREES_AFTER(restore)

// ---- The whole state as a snapshot: rows as `store.page` has them, then a row without a key. ----

enum { ROW_HEADER_BYTES = 8 };

static uint32_t u32_le(const uint8_t *at) { return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24; }

static outcome *write_snapshot(void) {
  static uint8_t start_area[4097];
  static const uint8_t end_row[ROW_HEADER_BYTES];
  bytes start = {start_area, 1};
  bool more = true;
  while (more) {
    uint8_t *mark = allocate(0, 1);
    page rows = store_scan_from(start);
    if (rows.rows.len) import_sink(rows.rows.at, rows.rows.len);
    // On after the last key: that key and a zero byte.
    const uint8_t *row = rows.rows.at, *end = row + rows.rows.len;
    while (row < end) {
      uint32_t key_len = u32_le(row);
      __builtin_memcpy(start_area, row + ROW_HEADER_BYTES, key_len);
      start_area[key_len] = 0;
      start.len = key_len + 1;
      row += ROW_HEADER_BYTES + key_len + u32_le(row + 4);
    }
    more = rows.more;
    heap_next = mark;
  }
  import_sink(end_row, ROW_HEADER_BYTES);
  return ok((bytes){NULL, 0});
}

// Exactly `len` bytes of the snapshot; fewer when it is cut short.
static bytes read_snapshot(size_t len) {
  uint8_t *all = allocate(len, 1);
  size_t have = 0;
  while (have < len) {
    bytes chunk;
    import_source(len - have, &chunk);
    if (!chunk.len) break;
    __builtin_memcpy(all + have, chunk.at, chunk.len);
    have += chunk.len;
  }
  return (bytes){all, have};
}

static outcome *restore_snapshot(void) {
  for (;;) {
    uint8_t *mark = allocate(0, 1);
    bytes header = read_snapshot(ROW_HEADER_BYTES);
    if (header.len < ROW_HEADER_BYTES) return refuse(DATA_LOSS, TEXT("the snapshot is cut short"));
    size_t key_len = u32_le(header.at), value_len = u32_le(header.at + 4);
    if (!key_len) return ok((bytes){NULL, 0});
    bytes row = read_snapshot(key_len + value_len);
    if (row.len < key_len + value_len) return refuse(DATA_LOSS, TEXT("the snapshot is cut short"));
    store_put((bytes){row.at, key_len}, (bytes){row.at + key_len, value_len});
    heap_next = mark;
  }
}
