//! Reports of a rehearsal in words, for people who decide about a change. Contents of requests and
//! replies are left out. It decides nothing; `agreement` says what speaks against the change.

use super::report::{AnswerDifference, AnswerReport, MigrationKind, RehearsalReport, SideReport};

/// Digits of a hash that people compare.
const HASH_DIGITS: usize = 12;
/// Most methods with differences that are listed.
const METHODS_MAX: usize = 10;

impl MigrationKind {
    /// Returns what becomes of the state, in words.
    pub fn words(self) -> &'static str {
        match self {
            MigrationKind::Kept => "kept as it is",
            MigrationKind::Migrated => "migrated in one entry",
            MigrationKind::Refused => "refused",
            MigrationKind::Failed => "failed",
            MigrationKind::TooLarge => "too large for one entry: migrate lazily",
        }
    }
}

impl AnswerReport {
    /// Returns what was answered, without its contents.
    pub fn words(&self) -> String {
        match self {
            AnswerReport::Reply(body) => format!("a reply of {} bytes", body.bytes),
            AnswerReport::Refused { code, .. } => format!("a refusal with code {code}"),
            AnswerReport::Failed { reason, .. } => format!("a failure ({reason:?})"),
        }
    }
}

impl AnswerDifference {
    /// Returns where the difference is and what was answered, without contents.
    pub fn words(&self) -> String {
        let place = match self.index {
            Some(index) => format!("entry {index}, position {}", self.position),
            None => format!("query {} of the sample", self.position + 1),
        };
        format!("{place}: {} instead of {}", self.new.words(), self.old.words())
    }
}

/// Returns the lines that say what a rehearsal found, from the reports of all nodes, each with its
/// node's name.
pub fn lines(reports: &[(String, RehearsalReport)]) -> Vec<String> {
    let Some((_, first)) = reports.first() else { return Vec::new() };
    let mut lines = vec![format!(
        "from {} to {}, tried on the state at entry {}",
        component(&first.old.version, &first.old.hash),
        component(&first.new.version, &first.new.hash),
        first.index
    )];
    lines.extend(indented(migrations(reports)));
    let commands = |report: &RehearsalReport| {
        let found = report.commands.as_ref()?;
        let entries = format!("{} to {}", found.first_index, found.last_index);
        (found.commands > 0).then(|| (entries, found.commands, found.different, found.old.clone(), found.new.clone()))
    };
    let ran = indented(answers("commands of entries", reports, commands));
    if ran.is_empty() && reports.iter().any(|(_, report)| report.commands.is_some()) {
        lines.push("  no commands were run: the log has none that the present component ran".to_owned());
    }
    lines.extend(ran);
    let queries = |report: &RehearsalReport| {
        let found = report.queries.as_ref()?;
        let sample = "a sample".to_owned();
        (found.queries > 0).then(|| (sample, found.queries, found.different, found.old.clone(), found.new.clone()))
    };
    lines.extend(indented(answers("queries of", reports, queries)));
    lines.extend(methods(reports).into_iter().map(|line| format!("  {line}")));
    lines
}

fn component(version: &str, hash: &str) -> String {
    let hash = digits(hash);
    if version.is_empty() { hash.to_owned() } else { format!("version {version} ({hash})") }
}

/// Returns the part of a hash that people compare.
fn digits(hash: &str) -> &str {
    hash.get(..HASH_DIGITS).unwrap_or(hash)
}

/// One row for each node: what becomes of its state, and what that takes.
fn migrations(reports: &[(String, RehearsalReport)]) -> Vec<Vec<String>> {
    let head = ["node", "state", "rows", "digest", "written", "removed", "calls", "fuel", "snapshot", "holds apply"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(|(node, report)| {
        let found = &report.migration;
        let rows = if found.has_result() && found.rows_after != found.rows_before {
            format!("{}, then {}", found.rows_before, found.rows_after)
        } else {
            found.rows_before.to_string()
        };
        let snapshot = match &report.snapshot {
            None => "-",
            Some(snapshot) if snapshot.problem.is_none() => "exact",
            Some(_) => "wrong",
        };
        let digest = if found.has_result() { digits(&found.digest_after) } else { "-" };
        let holds = if found.has_result() { format!("about {} ms", report.hold_ms) } else { "-".to_owned() };
        vec![
            node.clone(),
            found.kind.words().to_owned(),
            rows,
            digest.to_owned(),
            found.rows_written.to_string(),
            found.rows_removed.to_string(),
            found.calls.to_string(),
            found.fuel.to_string(),
            snapshot.to_owned(),
            holds,
        ]
    }));
    rows
}

/// What ran, how many calls that were, how many were answered differently, and what both machines
/// spent.
type Answers = (String, u64, u64, SideReport, SideReport);

