//! What clients may cost a node: the flags, their defaults and limits.

use super::{ConfigError, format_size};

/// Default bytes that clients may make a node hold.
pub const CLIENT_MEMORY: u64 = 192 << 20;
/// Least bytes of that. A quarter of it, the share of one connection, has room for some requests of
/// the largest size.
pub const CLIENT_MEMORY_MIN: u64 = 64 << 20;
/// Most bytes of that. More is surely a wrong unit.
pub const CLIENT_MEMORY_MAX: u64 = 1 << 40;

/// What clients may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Bytes that clients may make the node hold: requests, replies that wait, what watches keep
    /// (`--client_memory`).
    pub client_memory: u64,
}

impl Default for Costs {
    fn default() -> Costs {
        Costs { client_memory: CLIENT_MEMORY }
    }
}

impl Costs {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if (CLIENT_MEMORY_MIN..=CLIENT_MEMORY_MAX).contains(&self.client_memory) {
            return Ok(());
        }
        let (min, max) = (format_size(CLIENT_MEMORY_MIN), format_size(CLIENT_MEMORY_MAX));
        Err(ConfigError::new(
            "--client_memory",
            format!("{} is out of range, from {min} to {max}", format_size(self.client_memory)),
            format!("give a size in it; {} is the default", format_size(CLIENT_MEMORY)),
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_size_out_of_range_is_refused_with_the_range() {
        assert!(Costs::default().validate().is_ok());
        for client_memory in [0, CLIENT_MEMORY_MIN - 1, CLIENT_MEMORY_MAX + 1] {
            let refusal = Costs { client_memory }.validate().unwrap_err().to_string();
            assert!(refusal.contains("--client_memory") && refusal.contains("from 64MiB to 1TiB"), "{refusal}");
        }
    }
}
