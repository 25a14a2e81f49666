// Votes, counted, in C: what the two methods of proto/tally.proto mean. The state is one row a name: 'v' and the name, eight bytes big-endian.
// Reads and writes protobuf by hand, which two fields allow.
#include "lockstep.h"

static bool equal(bytes a, bytes b) {
  bool same = a.len == b.len;
  for (size_t i = 0; same && i < a.len; i++) same = a.at[i] == b.at[i];
  return same;
}

// A varint off the front of `in`; false when it is cut short or too long.
static bool take_varint(bytes *in, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (!in->len) return false;
    uint8_t byte = *in->at;
    in->at++, in->len--;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return true;
  }
  return false;
}

// Field 1 of a request, a string; other fields are passed over, as protobuf wants. False when the bytes are no message.
static bool take_name(bytes request, bytes *name) {
  *name = (bytes){NULL, 0};
  while (request.len) {
    uint64_t key, len = 0;
    if (!take_varint(&request, &key)) return false;
    switch (key & 7) {
      case 0: {
        uint64_t ignored;
        if (!take_varint(&request, &ignored)) return false;
        break;
      }
      case 1: len = 8; break;
      case 2:
        if (!take_varint(&request, &len)) return false;
        break;
      case 5: len = 4; break;
      default: return false;
    }
    if (len > request.len || (key >> 3 == 1 && (key & 7) != 2)) return false;
    if (key >> 3 == 1) *name = (bytes){request.at, len};
    request.at += len, request.len -= len;
  }
  return true;
}

// A reply whose field 1 is this number; proto3 leaves out a zero.
static outcome *reply_number(uint64_t number) {
  uint8_t *at = allocate(11, 1);
  size_t len = 0;
  if (number) {
    at[len++] = 1 << 3;
    for (; number >= 0x80; number >>= 7) at[len++] = number | 0x80;
    at[len++] = number;
  }
  return ok((bytes){at, len});
}

static bytes row_key(bytes name) {
  uint8_t *at = allocate(name.len + 1, 1);
  at[0] = 'v';
  __builtin_memcpy(at + 1, name.at, name.len);
  return (bytes){at, name.len + 1};
}

static uint64_t votes(bytes key) {
  optional_bytes value = store_get(key);
  uint64_t number = 0;
  for (size_t i = 0; value.some && i < value.value.len; i++) number = number << 8 | value.value.at[i];
  return number;
}

static outcome *vote(bytes name) {
  if (!name.len) return refuse(INVALID_ARGUMENT, TEXT("name is empty: say who gets the vote"));
  bytes key = row_key(name);
  uint64_t now = votes(key) + 1;
  uint8_t value[8];
  for (int i = 0; i < 8; i++) value[i] = now >> (56 - 8 * i);
  store_put(key, (bytes){value, 8});
  return reply_number(now);
}

static outcome *count(bytes name) { return reply_number(votes(row_key(name))); }

static outcome *serve(METHOD_AND_REQUEST, bytes served, outcome *(*handler)(bytes name)) {
  if (!equal((bytes){method_at, method_len}, served)) return refuse(UNIMPLEMENTED, TEXT("this machine has no such method"));
  bytes name;
  if (!take_name((bytes){request_at, request_len}, &name)) return refuse(INVALID_ARGUMENT, TEXT("the request cannot be decoded"));
  return handler(name);
}

EXPORT("lockstep:machine/machine@1.0.0#apply") outcome *apply(CONTEXT, METHOD_AND_REQUEST) {
  return serve(method_at, method_len, request_at, request_len, TEXT("tally.v1.Tally/Vote"), vote);
}

EXPORT("lockstep:machine/machine@1.0.0#query") outcome *query(CONTEXT, METHOD_AND_REQUEST) {
  return serve(method_at, method_len, request_at, request_len, TEXT("tally.v1.Tally/Count"), count);
}

EXPORT("lockstep:machine/machine@1.0.0#snapshot") outcome *snapshot(CONTEXT) { return write_snapshot(); }

EXPORT("lockstep:machine/machine@1.0.0#restore") outcome *restore(CONTEXT) { return restore_snapshot(); }