/// One row for each node that ran any calls; none if no node did.
fn answers(
    what: &str,
    reports: &[(String, RehearsalReport)],
    of: impl Fn(&RehearsalReport) -> Option<Answers>,
) -> Vec<Vec<String>> {
    let head = ["node", what, "run", "differ", "fuel old", "fuel new", "time old", "time new"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().filter_map(|(node, report)| {
        let (place, run, different, old, new) = of(report)?;
        let time = |side: &SideReport| format!("{}.{} ms", side.elapsed_us / 1000, side.elapsed_us % 1000 / 100);
        Some(vec![
            node.clone(),
            place,
            run.to_string(),
            different.to_string(),
            old.fuel.to_string(),
            new.fuel.to_string(),
            time(&old),
            time(&new),
        ])
    }));
    if rows.len() == 1 { Vec::new() } else { rows }
}

/// One line for each method of which answers differ, with the first difference that any node found.
fn methods(reports: &[(String, RehearsalReport)]) -> Vec<String> {
    let mut found: Vec<&AnswerDifference> = Vec::new();
    for difference in reports.iter().flat_map(|(_, report)| &report.differences) {
        let is_known = |known: &&AnswerDifference| {
            known.method == difference.method && known.index.is_some() == difference.index.is_some()
        };
        if !found.iter().any(is_known) {
            found.push(difference);
        }
    }
    let more = found.len().saturating_sub(METHODS_MAX);
    let line =
        |difference: &&AnswerDifference| format!("{} differs, first at {}", difference.method, difference.words());
    let mut lines: Vec<String> = found.iter().take(METHODS_MAX).map(line).collect();
    if more > 0 {
        lines.push(format!("{more} more methods differ"));
    }
    lines
}

/// Aligns the columns of a table, and indents its lines.
fn indented(table: Vec<Vec<String>>) -> Vec<String> {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("  {cell:<width$}"));
        cells.collect::<String>().trim_end().to_owned()
    };
    table.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::{Body, CommandsReport, ComponentReport, MigrationReport, SnapshotReport};
    use super::*;
    use crate::guest::Reason;

    fn report() -> RehearsalReport {
        let component =
            |version: &str, digit: &str| ComponentReport { hash: digit.repeat(64), version: version.into() };
        let side = |fuel, elapsed_us| SideReport { fuel, elapsed_us, ..SideReport::default() };
        let body = |bytes| Body { bytes, base64: Some("c2VjcmV0".into()) };
        let difference = |position, new| AnswerDifference {
            index: Some(12),
            position,
            method: "S/Put".into(),
            caller: String::new(),
            request: body(6),
            old: AnswerReport::Reply(body(6)),
            new,
        };
        RehearsalReport {
            index: 40,
            old: component("1", "a"),
            new: component("", "b"),
            migration: MigrationReport {
                kind: MigrationKind::Migrated,
                rows_before: 10,
                rows_after: 9,
                rows_written: 9,
                rows_removed: 1,
                calls: 2,
                fuel: 300,
                digest_after: "c".repeat(64),
                ..MigrationReport::default()
            },
            snapshot: Some(SnapshotReport::default()),
            commands: Some(CommandsReport {
                first_index: 12,
                last_index: 39,
                commands: 20,
                different: 2,
                old: side(1_000, 1_250),
                new: side(1_500, 12_000),
                ..CommandsReport::default()
            }),
            differences: vec![
                difference(3, AnswerReport::Failed { reason: Reason::Trap, detail: "secret".into() }),
                difference(4, AnswerReport::Reply(body(7))),
            ],
            hold_ms: 17,
            ..RehearsalReport::default()
        }
    }

    #[test]
    fn reports_are_a_table_without_contents() {
        let reports = [("a".to_owned(), report()), ("node-b".to_owned(), report())];
        assert_eq!(
            lines(&reports),
            [
                "from version 1 (aaaaaaaaaaaa) to bbbbbbbbbbbb, tried on the state at entry 40",
                "  node    state                  rows        digest        written  removed  calls  fuel  snapshot  holds apply",
                "  a       migrated in one entry  10, then 9  cccccccccccc  9        1        2      300   exact     about 17 ms",
                "  node-b  migrated in one entry  10, then 9  cccccccccccc  9        1        2      300   exact     about 17 ms",
                "  node    commands of entries  run  differ  fuel old  fuel new  time old  time new",
                "  a       12 to 39             20   2       1000      1500      1.2 ms    12.0 ms",
                "  node-b  12 to 39             20   2       1000      1500      1.2 ms    12.0 ms",
                "  S/Put differs, first at entry 12, position 3: a failure (Trap) instead of a reply of 6 bytes",
            ]
        );
        assert_eq!(lines(&[]), Vec::<String>::new());
    }

    #[test]
    fn a_rehearsal_without_commands_says_so() {
        let commands = Some(CommandsReport::default());
        let report = RehearsalReport { commands, differences: Vec::new(), ..report() };
        let lines = lines(&[("a".to_owned(), report)]);
        assert!(lines.len() == 4 && lines[3].starts_with("  no commands were run: "), "{lines:?}");
    }

    #[test]
    fn without_a_migrated_state_nothing_else_is_told() {
        let migration =
            MigrationReport { kind: MigrationKind::TooLarge, rows_before: 10, ..MigrationReport::default() };
        let report = RehearsalReport { index: 40, migration, ..RehearsalReport::default() };
        let lines = lines(&[("a".to_owned(), report)]);
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[2],
            "  a     too large for one entry: migrate lazily  10    -       0        0        0      0     -         -"
        );
    }
}
