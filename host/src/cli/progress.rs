//! A progress line on a terminal's stderr, which is redrawn in place. If stderr is no terminal,
//! nothing is printed: logs and scripts need whole lines.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use lockstep_proto::v1::StatusRequest;
use lockstep_proto::v1::admin_client::AdminClient;
use serde_json::Value;

use super::client::Client;

/// Time between two status requests to a node.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The progress line. It is erased when dropped.
pub(crate) struct Line {
    is_shown: bool,
    drawn: bool,
}

impl Line {
    pub(crate) fn new() -> Line {
        Line { is_shown: std::io::stderr().is_terminal(), drawn: false }
    }

    /// Tells whether the line is shown at all.
    pub(crate) fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Draws the line anew.
    pub(crate) fn draw(&mut self, text: &str) {
        if self.is_shown {
            self.drawn = true;
            // An error is ignored: nothing depends on this line.
            drop(write!(std::io::stderr(), "\r\x1b[K{text}"));
        }
    }

    /// Erases the line.
    pub(crate) fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            drop(write!(std::io::stderr(), "\r\x1b[K"));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.erase();
    }
}

/// Waits for `work`. Meanwhile it shows the node's snapshot transfers on a terminal, in both
/// directions.
pub(crate) async fn with_transfers<T>(server: &Client, work: impl Future<Output = T>) -> T {
    let mut line = Line::new();
    if !line.is_shown() {
        return work.await;
    }
    let shown = async {
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            // If a node does not answer, or is older, there is no line. The work itself reports
            // what is wrong.
            match AdminClient::new(server.clone()).status(StatusRequest {}).await {
                Ok(status) => match transfers(&status.into_inner().json) {
                    Some(text) => line.draw(&text),
                    None => line.erase(),
                },
                Err(_) => line.erase(),
            }
        }
    };
    tokio::select! {
        done = work => done,
        () = shown => unreachable!("it goes on until the work is done"),
    }
}

/// Returns all transfers of a status object in one line.
fn transfers(json: &str) -> Option<String> {
    let status: Value = serde_json::from_str(json).ok()?;
    let described: Vec<String> = status["transfers"].as_array()?.iter().map(describe).collect();
    (!described.is_empty()).then(|| described.join("; "))
}

fn describe(transfer: &Value) -> String {
    let text = |field: &str| transfer[field].as_str().unwrap_or("?").to_owned();
    let number = |field: &str| transfer[field].as_u64().unwrap_or(0);
    let way = if transfer["direction"] == "receiving" { "from" } else { "to" };
    let (bytes, rows, seconds) = (number("bytes"), number("rows"), number("seconds"));
    format!("{} a snapshot {way} {}: {}, {rows} rows, {seconds} s", text("direction"), text("peer"), mebibytes(bytes))
}

/// Returns, for example, `12.3 MiB`.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_one_line_of_words() {
        let transfer = serde_json::json!({
            "direction": "sending", "peer": "nodeB", "index": 7, "bytes": 3 << 20, "rows": 40, "began_ms": 0, "seconds": 12
        });
        let status = serde_json::json!({ "transfers": [transfer] }).to_string();
        assert_eq!(transfers(&status).unwrap(), "sending a snapshot to nodeB: 3.0 MiB, 40 rows, 12 s");
        assert_eq!(transfers(r#"{"transfers": []}"#), None);
        assert_eq!(transfers("{}"), None);
    }
}
