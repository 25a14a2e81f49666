//! The attacks, one a file. Each says what the attacker does and why it hurts.

mod bad_tokens;
mod big_replies;
mod busy_backups;
mod busy_watches;
mod connect_storm;
mod continuation;
mod dripped_requests;
mod failing_commands;
mod foreign;
mod half_open;
mod half_peers;
mod handshake_flood;
mod handshake_storm;
mod header_bombs;
mod held_windows;
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
pub(super) const ALL: [&Case; 40] = [
    &silent::CASE,
    &half_open::CASE,
    &connect_storm::CASE,
    &handshake_storm::CASE,
    &handshake_flood::CASE,
    &foreign::CASE,
    &pings::CASE,
    &settings::CASE,
    &rapid_reset::CASE,
    &continuation::CASE,
    &header_bombs::CASE,
    &pings::AT_PEERS,
    &pings::AT_HTTP,
    &settings::AT_PEERS,
    &settings::AT_HTTP,
    &rapid_reset::AT_PEERS,
    &rapid_reset::AT_HTTP,
    &continuation::AT_PEERS,
    &continuation::AT_HTTP,
    &header_bombs::AT_PEERS,
    &header_bombs::AT_HTTP,
    &slow_bodies::CASE,
    &dripped_requests::CASE,
    &oversized::CASE,
    &inflating::CASE,
    &padded_watches::CASE,
    &sleeping_watchers::CASE,
    &busy_watches::CASE,
    &untaken_replies::CASE,
    &held_windows::CASE,
    &identify::CASE,
    &half_peers::CASE,
    &reflection::CASE,
    &sleeping_backups::CASE,
    &busy_backups::CASE,
    &failing_commands::CASE,
    &query_flood::CASE,
    &big_replies::CASE,
    &bad_tokens::CASE,
    &planted::CASE,
];
