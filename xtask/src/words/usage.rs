//! What `cargo xtask <command> --help` prints. This file reads no word.

/// The list of commands.
pub(super) const HELP: &str = "\
cargo xtask <command>

  demo      sets up and builds, then shows a three-node cluster: writes, reads, a watch, a killed leader, a restart
  test      sets up and builds, then checks format and lints and runs every test
  build     sets up and builds build/lockstep and the guests
  guests    builds every crate under guests/: build/kv.wasm and so on
  setup     installs what is missing, or names it
  torture   faults under load, every answer checked
  changes   the guest replaced and put back under load, nodes killed at each step, every answer checked
  faults    how long clients wait for a write when a leader dies, is stopped, paused or cut off
  abuse     clients that mean harm, beside clients that do not: floods, bombs, silence
  alike     ten million commands on three nodes that live differently, and one hash at the end
  rolling   an earlier commit's binary replaced by this one under load, node by node, and back
  fuzz      bytes that break a parser, looked for by libFuzzer
  corpus    the sandbox's recorded outcomes with another wasmtime, profile or architecture
  advisories  the locked dependencies against the advisories of RustSec
  bench     Lockstep beside etcd on this machine: throughput, latency, and what a call costs
  bench-large  Lockstep with a large state: stops of apply, restarts, puts among many keys, new nodes
  costs     what a call into a guest costs, with and without fuel, and beside native code
  instructions  the instructions of the hot pieces of a node, counted by valgrind, against their record

cargo xtask <command> --help tells what a command takes.
";

pub(super) const DEMO: &str = "\
cargo xtask demo

Sets up and builds, then starts three node processes, forms a cluster, writes, reads, watches, kills the leader, restarts
it, and stops everything. Leaves no process and no file behind. Takes no arguments.
";

pub(super) const TEST: &str = "\
cargo xtask test [argument of cargo test ...]

Sets up and builds, checks format and lints, runs every test, those of the guests a second time against their components, and
compares the instructions of the hot pieces with their record. With arguments it runs only what they choose, and leaves out format,
lints, the second time and the instructions:

  cargo xtask test --test scenarios first_hour
  cargo xtask test --package lockstep --lib config::
";

pub(super) const BUILD: &str = "\
cargo xtask build

Sets up what is missing, and builds build/lockstep and the guests. Takes no arguments.
";

pub(super) const GUESTS: &str = "\
cargo xtask guests

Builds every crate under guests/ for wasm32-unknown-unknown and puts it where `lockstep` looks: guests/kv becomes
build/kv.wasm. Takes no arguments.
";

pub(super) const SETUP: &str = "\
cargo xtask setup

Installs what is missing (a C++ compiler, libclang, the wasm32-unknown-unknown target, rustfmt, clippy, valgrind) where it may,
and otherwise names the command. Takes no arguments.
";

pub(super) const TORTURE: &str = "\
cargo xtask torture [--seconds N] [--cycles N] [--seed S] [--nodes 3|5] [--faults LIST] [--plant TASK]
                    [--verify_entries N]

  --seconds N    begin no cycle after N seconds; 60 unless --cycles is given
  --cycles N     end after N cycles of load, fault, heal and verdict
  --seed S       draw faults and load from S; drawn from the clock and printed otherwise
  --nodes N      nodes of every cluster; three otherwise, and five in every fourth
  --plant TASK   a failpoint that every node has all the time, to see it found: read-skip-index=return(error)
  --verify_entries N
                 run again at most N entries of each cluster's log when it ends, and compare hashes: 20000 otherwise, 0 for none
  --faults LIST  only these, with commas: ";

pub(super) const CHANGES: &str = "\
cargo xtask changes [--seconds N] [--legs N] [--seed S] [--clients N] [--guests LIST] [--state_mib N]
                    [--verify_entries N]

Three nodes run a guest under load. It is changed from version 1 to 2, back, and so on up to version 3, while a node is killed at a
step of the change, drawn from the seed. Each change and each rollback is a leg with a history of its own, which both judges read.

  --seconds N    begin no leg after N seconds, of which each guest has its share; 60 unless --legs is given
  --legs N       end after N changes and rollbacks
  --seed S       draw steps, roles and load from S; drawn from the clock and printed otherwise
  --clients N    clients of all nodes together, 3 to 300; 64 otherwise
  --guests LIST  only these, with commas: kv,locks,orders
  --state_mib N  fill the state with N MiB before, and kill nobody: how long no write is acknowledged. 1 to 4096; without a list
                 for kv alone, for locks at most 200 (it migrates all rows at once), and not for orders
  --verify_entries N
                 run again at most N entries of each cluster's log when it ends, and compare hashes: 5000 otherwise, 0 for none
";

pub(super) const FAULTS: &str = "\
cargo xtask faults [rounds] [--seed N] [case ...]

Twenty rounds of every case, without anything said: nearly half an hour. The table goes to stdout, in Markdown.
Cases: ";

pub(super) const ABUSE: &str = "\
cargo xtask abuse [--case NAME]... [--seconds N] [--program PATH] [--json FILE] [--list]

Attacks one of three real nodes in each case, and judges what honest clients notice: half a minute a case, and twenty minutes
for all. docs/abuse.md describes the cases.

  --case NAME     run this case; all unless given
  --seconds N     attack for N seconds, 1 to 600; 10 unless given
  --program PATH  the node to judge; build/lockstep unless given
  --json FILE     write the figures to FILE, too
  --list          print the cases, and run nothing
";

