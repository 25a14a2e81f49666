//! Tests of rehearsals: what is found about a new guest, and that the state in use does not notice.

use super::guest_text::{LOOKUP, RESTORE, counting, faithful, forgetful, load_text, module};
use super::harness::*;
use crate::codec::{Change, entry};
use crate::guest::{Component, Verdict};
use crate::machine::rehearsal::report::{AnswerReport, MigrationKind};
use crate::machine::rehearsal::{Rehearsal, RehearsalReport};
use crate::machine::snapshot::Turn;
use crate::machine::{SEMANTICS, genesis_of};
use crate::types::hex;

const MARK: [u8; 16] = [5; 16];

/// Puts an export at the end of the module's text. `{migrate}` stands for its body, which returns
/// the address of the result.
fn with_migrator(migrate: &str) -> Component {
    let text = module(RESTORE, LOOKUP);
    let (module, end) = text.rsplit_once(')').unwrap();
    let export = format!(
        r#"(data (i32.const 512) "zmigrated")
        (func (export "lockstep:machine/migrator@1.0.0#migrate") (param $index i64) (param $position i32) (param $time i64)
          (param $hash i32) (param $hash_length i32) (param $version i32) (param $version_length i32)
          (param $cursor i32) (param $cursor_length i32) (result i32)
          {migrate}
          (i32.const 256))"#
    );
    load_text(&format!("{module}{export}){end}"), "migrating-guest")
}

/// Adds the row `z`, and is done.
pub(super) fn adding() -> Component {
    with_migrator(
        "(call $put (i32.const 512) (i32.const 1) (i32.const 513) (i32.const 8))
         (i32.store8 (i32.const 256) (i32.const 0))
         (i32.store8 (i32.const 260) (i32.const 1))
         (i32.store (i32.const 264) (i32.const 0))
         (i32.store (i32.const 268) (i32.const 0))",
    )
}

/// Refuses with FAILED_PRECONDITION.
pub(super) fn refusing() -> Component {
    with_migrator(
        "(i32.store8 (i32.const 256) (i32.const 1))
         (i32.store (i32.const 260) (i32.const 9))
         (i64.store (i32.const 264) (i64.const 0))
         (i64.store (i32.const 272) (i64.const 0))",
    )
}

/// Answers a command with the number of commands that its instance has run, one byte.
fn numbering() -> Component {
    let text = module(RESTORE, LOOKUP).replacen(
        "(call $reply (local.get $value) (local.get $value_length)))",
        "(i32.store8 (i32.const 1024) (i32.add (i32.load8_u (i32.const 1024)) (i32.const 1)))
         (call $reply (i32.const 1024) (i32.const 1)))",
        1,
    );
    load_text(&text, "watching-guest")
}

fn change(component: &Component) -> Change {
    let profile = genesis_of([7; 16], component, [8; 32]);
    Change {
        expected_index: 1,
        component_hash: profile.component_hash,
        source_hash: profile.source_hash,
        semantics: SEMANTICS,
        limits_json: profile.limits_json,
        probation_ms: 0,
    }
}

/// Rows that the entries before the mark set.
const ROWS: [(&str, &str); 3] = [("a", "1"), ("b", "2"), ("a", "3")];

/// Makes a node with some rows and a sampled query, marked at entry 4.
async fn marked() -> TestNode {
    let mut node = TestNode::begun(faithful()).await;
    node.apply(vec![puts(2, &ROWS[..2]), puts(3, &ROWS[2..])]).await;
    node.get("a").await;
    let mark = entry::Entry { time_ms: 3000, mark: MARK.to_vec().into(), ..entry::Entry::default() };
    node.apply(vec![normal(1, 4, &mark)]).await;
    node
}

async fn rehearse(node: &TestNode, new: &Component) -> Result<RehearsalReport, String> {
    let entries = vec![(2, commands(&ROWS[..2])), (3, commands(&ROWS[2..]))];
    node.machine.rehearse(Rehearsal { change: change(new), mark: MARK, entries }).await
}

async fn report(new: Component) -> (TestNode, RehearsalReport) {
    let node = marked().await;
    node.machine.offer_component(new.clone());
    let report = rehearse(&node, &new).await.unwrap();
    (node, report)
}

/// Returns what is beside the state in use, and what should not be.
fn scratch_states(node: &TestNode) -> Vec<String> {
    let listing = std::fs::read_dir(node.directory.0.group(0).state()).unwrap();
    let names = listing.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".scratch")).collect()
}

