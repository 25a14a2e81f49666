#!/bin/sh
# Builds the guest: `guests/tally/build.sh [out.wasm]`, by default build/tally.wasm. Needs clang and lld with the wasm32 target, no SDK and no
# libc; and `lockstep`, by default build/lockstep, which packs module and descriptor into a component.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../build/tally.wasm}
module=$(mktemp "${TMPDIR:-/tmp}/tally.XXXXXX")
trap 'rm -f "$module" "$module.o"' EXIT

# Simple features only, which every node has; a small stack, because each log entry gets a fresh one.
"${CLANG:-clang}" --target=wasm32 -std=c17 -O2 -mbulk-memory -ffreestanding -nostdlib \
  -Wall -Wextra -Wno-unused-parameter -Werror \
  -Wl,--no-entry -Wl,--stack-first -Wl,-z,stack-size=65536 -Wl,--strip-debug \
  -o "$module" "$here/tally.c" "$here/component_type.s"

"${LOCKSTEP:-$here/../../build/lockstep}" guest pack "$module" --proto "$here/proto/tally.proto" --out "$out"