pub(super) const ALIKE: &str = "\
cargo xtask alike [--commands N] [--seed S]

Three nodes with other memory, caches, files, restarts and leaders run the same commands; their hashes and the bytes of their
backups must be equal. Ten million commands, unless N says otherwise; at least 10000. They go on until all kills and stops are done.
";

pub(super) const ROLLING: &str = "\
cargo xtask rolling [--from COMMIT]

Builds COMMIT beside this checkout, and runs the scenario that replaces its binary by this one node by node, under load, and back;
then the semantics are raised. Each build restores a backup of the other.

  --from COMMIT  a commit or a tag; the last commit before HEAD that touched host/ unless given
";

pub(super) const FUZZ: &str = "\
cargo xtask fuzz [target ...] [--seconds N] [--jobs N] [--keep]

Looks for bytes that break a parser: one target after the other, all of fuzz/fuzz_targets/ when none is named. Needs a nightly
compiler and cargo-fuzz, and installs both where they are missing. Takes RocksDB from the ordinary build. A table at the end
has the executions, the edges of code that were reached, and the finds of each target.

  --seconds N    for each target; 600 otherwise
  --jobs N       targets that run at a time, 1 to 64; 1 otherwise. Each takes a core, and up to 2 GiB of memory
  --keep         add the fewest finds to fuzz/corpus/ that reach all code which was reached
";

pub(super) const CORPUS: &str = "\
cargo xtask corpus [--wasmtime VERSION] [--toolchain NAME] [--profile dev|release] [--target aarch64-unknown-linux-gnu]

Builds the sandbox alone, runs the golden corpus on it, and fails when a verdict or a fuel differs from the record.
`cargo xtask test` runs the same corpus on the ordinary build. CONTRIBUTING.md says which builds are compared.

  --wasmtime VERSION  build with this version; with that of Cargo.toml unless given
  --toolchain NAME    build with this toolchain of rustup, such as nightly, where that version needs a newer one
  --profile NAME      dev or release; release unless given
  --target TRIPLE     aarch64-unknown-linux-gnu, with qemu-aarch64 on another machine; this machine's target unless given
";

pub(super) const ADVISORIES: &str = "\
cargo xtask advisories [--db DIR]

Compares Cargo.lock with the advisories of RustSec, and fails when one of them hits a locked crate. They are in DIR, or where
LOCKSTEP_ADVISORY_DB says, or in ~/.cargo/advisory-db; otherwise git fetches them once a day. Where there are none, it says
\"not checked\" and passes. Exceptions are in .ci/advisories-ignored.toml.
";

pub(super) const COSTS: &str = "\
cargo xtask costs

Sets up and builds, and measures on one thread what a call into a guest costs, what counting fuel adds, and the key-value guest
beside its native twin. A minute or two on a quiet machine. Takes no arguments.
";

pub(super) const INSTRUCTIONS: &str = "\
cargo xtask instructions [--record] [PIECE...]

Sets up and builds, runs each piece of host/benches/instructions.rs twice under valgrind, and compares the instructions of one time
with host/benches/instructions.txt. Fails when a piece takes 15 % more than its record, or when one is without the other; says so
when it takes 15 % less. A minute or two. On another system than Linux on x86_64 it counts nothing, and says so.

  --record  write the record instead; with pieces, only theirs
  PIECE     count only these
";

pub(super) const BENCH: &str = "\
cargo xtask bench [--seconds N] [--rounds N] [--clients N[,N]] [--only LIST] [--etcd PATH] [--out DIR]

Sets up and builds, starts three nodes and three members of etcd on this machine, and drives both in turn with `lockstep bench`:
throughput, latency, processor time, bytes and memory a call, and the syncs of each put. Without etcd it measures Lockstep alone.
docs/benchmarks/README.md says what the figures mean. About ten minutes, unless told otherwise.

  --seconds N    of each block, 1 to 600; 5 unless given
  --rounds N     blocks of each system for each load, 1 to 100; 3 unless given
  --clients N,N  one load for each number, 1 to 1000; 1,64,256 unless given
  --only LIST    operations, with commas: put,get,local_get,mixed; the first three unless given
  --etcd PATH    the program of etcd; the one in PATH unless given, which Debian and Ubuntu have in the package etcd-server
  --out DIR      where the page, the raw results and the plots go; docs/benchmarks unless given

  cargo xtask bench --seconds 1 --rounds 1 --clients 4 --out build/bench
";

pub(super) const BENCH_LARGE: &str = "\
cargo xtask bench-large [--gib N] [--keys N] [--entries N] [--seconds N] [--rounds N] [--out DIR]

Sets up and builds, and measures clusters of three nodes on this machine: how long a flush or a snapshot stops apply, how long a restart
takes, what a put costs among many keys against 10000, and how long a snapshot takes to a new node against a copy of a file.
docs/benchmarks/README.md says what the figures mean. About half an hour and 43 GB of free disk, unless told otherwise.

  --gib N        GiB of keys and values in the state that is watched, restarted and sent, 0.001 to 64; 1 unless given
  --keys N       keys of the larger cluster of the comparison of puts; 10000000 unless given
  --entries N    entries in the log of the node that is restarted, at most 1000000; 100000 unless given
  --seconds N    of each block, 1 to 600; 10 unless given
  --rounds N     how often each figure is measured, 1 to 10; 3 unless given
  --out DIR      where the page and the raw results go; docs/benchmarks unless given

  cargo xtask bench-large --gib 0.01 --keys 20000 --entries 1000 --seconds 1 --rounds 1 --out build/bench-large
";
