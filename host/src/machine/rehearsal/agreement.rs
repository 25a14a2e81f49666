//! Compares the reports of all nodes, and finds what speaks against a change. It is the leader's
//! part of a rehearsal. It runs nothing, and does not know who may overrule it.

use super::report::{AnswerDifference, AnswerReport, MigrationKind, RehearsalReport};

/// One thing that must be equal on all nodes: what it is, and its value in words.
pub type Fact = (String, String);

impl RehearsalReport {
    /// Returns what must be equal on all nodes. Commands are named with their range: two nodes may
    /// have kept different parts of the log, and then they have no such fact in common.
    pub fn equal_part(&self) -> Vec<Fact> {
        let migration = &self.migration;
        let contents = |rows: u64, digest: &str| format!("{rows} rows with digest {digest}");
        let mut facts = vec![
            ("the index".to_owned(), self.index.to_string()),
            ("the new component".to_owned(), self.new.hash.clone()),
            ("the state before".to_owned(), contents(migration.rows_before, &migration.digest_before)),
            (
                "the migration".to_owned(),
                format!(
                    "{:?} after {} calls, {} rows written, {} removed",
                    migration.kind, migration.calls, migration.rows_written, migration.rows_removed
                ),
            ),
            ("the migrated state".to_owned(), contents(migration.rows_after, &migration.digest_after)),
        ];
        if let Some(commands) = self.commands.as_ref().filter(|commands| commands.commands > 0) {
            let range = format!("entries {} to {}", commands.first_index, commands.last_index);
            for (side, found) in [("old", &commands.old), ("new", &commands.new)] {
                let what = format!("what the {side} machine did with {range}");
                facts.push((what, format!("{} commands with hash {}", commands.commands, found.hash)));
            }
        }
        facts
    }

    /// Returns what this node found against the change.
    pub fn obstacles(&self) -> Vec<String> {
        let detail = &self.migration.detail;
        let mut found = Vec::new();
        match self.migration.kind {
            MigrationKind::Kept | MigrationKind::Migrated => {}
            MigrationKind::Refused => found.push(format!("the new component refuses the change: {detail}")),
            MigrationKind::Failed => {
                let hint = self.migration.hint().map_or_else(String::new, |hint| format!("; {hint}"));
                found.push(format!("the migration fails: {detail}{hint}"));
            }
            MigrationKind::TooLarge => {
                found.push(format!("the migration is too large for one entry ({detail}): migrate lazily"));
            }
        }
        if let Some(problem) = self.snapshot.as_ref().and_then(|snapshot| snapshot.problem.as_ref()) {
            found.push(format!("snapshot and restore by the new component: {problem}"));
        }
        if let Some(words) = &self.not_deterministic {
            found.push(format!("the new component is not deterministic: {words}"));
        }
        found
    }
}

/// Returns what speaks against the change, in words: what a node found, and what is not equal on
/// all nodes. Each report comes with the name of its node. Answers that changed do not speak
/// against it: they may be why it is made.
pub fn objections(reports: &[(String, RehearsalReport)]) -> Vec<String> {
    let mut found = Vec::new();
    for (node, report) in reports {
        found.extend(report.obstacles().into_iter().map(|obstacle| (obstacle, node.as_str())));
    }
    let found = grouped(found);
    let obstacles = found.into_iter().map(|(words, nodes)| format!("{} (found on {})", words, nodes.join(", ")));
    obstacles.chain(disagreements(reports)).collect()
}

/// Puts values with an equal key together. The keys come in the order in which each is met first.
pub(in crate::machine) fn grouped<K: PartialEq, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Vec<(K, Vec<V>)> {
    let mut groups: Vec<(K, Vec<V>)> = Vec::new();
    for (key, value) in pairs {
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => groups.push((key, vec![value])),
        }
    }
    groups
}

/// Returns what got worse for clients, in words: commands and queries that were answered, and now
/// end otherwise. It speaks against a change that is to change no answers, such as one of limits.
/// What failed before and is answered now is no reason.
pub fn worsened(reports: &[(String, RehearsalReport)]) -> Vec<String> {
    let words = |(node, report): &(String, RehearsalReport)| {
        let (ran, different) = tried(report);
        let was_answered = |found: &&AnswerDifference| !matches!(found.old, AnswerReport::Failed { .. });
        let worse: Vec<_> = report.differences.iter().filter(was_answered).collect();
        // Of what does not fit into a report, nobody knows how it ended before.
        let count = different.saturating_sub((report.differences.len() - worse.len()) as u64);
        let first =
            worse.first().map_or(String::new(), |first| format!("; the first: {} {}", first.method, first.words()));
        (count > 0).then(|| format!("{node}: {count} of {ran} commands and queries end otherwise{first}"))
    };
    reports.iter().filter_map(words).collect()
}

/// Returns how many commands and queries ran, and how many of them were answered differently.
fn tried(report: &RehearsalReport) -> (u64, u64) {
    let commands = report.commands.as_ref().map_or((0, 0), |found| (found.commands, found.different));
    let queries = report.queries.as_ref().map_or((0, 0), |found| (found.queries, found.different));
    (commands.0 + queries.0, commands.1 + queries.1)
}

