//! Gives the attacked node and the attacker one half of the processors, and the other nodes and the
//! honest clients the other one: they would be other machines. With one processor all share it.
//! So they do in cases whose work every node does.

use std::fs;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The processors of this process while a case runs. It has all again when this is dropped.
pub(crate) struct Halves {
    all: CpuSet,
}

impl Halves {
    /// Moves the nodes' processes, and this one with the honest clients, to their halves. `None`
    /// when this process may use one processor only.
    pub(crate) fn split(nodes: &[u32], attacked: usize) -> Result<Option<Halves>> {
        let all = sched_getaffinity(Pid::this()).context("the processors of this process")?;
        let Some([first, second]) = halved(&all)? else { return Ok(None) };
        for (place, node) in nodes.iter().enumerate() {
            confine(*node, if place == attacked { &first } else { &second })?;
        }
        let halves = Halves { all };
        confine(std::process::id(), &second)?;
        Ok(Some(halves))
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        if let Err(error) = confine(std::process::id(), &self.all) {
            eprintln!("the next case has half of the processors: {error:#}");
        }
    }
}

/// Moves this process, which has one thread, to the processors of another one.
pub(crate) fn join(process: u32) -> Result<()> {
    let used = sched_getaffinity(Pid::from_raw(process.cast_signed())).context("the processors of the node")?;
    sched_setaffinity(Pid::from_raw(0), &used).context("the node's processors")
}

fn halved(all: &CpuSet) -> Result<Option<[CpuSet; 2]>> {
    let numbers: Vec<usize> = (0..CpuSet::count()).filter(|number| all.is_set(*number).unwrap_or(false)).collect();
    if numbers.len() < 2 {
        return Ok(None);
    }
    let mut halves = [CpuSet::new(); 2];
    for (place, number) in numbers.iter().enumerate() {
        halves[usize::from(place >= numbers.len() / 2)].set(*number)?;
    }
    Ok(Some(halves))
}

/// Moves all threads of a process. Threads that they start later go with them.
fn confine(process: u32, to: &CpuSet) -> Result<()> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).context("the threads of a process")?;
    for thread in threads {
        let name = thread?.file_name();
        let number = name.to_string_lossy().parse().context("the number of a thread")?;
        match sched_setaffinity(Pid::from_raw(number), to) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("the processors of a thread"),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn numbers(set: &CpuSet) -> Vec<usize> {
        (0..CpuSet::count()).filter(|number| set.is_set(*number).unwrap()).collect()
    }

    #[test]
    fn each_half_has_its_own_processors_and_one_alone_is_not_halved() {
        let mut all = CpuSet::new();
        all.set(1).unwrap();
        assert!(halved(&all).unwrap().is_none());
        all.set(4).unwrap();
        all.set(5).unwrap();
        let [first, second] = halved(&all).unwrap().unwrap();
        assert_eq!((numbers(&first), numbers(&second)), (vec![1], vec![4, 5]));
    }
}
