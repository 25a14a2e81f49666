//! Flags of `lockstep node` about connections to its ports.

use std::time::Duration;

use crate::config::Connections;

/// See the flags.
#[derive(Debug, clap::Args)]
pub(super) struct ConnectionArgs {
    /// Connections that one address (IPv6: one network of 64 bits) may have open to one port; 0 for
    /// no such limit [default: an eighth of the port's]
    #[arg(long = "connections_per_address", env = "LOCKSTEP_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    connections_per_address: Option<usize>,

    /// Time without an open call after which a client's connection is closed; 0s for never
    #[arg(long = "client_idle_timeout", env = "LOCKSTEP_CLIENT_IDLE_TIMEOUT", value_name = "DURATION",
        default_value = "1h", value_parser = humantime::parse_duration)]
    client_idle_timeout: Duration,
}

impl ConnectionArgs {
    pub(super) fn settings(&self) -> Connections {
        Connections { per_address: self.connections_per_address, client_idle_timeout: self.client_idle_timeout }
    }
}
