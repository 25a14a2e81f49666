//! Finds steps of a watch that ask for an index that is reached already: they run again at once.
//! This module says when, and limits steps that send nothing. A step that sends needs no limit: its
//! client has to take the message first. This module runs no step.

use std::time::Duration;

use crate::guest::Step;

/// Most steps in a row that may run again at once without sending anything. Each may read tens of
/// megabytes, so a search for a rare row passes over about a gigabyte before the pause.
const SILENT_STEPS_MAX: u32 = 16;

/// Pause before each further silent step. Ten steps a second are no burden, whatever their purpose.
const SILENT_PAUSE: Duration = Duration::from_millis(100);

/// Follows the steps of one stream.
#[derive(Debug, Default)]
pub struct Again {
    /// Steps in a row that asked to run again at once and sent nothing.
    silent: u32,
}

impl Again {
    /// Returns the pause after which the stream runs again although nothing has changed. `step` was
    /// made at `index`. Returns `None` when the stream waits for a change.
    pub fn after(&mut self, step: &Step, index: u64) -> Option<Duration> {
        let again = !step.done && (1..=index).contains(&step.wake_at_index);
        self.silent = if again && step.replies.is_empty() { self.silent + 1 } else { 0 };
        again.then_some(if self.silent > SILENT_STEPS_MAX { SILENT_PAUSE } else { Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn step(wake_at_index: u64, replies: usize) -> Step {
        Step { wake_at_index, replies: vec![Bytes::new(); replies], ..Step::default() }
    }

    #[test]
    fn an_index_that_is_reached_runs_the_next_step_at_once() {
        let mut again = Again::default();
        assert_eq!(again.after(&step(7, 1), 7), Some(Duration::ZERO));
        assert_eq!(again.after(&step(1, 0), 7), Some(Duration::ZERO));
        assert_eq!(again.after(&step(8, 1), 7), None, "not yet");
        assert_eq!(again.after(&step(0, 1), 7), None, "never");
        assert_eq!(again.after(&Step { done: true, ..step(7, 1) }, 7), None, "the stream ends");
    }

    #[test]
    fn steps_that_send_nothing_are_held_back_after_some() {
        let mut again = Again::default();
        for _ in 0..SILENT_STEPS_MAX {
            assert_eq!(again.after(&step(1, 0), 7), Some(Duration::ZERO));
        }
        assert_eq!(again.after(&step(1, 0), 7), Some(SILENT_PAUSE));
        assert_eq!(again.after(&step(1, 1), 7), Some(Duration::ZERO), "a message makes up for it");
        assert_eq!(again.after(&step(1, 0), 7), Some(Duration::ZERO));
    }
}
