//! The flags of `lockstep node` that say what clients may cost it.

use super::{Size, size};
use crate::config::{self, Costs};

/// What clients may cost.
#[derive(Debug, clap::Args)]
pub(crate) struct CostArgs {
    /// Bytes that clients may make this node hold: requests, replies that they have not taken, what
    /// watches keep. A connection may have a quarter of it, and all watches together a half. Calls
    /// beyond are refused, and say so
    #[arg(long = "client_memory", env = "LOCKSTEP_CLIENT_MEMORY", value_name = "SIZE",
        default_value_t = Size(config::CLIENT_MEMORY), value_parser = size)]
    client_memory: Size,
}

impl From<&CostArgs> for Costs {
    fn from(args: &CostArgs) -> Costs {
        Costs { client_memory: args.client_memory.0 }
    }
}
