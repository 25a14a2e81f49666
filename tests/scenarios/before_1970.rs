//! A machine whose clock is before 1970. HTTP cannot express such a date, and hyper panicked in
//! each reply. Linux refuses to set a clock that far back, so a preloaded library changes the time
//! that the node reads. The HTTP port then answers with a sentence only, without hyper; gRPC still
//! works.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::LastContactRequest;
use lockstep_tests::{Options, eventually, formed_of};

/// Moves the clock back by more than sixty years.
const SHIM: &str = r"
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#define BACK 2100000000LL
int clock_gettime(clockid_t clock, struct timespec *at) {
  int failed = syscall(SYS_clock_gettime, clock, at);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec -= BACK;
  return failed;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
";

/// Builds the library with the compiler that also builds RocksDB.
fn shim(directory: &Path) -> Result<String> {
    let (source, library) = (directory.join("back.c"), directory.join("back.so"));
    std::fs::write(&source, SHIM)?;
    let made = Command::new("c++").args(["-x", "c", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    let made = made.context("c++, which `cargo xtask setup` asks for")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(library.display().to_string())
}

#[tokio::test]
async fn a_clock_before_1970_breaks_nothing_but_itself() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut cluster = formed_of(3, Options::member()).await?;
    let early = cluster.follower().await?;
    cluster.nodes[early].stop().await?;
    cluster.nodes[early].options.env.push(("LD_PRELOAD".into(), shim(directory.path())?));
    cluster.nodes[early].start().await?;
    // Uses its client port and, because it must follow, its peer port.
    for value in ["one", "two"] {
        eventually("a write", || cluster.add(early, "key", value)).await?;
        let read = eventually("a read", || cluster.get(early, "key", true)).await?;
        ensure!(read == value, "{read}");
    }
    eventually("it says that its clock is wrong", || async {
        let clock = cluster.nodes[early].stat().await?["clock"].take();
        ensure!(clock["problem"].as_str().is_some_and(|text| text.contains("says 1970-01-01T00:00:00Z")), "{clock}");
        Ok(())
    })
    .await?;
    for path in ["/livez", "/status"] {
        let (code, words) = cluster.nodes[early].http(path).await?;
        ensure!(code == 503 && words.contains("this machine's clock"), "{code}: {words}");
    }
    eventually("it says when it heard the leader", || async {
        let mut manager = cluster.nodes[early].manager().await?;
        let contact = manager.last_contact(LastContactRequest {}).await?.into_inner();
        ensure!(contact.time_format.starts_with("1970-01-01T00:00:00"), "{contact:?}");
        Ok(())
    })
    .await?;
    // Also where it leads.
    cluster.hand_over(early).await?;
    eventually("a write where it leads", || cluster.add(early, "key", "three")).await?;
    eventually("everybody has it", || cluster.everyone_reads("key", "three")).await?;
    ensure!(!cluster.nodes[early].log().contains("panicked"), "{}", cluster.nodes[early].log());
    // What the others say of it is read elsewhere: this test's way to a status is HTTP/1.
    for node in &cluster.nodes {
        let stat = node.stat().await?;
        let (mismatches, mode) = (&stat["fsm"]["state_hash_mismatches"], &stat["mode"]);
        ensure!(*mismatches == 0 && *mode == "serving", "{}: {mismatches}, {mode}", node.name);
    }
    Ok(())
}
