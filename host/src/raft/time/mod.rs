//! Log time: the clock that guests see. It never moves by one node's clock alone.
//!
//! `log_time` collects the voters' clocks and stamps entries, `log_clock` limits what a stamp may
//! do, `own_clock` reports how this node's clock differs and `clock_warning` says so, and `clock`
//! lets time pass on an idle cluster.

pub mod clock;
pub mod clock_warning;
pub mod log_clock;
pub mod log_time;
pub mod own_clock;
