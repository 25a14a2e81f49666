//! Tests of an import's plan: which collections of a file go where, and which files are refused.

use std::io::Write;

use lockstep_contract::StateLock;
use prost_reflect::DescriptorPool;

use super::*;
use crate::cli::rows::shape::collections;

const OLD: &str = "1 accounts: Map<String, u64>\n2 names: Map<u64, String>\n200 index of names: Set<(u32, u64)>\n";

fn described(state: &str) -> Described {
    let collections = collections(&StateLock::parse(state).unwrap(), &DescriptorPool::new());
    Described { hash: [7; 32], version: "2".into(), collections }
}

fn plan(state: &str, leave_index_empty: bool) -> Result<Plan, String> {
    let header = Header::new("ab".into(), "1".into(), 9, &described(OLD).collections);
    Plan::new(&header, described(state), leave_index_empty).map_err(|failure| format!("{failure:?}"))
}

#[test]
fn collections_are_found_by_their_tags() {
    let plan = plan(&OLD.replace("accounts: Map<String, u64>", "funds: Map<String, u128>"), false).unwrap();
    let (row, name) = plan.row(r#"{"in": "accounts", "key": "ann", "value": "5"}"#).unwrap().unwrap();
    assert_eq!((name, row.value.len()), ("funds", 16));
    assert!(plan.skipped.is_empty());
    let refused = |line: &str| plan.row(line).unwrap_err();
    assert!(refused(r#"{"in": "funds", "key": "ann", "value": "5"}"#).contains("no collection \"funds\""));
    assert!(refused(r#"{"raw_key": "AQ==", "raw_value": ""}"#).contains("its key is one of funds (tag 1"));
    let (row, _) = plan.row(r#"{"raw_key": "CQ==", "raw_value": ""}"#).unwrap().unwrap();
    assert_eq!(row.key, [9]);
}

#[test]
fn an_index_comes_with_its_entries_or_is_told_of() {
    let entry = r#"{"in": "index of names", "key": [3, "7"]}"#;
    assert!(plan(OLD, false).unwrap().row(entry).unwrap().is_some());
    let other = OLD.replace("200 index of names: Set<(u32, u64)>", "201 index of names: Set<(String, u64)>");
    let refused = plan(&other, false).unwrap_err();
    assert!(refused.contains("index of names (tag 201") && refused.contains("--leave_index_empty"), "{refused}");
    let empty = plan(&other, true).unwrap();
    assert_eq!(empty.skipped.len(), 2, "{:?}", empty.skipped);
    assert!(empty.row(entry).unwrap().is_none());
    let changed = OLD.replace("Set<(u32, u64)>", "Set<(u64, u64)>");
    assert!(plan(&changed, false).is_err());
    assert!(plan(&changed, true).unwrap().row(entry).unwrap().is_none());
    let gone = OLD.replace("200 index of names: Set<(u32, u64)>\n", "");
    assert!(plan(&gone, false).unwrap().row(entry).unwrap().is_none());
}

#[test]
fn rows_without_a_place_are_refused() {
    let refused = plan("2 names: Map<u64, String>\n200 index of names: Set<(u32, u64)>\n", false).unwrap_err();
    assert!(refused.contains("no collection with tag 1, as accounts has"), "{refused}");
    let mut header = Header::new("ab".into(), "1".into(), 9, &described(OLD).collections);
    header.collections[1].name = "accounts".into();
    assert!(Plan::new(&header, described(OLD), false).is_err());
}

#[test]
fn a_file_is_read_whole_before_anything_is_sent() {
    let header = Header::new("ab".into(), "1".into(), 9, &described(OLD).collections).to_line();
    let row = r#"{"in": "accounts", "key": "ann", "value": "5"}"#;
    let end = line::end();
    let counted = |lines: &[&str]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        lines.iter().for_each(|line| writeln!(file, "{line}").unwrap());
        let plan = Plan::of(file.path(), described(OLD), false).map_err(|error| error.to_string())?;
        count(file.path(), &plan).map_err(|error| error.to_string())
    };
    assert_eq!(counted(&[&header, row, "", row, &end]).unwrap(), BTreeMap::from([("accounts".to_owned(), 2)]));
    assert!(counted(&[&header, row]).unwrap_err().contains("cut short"));
    assert!(counted(&[&header, row, "{}", &end]).unwrap_err().contains(", line 3: "));
    assert!(counted(&[row, &end]).unwrap_err().contains("does not begin"));
}

#[test]
fn rows_are_sent_in_messages_of_a_bounded_size() {
    let header = Header::new("ab".into(), "1".into(), 9, &described(OLD).collections).to_line();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let name = "x".repeat(100_000);
    writeln!(file, "{header}").unwrap();
    (0..7).for_each(|key| writeln!(file, r#"{{"in": "names", "key": "{key}", "value": "{name}"}}"#).unwrap());
    writeln!(file, "{}", line::end()).unwrap();
    let plan = Plan::of(file.path(), described(OLD), false).unwrap();
    let (queue, mut messages) = mpsc::channel(8);
    produce(file.path(), &plan, (true, 0), &queue).unwrap();
    drop(queue);
    let mut sent = Vec::new();
    while let Some(message) = messages.blocking_recv() {
        sent.push((message.replace, message.expected_component.len(), message.rows.len()));
    }
    assert_eq!(sent, [(true, 32, 2), (false, 0, 2), (false, 0, 2), (false, 0, 1)]);
}
