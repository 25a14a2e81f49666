//! The smallest script that shows a difference between two guests. It takes the commands that both
//! ran, and leaves out what the difference does not need (delta debugging). Each attempt runs the
//! script as `lockstep guest test` does, so what is written shows the difference there.
//!
//! - The last line expects what the old guest answers in that script.
//! - The lines are read by the new guest's descriptor, since that is the guest that is to be
//!   tested.
//! - It writes no file.

use std::time::Duration;

use prost_reflect::DescriptorPool;

use super::script::{self, Answer, ScriptCall};
use super::trial::{self, Stop, Way};
use super::{Admitted, admit, blanks};
use crate::cli::json::{Tree, show_bytes};
use crate::machine::replay::RanCommand;
use lockstep_contract::{Contract, Kind};

/// Most attempts. Each runs the script by both guests.
const ATTEMPTS_MAX: u32 = 400;

/// What came of it.
pub(in crate::cli) enum Shrunk {
    /// A script that shows the difference.
    Script {
        /// Its lines.
        lines: Vec<String>,
        /// Attempts that it took.
        attempts: u32,
        /// What the old guest answers to the last call.
        old: String,
        /// What the new guest answers to it.
        new: String,
    },
    /// No script shows it. The text says why.
    Impossible(String),
}

/// Makes the script. The last command is the one that both guests answer differently. `old` and
/// `new` are encoded components. Call it on a thread with the stack size for guests.
pub(in crate::cli) fn shrink(commands: &[&RanCommand], old: &[u8], new: &[u8]) -> anyhow::Result<Shrunk> {
    let (old, new) = (admit(old)?, admit(new)?);
    let pool = DescriptorPool::decode(new.routes.encoded())?;
    let Some((last, earlier)) = commands.split_last() else {
        return Ok(Shrunk::Impossible("no command was kept".to_owned()));
    };
    let scripted = |command: &RanCommand| Scripted::of(command, &new.routes, &pool);
    let last = match scripted(last) {
        Ok(last) => last,
        Err(why) => return Ok(Shrunk::Impossible(why)),
    };
    // A command that has no line is left out; the first attempt says whether it is needed.
    let earlier: Vec<Scripted> = earlier.iter().filter_map(|command| scripted(command).ok()).collect();
    let mut trying = Trying { old: &old, new: &new, pool: &pool, last: &last, keeps_time: true, attempts: 0 };
    if trying.attempt(&earlier)?.is_none() {
        return Ok(Shrunk::Impossible(
            "these commands over an empty state are answered alike, as far as a script compares answers: fields of a reply, \
             and the code and reason of an error"
                .to_owned(),
        ));
    }
    let needed = smallest(earlier, &mut |calls: &[Scripted]| {
        Ok((trying.attempts < ATTEMPTS_MAX).then(|| trying.attempt(calls)).transpose()?.flatten().is_some())
    })?;
    trying.keeps_time = false;
    let found = match trying.attempt(&needed)? {
        Some(found) => found,
        None => {
            trying.keeps_time = true;
            trying.attempt(&needed)?.expect("the same attempt has shown it")
        }
    };
    Ok(Shrunk::Script { lines: found.lines, attempts: trying.attempts, old: found.old, new: found.new })
}

/// Returns the lines of a script that runs the commands and expects nothing. Also returns how many
/// of them have no line.
pub(in crate::cli) fn plain(commands: &[&RanCommand], encoded: &[u8]) -> anyhow::Result<(Vec<String>, usize)> {
    let guest = admit(encoded)?;
    let pool = DescriptorPool::decode(guest.routes.encoded())?;
    let calls: Vec<Scripted> =
        commands.iter().filter_map(|command| Scripted::of(command, &guest.routes, &pool).ok()).collect();
    let mut lines = Vec::with_capacity(calls.len());
    for (at, call) in calls.iter().enumerate() {
        let after = at.checked_sub(1).map(|before| call.since(&calls[before]));
        lines.push(call.line(after, Vec::new()));
    }
    Ok((lines, commands.len() - calls.len()))
}

/// A command as a line of a script.
#[derive(Clone)]
struct Scripted {
    call: ScriptCall,
    /// Method, request and caller of the line.
    fields: Vec<(String, Tree)>,
    time_ms: u64,
}

impl Scripted {
    fn of(command: &RanCommand, routes: &Contract, pool: &DescriptorPool) -> Result<Scripted, String> {
        let method = &command.method;
        let descriptor = method.split_once('/').and_then(|(service, name)| {
            pool.get_service_by_name(service)?.methods().find(|found| found.name() == name)
        });
        let descriptor = descriptor.ok_or_else(|| format!("the candidate has no method {method}"))?;
        let request = show_bytes(&descriptor.input(), &command.request);
        if let Some(problem) = request.problems.first() {
            return Err(format!("the request of {method} has no JSON form: {problem}"));
        }
        if blanks::has_blanks(&request.json) || blanks::text_has_blanks(&command.caller) {
            return Err(format!("the request of {method} has a text in double braces, which a script fills in"));
        }
        let mut fields = vec![("method".to_owned(), Tree::text(method.clone())), ("request".to_owned(), request.json)];
        if !command.caller.is_empty() {
            fields.push(("caller".to_owned(), Tree::text(command.caller.clone())));
        }
        let call = script::call(&Tree::Object(fields.clone()).to_string(), 1, routes, pool)?;
        match call.kind {
            Kind::Command => Ok(Scripted { call, fields, time_ms: command.time_ms }),
            Kind::Query | Kind::Watch => Err(format!("{method} is no command of the candidate")),
        }
    }

