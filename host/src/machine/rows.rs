//! Rows that an operator brings into the state: the effects of an entry that writes them, and what
//! this node remembers of the last one. No guest runs. This module proposes nothing.
//!
//! - Nothing is written unless the component in force is the expected one, and the read-only mode
//!   refuses all commands. Both are part of the state, so every node decides alike.
//! - The removed rows are the first ones from a key on, so that an entry is bounded however large
//!   the state is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::Machine;
use super::overlay::Transaction;
use super::system::System;
use crate::codec::entry::Rows as RowsEntry;
use crate::guest::{HostFault, Range, Rows};
use crate::store::{Column, Read, StoreError};

/// What an entry with rows did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsReport {
    /// Index of the entry.
    pub index: u64,
    /// Why it wrote nothing, if so.
    pub refused: Option<RowsRefusal>,
    /// Rows that it put.
    pub written: u64,
    /// Rows that it removed.
    pub removed: u64,
    /// The last key that it removed.
    pub last_removed: Option<Vec<u8>>,
}

/// Why an entry with rows wrote nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsRefusal {
    /// The cluster runs another component than the expected one.
    OtherComponent,
    /// The cluster takes commands, of some methods at least.
    TakesCommands,
}

/// Says why rows must not be written to a state, if so.
pub(crate) fn refusal(system: &System, rows: &RowsEntry) -> Option<RowsRefusal> {
    let component = system.in_force().map(|(_, profile)| &profile.component_hash);
    if component != Some(&rows.expected_component) {
        return Some(RowsRefusal::OtherComponent);
    }
    let is_closed = system.read_only.as_ref().is_some_and(|mode| mode.covers_all());
    (!is_closed).then_some(RowsRefusal::TakesCommands)
}

/// Writes the rows of an entry to its transaction, unless they are refused.
pub(crate) fn write<R: Read + Send + 'static>(
    system: &System,
    rows: &RowsEntry,
    transaction: &mut Transaction<R>,
) -> Result<(), HostFault> {
    if refusal(system, rows).is_some() {
        return Ok(());
    }
    let fault = |error: crate::guest::StoreFault| HostFault(error.0);
    if rows.clear > 0 {
        let range = Range { start: &rows.clear_from, end: None };
        transaction.remove_range(range, rows.clear.into()).map_err(fault)?;
    }
    // A row without a key has no place in a state. The leader sends none.
    for row in rows.put.iter().filter(|row| !row.key.is_empty()) {
        transaction.put(&row.key, &row.value).map_err(fault)?;
    }
    Ok(())
}

/// Describes an entry with rows by what it wrote. `system` is the one behind it.
pub(crate) fn report(
    index: u64,
    system: &System,
    rows: &RowsEntry,
    writes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
) -> RowsReport {
    let removed = || writes.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key);
    let removed_count = removed().count();
    RowsReport {
        index,
        refused: refusal(system, rows),
        written: (writes.len() - removed_count) as u64,
        removed: removed_count as u64,
        last_removed: removed().next_back().cloned(),
    }
}

impl Machine {
    /// Returns what the last entry with rows did that this process has applied.
    pub fn last_rows(&self) -> Option<RowsReport> {
        self.shared.rows_here.lock().clone()
    }

    /// Returns whether the guest has any rows.
    pub fn has_rows(&self) -> Result<bool, StoreError> {
        let mut found = false;
        self.shared.state.current().scan(Column::Data, &[], None, false, &mut |_, _| {
            found = true;
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::{Genesis, entry};
    use crate::machine::read_only::ReadOnly;

    /// A state with these rows.
    struct State(BTreeMap<Vec<u8>, Vec<u8>>);

    impl Read for State {
        fn get(&self, _: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(
            &self,
            _: Column,
            start: &[u8],
            _: Option<&[u8]>,
            _: bool,
            row: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
        ) -> Result<(), StoreError> {
            let rows = self.0.range(start.to_vec()..);
            let _ended_early = rows.map(|(key, value)| row(key, value)).find(ControlFlow::is_break);
            Ok(())
        }
    }

    fn system(mode: Option<(bool, &[&str])>) -> System {
        let genesis = Genesis { component_hash: vec![1; 32].into(), ..Genesis::default() };
        let mode = mode.map(|(on, methods)| entry::ReadOnly {
            on,
            methods: methods.iter().map(|method| method.to_string()).collect(),
            by: String::new(),
        });
        System {
            genesis: Some(Arc::new((1, genesis))),
            read_only: mode.map(|mode| Arc::new(ReadOnly::set_by(2, 0, &mode))),
            ..System::default()
        }
    }

    fn rows(component: u8, clear: u32, put: &[(&str, &str)]) -> RowsEntry {
        let row = |(key, value): &(&str, &str)| entry::Row {
            key: key.as_bytes().to_vec().into(),
            value: value.as_bytes().to_vec().into(),
        };
        RowsEntry {
            expected_component: vec![component; 32].into(),
            clear,
            clear_from: bytes::Bytes::from_static(b"b"),
            put: put.iter().map(row).collect(),
        }
    }

    fn written(system: &System, rows: &RowsEntry) -> Vec<(String, Option<String>)> {
        let base = ["a", "b", "c", "d"].map(|key| (key.as_bytes().to_vec(), b"0".to_vec()));
        let mut transaction = Transaction::new(State(base.into()));
        write(system, rows, &mut transaction).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        transaction.into_writes().into_iter().map(|(key, value)| (text(key), value.map(text))).collect()
    }

    #[test]
    fn rows_are_removed_and_then_put() {
        let closed = system(Some((true, &[])));
        let of = |rows: &RowsEntry| written(&closed, rows);
        let put = ("x".to_owned(), Some("1".to_owned()));
        assert_eq!(of(&rows(1, 0, &[("x", "1"), ("", "2")])), std::slice::from_ref(&put));
        let gone = |key: &str| (key.to_owned(), None::<String>);
        assert_eq!(of(&rows(1, 2, &[])), [gone("b"), gone("c")]);
        assert_eq!(of(&rows(1, 9, &[("x", "1")])), [gone("b"), gone("c"), gone("d"), put]);
    }

    #[test]
    fn rows_for_another_component_or_beside_commands_are_refused() {
        let table = [
            (system(Some((true, &[]))), 1, None),
            (system(Some((true, &[]))), 2, Some(RowsRefusal::OtherComponent)),
            (system(Some((true, &["a.B/*"]))), 1, Some(RowsRefusal::TakesCommands)),
            (system(Some((false, &[]))), 1, Some(RowsRefusal::TakesCommands)),
            (system(None), 1, Some(RowsRefusal::TakesCommands)),
            (System::default(), 1, Some(RowsRefusal::OtherComponent)),
        ];
        for (system, component, wanted) in table {
            let rows = rows(component, 1, &[("x", "1")]);
            assert_eq!(refusal(&system, &rows), wanted);
            assert_eq!(written(&system, &rows).is_empty(), wanted.is_some());
        }
    }
}
