//! The subcommands of `lockstep`.
