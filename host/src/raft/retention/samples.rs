//! Notes how many commands had been applied, and how many bytes of log written, at which index.
//! Computes from that how much log may go. Keeps numbers only: reads no log and purges none.

use std::collections::VecDeque;

use super::RetentionLimits;
use crate::store::LogStats;

/// Most notes kept. When full, every second one is dropped, so the notes always reach back far
/// enough.
const SAMPLES_MAX: usize = 4_096;

/// Counts at `index`: the commands applied since the beginning, and the bytes of log written, as
/// [`LogStats`] counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) index: u64,
    pub(super) commands: u64,
    pub(super) bytes: u64,
}

/// Notes that grow in all three numbers.
#[derive(Debug, Default)]
pub(super) struct Samples {
    notes: VecDeque<Sample>,
    /// The log as it was opened: first and last index, and bytes.
    opened: (u64, u64, u64),
}

impl Samples {
    pub(super) fn new(opened: &LogStats) -> Samples {
        let last = opened.last_index.unwrap_or(0);
        let first = opened.first_index.unwrap_or(last);
        Samples { notes: VecDeque::new(), opened: (first, last, opened.written_bytes) }
    }

    pub(super) fn note(&mut self, sample: Sample) {
        if self.notes.back().is_none_or(|last| last.index < sample.index) {
            self.notes.push_back(sample);
        }
        if self.notes.len() > SAMPLES_MAX {
            let mut keep = false;
            self.notes.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Returns the number of commands that had certainly been applied at `index`.
    pub(super) fn commands_at(&self, index: u64) -> u64 {
        self.notes.iter().rev().find(|note| note.index <= index).map_or(0, |note| note.commands)
    }

    /// Returns about how many bytes of log were written up to and including `index`.
    pub(super) fn bytes_at(&self, index: u64) -> u64 {
        let (first, last, bytes) = self.opened;
        if index <= last {
            // The entries that were there at the start are taken to be of equal size.
            let before = (index + 1).saturating_sub(first).min(last + 1 - first);
            return (u128::from(bytes) * u128::from(before) / u128::from(last + 1 - first)) as u64;
        }
        self.notes.iter().rev().find(|note| note.index <= index).map_or(bytes, |note| note.bytes.max(bytes))
    }

    /// Returns about how many bytes lie in a log from `first` on. `written` is how many were
    /// written in all.
    pub(super) fn bytes_from(&self, first: u64, written: u64) -> u64 {
        written.saturating_sub(first.checked_sub(1).map_or(0, |before| self.bytes_at(before)))
    }

    /// Returns the last entry that may go. Behind the snapshot, `trailing_commands` commands and at
    /// least `trailing_entries_min` entries stay.
    pub(super) fn superfluous(&self, snapshot_index: u64, limits: &RetentionLimits) -> Option<u64> {
        let by_entries = snapshot_index.checked_sub(limits.trailing_entries_min)?;
        let commands = self.commands_at(snapshot_index).checked_sub(limits.trailing_commands)?;
        let by_commands = self.notes.iter().rev().find(|note| note.commands <= commands)?.index;
        Some(by_entries.min(by_commands)).filter(|upto| *upto > 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits(trailing_commands: u64, trailing_entries_min: u64) -> RetentionLimits {
        RetentionLimits {
            interval: Duration::from_secs(1),
            threshold_commands: 1,
            threshold_bytes: 0,
            trailing_commands,
            trailing_entries_min,
            log_bytes_max: 0,
        }
    }

    fn samples(notes: &[(u64, u64)]) -> Samples {
        let mut samples = Samples::default();
        for (index, commands) in notes {
            samples.note(Sample { index: *index, commands: *commands, bytes: *index * 10 });
        }
        samples
    }

    #[test]
    fn the_log_keeps_trailing_commands_behind_the_snapshot() {
        let samples = samples(&[(10, 100), (20, 200), (30, 300), (40, 400)]);
        assert_eq!(samples.superfluous(40, &limits(150, 0)), Some(20));
        assert_eq!(samples.superfluous(40, &limits(100, 0)), Some(30));
        assert_eq!(samples.superfluous(40, &limits(0, 0)), Some(40));
    }

    #[test]
    fn the_log_keeps_a_least_number_of_entries() {
        let samples = samples(&[(10, 100), (20, 200), (30, 300), (40, 400)]);
        assert_eq!(samples.superfluous(40, &limits(0, 25)), Some(15));
        assert_eq!(samples.superfluous(40, &limits(0, 40)), None);
        assert_eq!(samples.superfluous(40, &limits(0, 10_240)), None);
    }

    #[test]
    fn nothing_goes_that_is_not_known_to_be_superfluous() {
        assert_eq!(samples(&[]).superfluous(1_000, &limits(0, 0)), None);
        assert_eq!(samples(&[(500, 500)]).superfluous(1_000, &limits(10_240, 0)), None);
        // A snapshot between two notes counts the commands of the earlier note.
        assert_eq!(samples(&[(10, 100), (20, 200)]).superfluous(15, &limits(50, 0)), None);
    }

    #[test]
    fn notes_stay_bounded_and_reach_back() {
        let mut samples = Samples::default();
        for n in 1..100_000 {
            samples.note(Sample { index: n, commands: n, bytes: n });
        }
        assert!(samples.notes.len() <= SAMPLES_MAX);
        assert_eq!(samples.notes.front().unwrap().index, 1);
    }

    #[test]
    fn bytes_are_known_of_what_was_there_and_of_what_came() {
        let stats = LogStats {
            first_index: Some(101),
            last_index: Some(200),
            durable_index: 200,
            tail_bytes: 0,
            written_bytes: 1_000,
        };
        let mut samples = Samples::new(&stats);
        assert_eq!([100, 150, 200, 201].map(|index| samples.bytes_at(index)), [0, 500, 1_000, 1_000]);
        samples.note(Sample { index: 210, commands: 0, bytes: 1_500 });
        assert_eq!(samples.bytes_at(215), 1_500);
        assert_eq!(samples.bytes_from(101, 1_600), 1_600);
        assert_eq!(samples.bytes_from(151, 1_600), 1_100);
        assert_eq!(samples.bytes_from(211, 1_600), 100);
        assert_eq!(Samples::default().bytes_from(0, 70), 70);
    }
}