    /// Returns the log time between a command before and this one.
    fn since(&self, before: &Scripted) -> Duration {
        Duration::from_millis(self.time_ms.saturating_sub(before.time_ms))
    }

    fn line(&self, after: Option<Duration>, expectation: Vec<(String, Tree)>) -> String {
        let after = after.map(|after| ("after".to_owned(), Tree::text(format!("{}ms", after.as_millis()))));
        Tree::Object(self.fields.iter().cloned().chain(after).chain(expectation).collect()).to_string()
    }
}

/// An attempt that shows the difference.
struct Found {
    lines: Vec<String>,
    old: String,
    new: String,
}

struct Trying<'a> {
    old: &'a Admitted,
    new: &'a Admitted,
    pool: &'a DescriptorPool,
    last: &'a Scripted,
    /// Whether as much log time passes between the calls as in the log.
    keeps_time: bool,
    attempts: u32,
}

impl Trying<'_> {
    /// Runs a script of these commands and the last one by both guests.
    fn attempt(&mut self, earlier: &[Scripted]) -> anyhow::Result<Option<Found>> {
        self.attempts += 1;
        let all: Vec<&Scripted> = earlier.iter().chain([self.last]).collect();
        let after = |at: usize| at.checked_sub(1).filter(|_| self.keeps_time).map(|before| all[at].since(all[before]));
        let mut calls: Vec<ScriptCall> = all.iter().map(|scripted| scripted.call.clone()).collect();
        calls.iter_mut().enumerate().for_each(|(at, call)| call.after = after(at));
        let old = last_answer(&calls, self.old)?;
        let Ok(expectation) = self.last.call.expectation(&old) else { return Ok(None) };
        let new = last_answer(&calls, self.new)?;
        let last = all.len() - 1;
        let line = self.last.line(after(last), expectation);
        let Ok(expecting) = script::call(&line, all.len(), &self.new.routes, self.pool) else { return Ok(None) };
        if expecting.disappointed(&new).is_none() {
            return Ok(None);
        }
        let mut lines: Vec<String> =
            earlier.iter().enumerate().map(|(at, scripted)| scripted.line(after(at), Vec::new())).collect();
        lines.push(line);
        Ok(Some(Found { lines, old: self.last.call.show(&old), new: self.last.call.show(&new) }))
    }
}

/// Runs the calls one by one, and returns the answer to the last one.
fn last_answer(calls: &[ScriptCall], guest: &Admitted) -> anyhow::Result<Answer> {
    match trial::run(Way::OneByOne, calls, &guest.component)? {
        Ok(run) => Ok(run.answers.into_iter().next_back().expect("there is a call")),
        Err(Stop::Snapshot(_, error) | Stop::Host(error)) => Err(error.into()),
    }
}

/// Leaves out what is not needed, in smaller and smaller parts. `shows` says whether the rest still
/// shows the difference.
fn smallest<T: Clone>(
    mut items: Vec<T>,
    shows: &mut dyn FnMut(&[T]) -> anyhow::Result<bool>,
) -> anyhow::Result<Vec<T>> {
    if !items.is_empty() && shows(&[])? {
        return Ok(Vec::new());
    }
    let mut parts = 2;
    while items.len() > 1 {
        let size = items.len().div_ceil(parts);
        let mut is_smaller = false;
        for start in (0..items.len()).step_by(size) {
            let end = items.len().min(start + size);
            let rest = [&items[..start], &items[end..]].concat();
            if shows(&rest)? {
                (items, parts, is_smaller) = (rest, 2.max(parts - 1), true);
                break;
            }
        }
        if !is_smaller {
            if size == 1 {
                break;
            }
            parts = items.len().min(2 * parts);
        }
    }
    Ok(items)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn needed(count: u32, wanted: &[u32]) -> (Vec<u32>, u32) {
        let mut attempts = 0;
        let found = smallest((0..count).collect(), &mut |items: &[u32]| {
            attempts += 1;
            Ok(wanted.iter().all(|one| items.contains(one)))
        });
        (found.unwrap(), attempts)
    }

    #[test]
    fn only_what_shows_the_difference_is_left() {
        assert_eq!(needed(0, &[]).0, Vec::<u32>::new());
        assert_eq!(needed(100, &[]), (vec![], 1));
        for wanted in [&[0][..], &[99], &[3, 4], &[0, 50, 99], &[1, 2, 3, 4, 5]] {
            let (found, attempts) = needed(100, wanted);
            assert_eq!(found, wanted);
            assert!(attempts < 200, "{wanted:?} took {attempts} attempts");
        }
        assert_eq!(needed(1, &[0]).0, [0]);
    }

    #[test]
    fn an_attempt_that_fails_ends_it() {
        let failed = smallest(vec![1, 2, 3], &mut |_: &[i32]| anyhow::bail!("the disk is full"));
        assert!(failed.unwrap_err().to_string().contains("full"));
    }
}
