//! Many groups in one process: they share its log disk, and each of them agrees with its other
//! members after one process was killed. `lockstep groups`, in the build with failpoints, is the
//! door to that.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{PATIENCE, eventually, failpoints_binary, kv_wasm, nobody};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const GROUPS: u32 = 20;
const COMMANDS: u32 = 30;

/// A process that holds [`GROUPS`] groups.
struct Door {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// How far a group was applied, and its hash there.
type States = BTreeMap<u32, (u64, String)>;

impl Door {
    async fn start(place: &Path, number: usize, peers: &[String]) -> Result<Door> {
        // Each write takes a moment, so that what other groups write meanwhile goes together.
        let slow = place.join("failpoints");
        std::fs::write(&slow, "log-before-sync=sleep(1)\n")?;
        let log = std::fs::File::options().create(true).append(true).open(place.join(format!("{number}.log")))?;
        let mut child = Command::new(failpoints_binary())
            .arg("groups")
            .arg(place.join(number.to_string()))
            .args([number.to_string(), GROUPS.to_string()])
            .arg(kv_wasm())
            .args(peers)
            .env("LOCKSTEP_FAILPOINTS", slow)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("piped")?;
        let output = BufReader::new(child.stdout.take().context("piped")?).lines();
        let mut door = Door { child, input, output };
        ensure!(door.answer().await? == "ready");
        Ok(door)
    }

    async fn tell(&mut self, line: &str) -> Result<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    async fn answer(&mut self) -> Result<String> {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await.context("no answer in time")??;
        line.context("the process has ended; its log says why")
    }

    async fn ask(&mut self, line: &str) -> Result<String> {
        self.tell(line).await?;
        self.answer().await
    }

    async fn states(&mut self) -> Result<States> {
        let line = self.ask("states").await?;
        let words = line.strip_prefix("states ").with_context(|| format!("no states: {line}"))?.split(' ');
        let state = |word: &str| {
            let [group, index, hash] = word.split(':').collect::<Vec<_>>()[..] else {
                anyhow::bail!("no state: {word}")
            };
            Ok((group.parse()?, (index.parse()?, hash.to_owned())))
        };
        words.map(state).collect()
    }

    /// Returns the fsyncs and the entries of the log disk.
    async fn disk(&mut self) -> Result<(u64, u64)> {
        let line = self.ask("disk").await?;
        let ["disk", fsyncs, entries] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("no figures: {line}")
        };
        Ok((fsyncs.parse()?, entries.parse()?))
    }

    async fn stop(mut self) -> Result<()> {
        self.tell("stop").await?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it does not stop")??;
        ensure!(ended.success(), "it ended with {ended}");
        Ok(())
    }
}

/// Three processes, and the addresses that are reserved for them.
struct Doors {
    doors: Vec<Door>,
    place: tempfile::TempDir,
    peers: Vec<String>,
    _reserved: Vec<socket2::Socket>,
}

impl Doors {
    async fn open() -> Result<Doors> {
        let place = tempfile::tempdir()?;
        let (reserved, peers): (Vec<_>, Vec<_>) =
            (0..3).map(|_| nobody()).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let mut doors = Vec::new();
        for number in 1..=3 {
            doors.push(Door::start(place.path(), number, &peers).await?);
        }
        for door in &mut doors {
            ensure!(door.ask("serve").await? == "serving");
        }
        Ok(Doors { doors, place, peers, _reserved: reserved })
    }

    /// Runs commands in all groups, through the processes at these positions at once.
    async fn load(&mut self, name: &str, through: &[usize]) -> Result<()> {
        for at in through {
            self.doors[*at].tell(&format!("load {name}-{at} {COMMANDS}")).await?;
        }
        for at in through {
            let loaded = self.doors[*at].answer().await?;
            ensure!(loaded == format!("loaded {}", GROUPS * COMMANDS), "process {at}: {loaded}");
        }
        Ok(())
    }

    /// Waits until all three have applied the same in each group, and it is more than in `before`.
    async fn agree(&mut self, before: &States) -> Result<States> {
        let doors = tokio::sync::Mutex::new(&mut self.doors);
        eventually("every group's hash is equal", || async {
            let mut doors = doors.lock().await;
            let first = doors[0].states().await?;
            for door in doors.iter_mut().skip(1) {
                let other = door.states().await?;
                ensure!(first == other, "{first:?} is not {other:?}");
            }
            for (group, (index, _)) in before {
                ensure!(first[group].0 > *index, "group {group} has applied nothing more");
            }
            ensure!(first.len() == GROUPS as usize && first.values().all(|(index, _)| *index > 0));
            Ok(first)
        })
        .await
    }
}

#[tokio::test]
async fn twenty_groups_share_a_log_disk_and_agree_after_a_kill() -> Result<()> {
    let mut cluster = Doors::open().await?;
    cluster.load("first", &[0, 1, 2]).await?;
    let before = cluster.agree(&States::new()).await?;
    for door in &mut cluster.doors {
        let (fsyncs, entries) = door.disk().await?;
        ensure!(
            entries > u64::from(GROUPS) && fsyncs < entries,
            "{fsyncs} fsyncs for {entries} entries of {GROUPS} groups"
        );
    }
    // The commands of the other two go on while one is dead.
    for at in [0, 1] {
        cluster.doors[at].tell(&format!("load second-{at} {COMMANDS}")).await?;
    }
    cluster.doors[2].child.kill().await?;
    for at in [0, 1] {
        let loaded = cluster.doors[at].answer().await?;
        ensure!(loaded == format!("loaded {}", GROUPS * COMMANDS), "process {at}: {loaded}");
    }
    cluster.doors[2] = Door::start(cluster.place.path(), 3, &cluster.peers).await?;
    cluster.agree(&before).await?;
    for door in cluster.doors {
        door.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_group_stops_and_starts_while_the_others_go_on() -> Result<()> {
    let mut cluster = Doors::open().await?;
    cluster.load("first", &[0]).await?;
    let before = cluster.agree(&States::new()).await?;
    // The others have this group's majority, and this process has all other groups.
    cluster.doors[1].tell(&format!("load second {COMMANDS}")).await?;
    for group in [7, 0] {
        let restarted = cluster.doors[0].ask(&format!("restart {group}")).await?;
        ensure!(restarted == "restarted", "group {group}: {restarted}");
    }
    let loaded = cluster.doors[1].answer().await?;
    ensure!(loaded == format!("loaded {}", GROUPS * COMMANDS), "{loaded}");
    cluster.agree(&before).await?;
    for door in cluster.doors {
        door.stop().await?;
    }
    Ok(())
}