/// Says who differs in what.
fn disagreements(reports: &[(String, RehearsalReport)]) -> Vec<String> {
    let mut facts = Vec::new();
    for (node, report) in reports {
        facts.extend(report.equal_part().into_iter().map(|(what, value)| (what, (value, node.as_str()))));
    }
    let values = grouped(facts).into_iter().map(|(what, found)| (what, grouped(found)));
    let differ = values.filter(|(_, values)| values.len() > 1);
    let words = |(what, values): (String, Vec<(String, Vec<&str>)>)| {
        let each = values.iter().map(|(value, nodes)| format!("{value} on {}", nodes.join(", ")));
        format!("{what} is not equal on all nodes: {}", each.collect::<Vec<_>>().join("; "))
    };
    differ.map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::{Body, CommandsReport, MigrationReport, SideReport, SnapshotReport};
    use super::*;
    use crate::guest::{Failure, Reason};
    use crate::machine::change::migration::MigrationEnd;

    fn report() -> RehearsalReport {
        let side = |hash: &str| SideReport { hash: hash.into(), ..SideReport::default() };
        RehearsalReport {
            index: 40,
            migration: MigrationReport { digest_after: "aa".into(), rows_after: 3, ..MigrationReport::default() },
            snapshot: Some(SnapshotReport::default()),
            commands: Some(CommandsReport {
                first_index: 10,
                last_index: 39,
                commands: 5,
                old: side("01"),
                new: side("02"),
                ..CommandsReport::default()
            }),
            ..RehearsalReport::default()
        }
    }

    fn of(reports: Vec<RehearsalReport>) -> Vec<String> {
        let names = ["a", "b", "c"].map(str::to_owned);
        objections(&names.into_iter().zip(reports).collect::<Vec<_>>())
    }

    #[test]
    fn equal_reports_raise_no_objection_whatever_they_cost() {
        let mut slow = report();
        (slow.hold_ms, slow.elapsed_ms, slow.migration.migrate_ms, slow.migration.fuel) = (9, 9, 9, 9);
        assert_eq!(of(vec![report(), slow, report()]), Vec::<String>::new());
    }

    #[test]
    fn a_node_that_differs_is_named_with_what_it_found() {
        let mut other = report();
        other.migration.digest_after = "bb".into();
        assert_eq!(
            of(vec![report(), other, report()]),
            ["the migrated state is not equal on all nodes: 3 rows with digest aa on a, c; 3 rows with digest bb on b"]
        );
    }

    #[test]
    fn commands_are_compared_by_nodes_that_ran_the_same() {
        let changed = |first_index| {
            let mut report = report();
            if let Some(commands) = &mut report.commands {
                commands.first_index = first_index;
                commands.new.hash = "03".into();
            }
            report
        };
        assert!(of(vec![report(), changed(12)]).is_empty());
        let objections = of(vec![report(), changed(10)]);
        assert_eq!(objections.len(), 1);
        assert!(objections[0].starts_with("what the new machine did with entries 10 to 39 is not equal"));
    }

    fn difference(old: AnswerReport, new: AnswerReport) -> AnswerDifference {
        let (method, caller, request) = ("S/M".to_owned(), String::new(), Body::default());
        AnswerDifference { index: Some(12), position: 3, method, caller, request, old, new }
    }

    #[test]
    fn only_what_was_answered_before_gets_worse() {
        let reply = || AnswerReport::Reply(Body { bytes: 5, base64: None });
        let failed = || AnswerReport::Failed { reason: Reason::Fuel, detail: String::new() };
        let with = |different, differences| RehearsalReport {
            commands: Some(CommandsReport { commands: 9, different, ..CommandsReport::default() }),
            differences,
            ..report()
        };
        let of = |report| worsened(&[("a".to_owned(), report)]);
        assert!(of(with(0, Vec::new())).is_empty());
        assert!(of(with(1, vec![difference(failed(), reply())])).is_empty());
        assert_eq!(
            of(with(2, vec![difference(failed(), reply()), difference(reply(), failed())])),
            ["a: 1 of 9 commands and queries end otherwise; the first: S/M entry 12, position 3: a failure (Fuel) \
              instead of a reply of 5 bytes"]
        );
        assert_eq!(of(with(7, vec![difference(failed(), reply())])).len(), 1, "six were left out");
    }

    #[test]
    fn a_migration_that_does_too_much_in_one_call_is_told_of_the_cursor() {
        let failing = |reason| {
            let mut bad = report();
            bad.migration.end(&MigrationEnd::Failed(Failure { reason, detail: "why".into() }));
            of(vec![bad])[0].clone()
        };
        for reason in [Reason::Fuel, Reason::StoreBudget, Reason::LimitExceeded] {
            let said = failing(reason);
            assert!(said.starts_with(&format!("the migration fails: {reason:?}: why; if the call")), "{said}");
            assert!(said.contains("return a cursor") && said.contains("lazily"), "{said}");
        }
        assert_eq!(failing(Reason::Trap), "the migration fails: Trap: why (found on a)");
    }

    #[test]
    fn what_all_nodes_found_is_said_once() {
        let mut bad = report();
        bad.migration.kind = MigrationKind::TooLarge;
        bad.migration.detail = "10000 calls".into();
        bad.not_deterministic = Some("entry 3".into());
        bad.snapshot = Some(SnapshotReport { problem: Some("it forgets".into()), elapsed_ms: 1 });
        assert_eq!(
            of(vec![bad.clone(), bad]),
            [
                "the migration is too large for one entry (10000 calls): migrate lazily (found on a, b)",
                "snapshot and restore by the new component: it forgets (found on a, b)",
                "the new component is not deterministic: entry 3 (found on a, b)",
            ]
        );
    }
}