#[tokio::test]
async fn a_migration_is_tried_on_a_copy_and_the_state_in_use_stays() {
    let (mut node, report) = report(adding()).await;
    let found = &report.migration;
    assert_eq!((report.index, found.kind, found.calls), (4, MigrationKind::Migrated, 1));
    assert_eq!((found.rows_before, found.rows_after), (2, 3));
    assert_eq!((found.rows_written, found.rows_removed, found.bytes_written), (1, 0, 9));
    assert_ne!(found.digest_before, found.digest_after);
    assert!(found.fuel > 0 && report.hold_ms > 0);
    assert_eq!(report.new.hash, hex(&adding().hash()));
    assert_eq!(report.obstacles(), Vec::<String>::new());
    let commands = report.commands.unwrap();
    assert_eq!((commands.first_index, commands.last_index, commands.commands), (2, 3, 3));
    assert_eq!((commands.different, commands.not_compared), (0, 0));
    assert_eq!(commands.old.hash, commands.new.hash, "the commands do the same");
    assert!(commands.old.fuel > 0);
    assert_eq!(report.queries.unwrap().queries, 1);
    assert_eq!(node.get("z").await.verdict, Verdict::Reply(bytes::Bytes::new()));
    assert_eq!(scratch_states(&node), Vec::<String>::new());
    node.apply(vec![puts(5, &[("c", "4")])]).await;
}

#[tokio::test]
async fn answers_that_change_are_shown_and_do_not_stop_a_change() {
    let (_node, report) = report(counting()).await;
    assert_eq!(report.migration.kind, MigrationKind::Kept);
    assert_eq!(report.migration.digest_before, report.migration.digest_after);
    assert_eq!(report.queries.as_ref().unwrap().different, 1);
    let difference = &report.differences[0];
    assert_eq!((difference.index, difference.method.as_str()), (None, "Test/Get"));
    let AnswerReport::Reply(old) = &difference.old else { panic!("{difference:?}") };
    assert_eq!(old.decode().unwrap(), b"3");
    assert_eq!(report.obstacles(), Vec::<String>::new());
}

#[tokio::test]
async fn a_guest_that_remembers_commands_in_its_memory_is_found() {
    let (_node, report) = report(numbering()).await;
    let words = report.not_deterministic.as_ref().unwrap();
    assert!(words.starts_with("entry 2: Test/Put at position 1 was answered differently"), "{words}");
    assert_eq!(report.commands.as_ref().unwrap().different, 3);
    assert_eq!((report.differences[2].index, report.differences[2].position), (Some(3), 0));
    assert_eq!(report.obstacles().len(), 1);
}

#[tokio::test]
async fn a_restore_that_forgets_is_found() {
    let (node, report) = report(forgetful()).await;
    let problem = report.snapshot.as_ref().unwrap().problem.as_ref().unwrap();
    assert!(problem.contains("not inverse"), "{problem}");
    assert_eq!(report.obstacles().len(), 1);
    assert_eq!(scratch_states(&node), Vec::<String>::new());
}

#[tokio::test]
async fn after_a_refusal_there_is_nothing_more_to_try() {
    let (_node, report) = report(refusing()).await;
    assert_eq!(report.migration.kind, MigrationKind::Refused);
    assert_eq!((report.snapshot.as_ref(), report.commands.as_ref()), (None, None));
    assert!(report.obstacles()[0].starts_with("the new component refuses the change"));
}

#[tokio::test]
async fn all_nodes_find_the_same() {
    let (one, other) = (report(adding()).await.1, report(adding()).await.1);
    assert_eq!(one.equal_part(), other.equal_part());
    assert!(one.equal_part().len() > 6);
}

#[tokio::test]
async fn the_checkpoint_before_a_change_with_a_probation_holds_apply_too() {
    let node = marked().await;
    node.machine.offer_component(adding());
    let mut held = Vec::new();
    for probation_ms in [0, 1000] {
        let change = Change { probation_ms, ..change(&adding()) };
        let report = node.machine.rehearse(Rehearsal { change, mark: MARK, entries: Vec::new() }).await.unwrap();
        let migration = report.migration.migrate_ms + report.migration.store_ms;
        assert_eq!(report.hold_ms, report.checkpoint_ms + migration);
        held.push(report.checkpoint_ms);
    }
    assert!(held[0] == 0 && held[1] > 0, "{held:?}");
}

#[tokio::test]
async fn a_node_says_why_it_cannot_rehearse() {
    let node = marked().await;
    let refusal = rehearse(&node, &adding()).await.unwrap_err();
    assert!(refusal.contains("is not ready on this node"), "{refusal}");
    let turn = Turn::take(&node.machine.shared.rehearsing).unwrap();
    let refusal = rehearse(&node, &adding()).await.unwrap_err();
    assert!(refusal.contains("another rehearsal is under way"), "{refusal}");
    drop(turn);
    node.machine.offer_component(adding());
    node.machine.shared.stop();
    let refusal = rehearse(&node, &adding()).await.unwrap_err();
    assert_eq!(refusal, "this node stops");
    assert_eq!(scratch_states(&node), Vec::<String>::new());
}
