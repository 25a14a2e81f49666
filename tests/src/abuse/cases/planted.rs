//! The case that must fail: the attacker kills the node. It shows that the harness can see harm.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::case::{Case, Role, Target};
use super::PLANTED;

pub(crate) const CASE: Case = Case {
    name: PLANTED,
    does: "kills the node, so that the harness can be seen to notice",
    role: Role::Leader,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    let process = i32::try_from(target.process).context("a process has a small number")?;
    kill(Pid::from_raw(process), Signal::SIGKILL)?;
    target.count("kills", 1);
    target.end().await
}
