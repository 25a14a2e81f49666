//! The attacks, one a file. Each says what the attacker does and why it hurts.

mod bad_tokens;
mod big_replies;
mod connect_storm;
mod continuation;
mod failing_commands;
mod foreign;
mod half_open;
mod handshake_storm;
mod header_bombs;
mod identify;
mod inflating;
mod oversized;
mod padded_watches;
mod pings;
mod planted;
mod query_flood;
mod rapid_reset;
mod reflection;
mod settings;
mod silent;
mod sleeping_backups;
mod sleeping_watchers;
mod slow_bodies;
mod untaken_replies;

use super::case::Case;

/// Name of the case that must fail. It is not shown.
pub(super) const PLANTED: &str = "planted";

/// All cases, in the order in which they run.
pub(super) const ALL: [&Case; 24] = [
    &silent::CASE,
    &half_open::CASE,
    &connect_storm::CASE,
    &handshake_storm::CASE,
    &foreign::CASE,
    &pings::CASE,
    &settings::CASE,
    &rapid_reset::CASE,
    &continuation::CASE,
    &header_bombs::CASE,
    &slow_bodies::CASE,
    &oversized::CASE,
    &inflating::CASE,
    &padded_watches::CASE,
    &sleeping_watchers::CASE,
    &untaken_replies::CASE,
    &identify::CASE,
    &reflection::CASE,
    &sleeping_backups::CASE,
    &failing_commands::CASE,
    &query_flood::CASE,
    &big_replies::CASE,
    &bad_tokens::CASE,
    &planted::CASE,
];
