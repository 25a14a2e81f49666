//! Tests that the order of the words equals that of the original, byte for byte.

#![allow(clippy::unwrap_used)]

use lockstep_guest::{Code, Harness};
use words::{AddWordRequest, AddWordResponse, GetWordsRequest, GetWordsResponse, Words};

fn add(machine: &mut Harness<Words>, word: &str) -> u64 {
    let request = AddWordRequest { word: word.to_owned(), group_id: String::new() };
    let reply: AddWordResponse = machine.command("Example/AddWord", &request).unwrap();
    reply.commit_index
}

fn get(machine: &mut Harness<Words>) -> GetWordsResponse {
    machine.query("Example/GetWords", &GetWordsRequest::default()).unwrap()
}

/// Returns the best words after these, on a machine that also passes through a snapshot after each.
fn best(words: &[&str]) -> Vec<String> {
    let mut machine = Harness::<Words>::new();
    for word in words {
        add(&mut machine, word);
        machine.snapshot_restore();
    }
    machine.assert_replicas_agree();
    get(&mut machine).best_words
}

#[test]
fn longest_come_first_and_indexes_are_told() {
    let mut machine = Harness::<Words>::new();
    for (word, index) in [("one", 1), ("three", 2), ("seventeen", 3), ("four", 4)] {
        assert_eq!(add(&mut machine, word), index);
    }
    let reply = get(&mut machine);
    assert_eq!(reply.read_at_index, 4);
    assert_eq!(reply.best_words, ["seventeen", "three", "four"]);
}

#[test]
fn there_are_always_three() {
    assert_eq!(best(&[]), ["", "", ""]);
    assert_eq!(best(&["a", ""]), ["a", "", ""]);
}

#[test]
fn of_equal_length_the_alphabetically_first_is_better() {
    assert_eq!(best(&["dog", "cat", "emu", "ant"]), ["ant", "cat", "dog"]);
    assert_eq!(best(&["b", "a", "C"]), ["C", "a", "b"]);
}

#[test]
fn length_counts_bytes() {
    assert_eq!(best(&["abc", "éé"]), ["éé", "abc", ""]);
}

/// The original compares only the new word with the ranks and shifts the words below, so equal
/// words do not replace each other.
#[test]
fn word_that_came_twice_stands_there_twice() {
    assert_eq!(best(&["aa", "aa", "b"]), ["aa", "aa", "b"]);
    assert_eq!(best(&["aa", "aa", "b", "ccc"]), ["ccc", "aa", "aa"]);
    assert_eq!(best(&["x", "x", "x", "x"]), ["x", "x", "x"]);
}

#[test]
fn other_groups_are_not_found() {
    let mut machine = Harness::<Words>::new();
    let request = AddWordRequest { word: "word".to_owned(), group_id: "g1".to_owned() };
    let refused = machine.command::<_, AddWordResponse>("Example/AddWord", &request).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let request = GetWordsRequest { group_id: "g1".to_owned() };
    let refused = machine.query::<_, GetWordsResponse>("Example/GetWords", &request).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(get(&mut machine).best_words, ["", "", ""]);
}
