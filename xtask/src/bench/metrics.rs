//! The numbers on a node's page `/metrics`, by their names. It does not know what they mean.

use anyhow::{Context, Result};

use super::http;

/// The page as it was at one time.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Where it was read, for errors.
    address: String,
    text: String,
}

impl Metrics {
    /// Reads the page of the node that serves its pages at `address`.
    pub(super) fn read(address: &str) -> Result<Metrics> {
        Ok(Metrics { address: address.to_owned(), text: http::get(address, "/metrics")? })
    }

    /// Reads the page over an open connection.
    pub(super) fn read_over(connection: &mut http::Kept) -> Result<Metrics> {
        Ok(Metrics { text: connection.get("/metrics")?, address: connection.address().to_owned() })
    }

    /// Returns a number that has no labels.
    pub(super) fn number(&self, name: &str) -> Result<u64> {
        number(&self.text, name).with_context(|| format!("http://{}/metrics has no {name}", self.address))
    }
}

/// Returns a number without labels of an OpenMetrics text.
fn number(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_on_its_line() {
        let text = "# HELP lockstep_entries_applied Entries.\n# TYPE lockstep_entries_applied counter\n\
                    lockstep_entries_applied_total 41\nlockstep_x_total{a=\"b\"} 1\nlockstep_term 3\n# EOF\n";
        assert_eq!(number(text, "lockstep_entries_applied_total"), Some(41));
        assert_eq!(number(text, "lockstep_term"), Some(3));
        assert_eq!(number(text, "lockstep_x_total"), None);
        assert_eq!(number(text, "lockstep_flushes_total"), None);
    }
}
