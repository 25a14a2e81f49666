//! What tests ask of a node's log. A thread of the node writes it, so a line can come after the
//! answer to a call that caused it.

use anyhow::{Result, ensure};

use crate::{NodeProcess, eventually};

/// Lines of a node's log that a message quotes.
const LAST_LINES: usize = 60;

impl NodeProcess {
    /// Waits until the log of a running node has each of these texts. A node that has ended has
    /// written its log.
    pub async fn has_logged(&self, texts: &[&str]) -> Result<()> {
        eventually("the log says it", || async {
            let log = self.log();
            for text in texts {
                ensure!(log.contains(text), "{} has not logged {text:?}:\n{}", self.name, self.last_words());
            }
            Ok(())
        })
        .await
    }

    /// Returns the end of the log, for messages.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}
