//! What a command counts when clients take turns for entries. A unit is about a unit of fuel, of
//! which a million takes less than a millisecond in nearly all guests. It is an expectation,
//! learned from what the commands of the same client took, and decides nothing but whose turn it
//! is.

use crate::machine::Spent;

/// What one turn of a client is worth.
pub(super) const TURN: i64 = 2_000_000;
/// From this cost on a command is heavy: while others have commands, it goes into entries that only
/// heavy commands are in.
pub(super) const HEAVY: u64 = 2_000_000;
/// Most that the commands of one entry cost while several clients have commands. A more expensive
/// command goes alone.
pub(super) const ENTRY_MAX: u64 = 32_000_000;
/// The same of an entry of heavy commands while light ones go, too, which wait for it: a few
/// milliseconds.
pub(super) const HEAVY_ENTRY_BESIDE_LIGHT_MAX: u64 = 8_000_000;
/// Most that the commands of one client cost that are under way, while others have commands. One
/// command always goes. This is about what others wait for.
pub(super) const IN_FLIGHT_MAX: u64 = 32_000_000;
/// Most bytes that the replies of those commands of one client are expected to have that wait here,
/// while others have commands. Further ones are left over: their nodes offer them again, and look
/// first whether there is room for the replies. One command always waits.
pub(super) const WAITING_REPLY_BYTES_MAX: u64 = 24 << 20;
/// Most commands under way of a client of whom nothing is known, while others have commands. As
/// many of all such clients together are in one entry of light commands.
pub(super) const UNTRIED_COMMANDS_MAX: usize = 4;

/// Most that a command of such a client is expected to cost. It is not heavy, so that a newcomer
/// does not wait among heavy commands because others before it had some.
pub(super) const NEWCOMER_MAX: u64 = HEAVY / 2;

/// What a byte of a request costs: it is written to the log, and sent to all members.
const REQUEST_BYTE: u64 = 8;
/// What a byte of a reply costs beside its fuel: all members make it, hash it and hold it.
const REPLY_BYTE: u64 = 4;
/// What it costs beside fuel that a command fails or is refused: each member makes an instance more
/// for it, and may run it twice. It is more than that takes, so that of a client whose commands all
/// fail only some tens are under way while others have commands.
const FAILURE: u64 = 1_000_000;
/// Most that one command counts.
const COMMAND_MAX: u64 = 1_000_000_000;
/// How much of the mean a new command makes out: an eighth.
const NEW_PART: u64 = 8;

/// Returns what a command is expected to cost, by the mean of its client and its own bytes.
pub(super) fn expected(mean: u64, request_bytes: usize) -> u64 {
    mean.saturating_add((request_bytes as u64).saturating_mul(REQUEST_BYTE)).min(COMMAND_MAX)
}

/// Returns what a command has cost, without its request.
pub(super) fn of(spent: &Spent) -> u64 {
    let failure = if spent.failed { FAILURE } else { 0 };
    let reply = spent.reply_bytes.saturating_mul(REPLY_BYTE);
    spent.fuel.saturating_add(reply).saturating_add(failure).min(COMMAND_MAX)
}

/// Returns the mean with one more cost.
pub(super) fn mean_with(mean: u64, cost: u64) -> u64 {
    mean - mean / NEW_PART + cost / NEW_PART
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_follows_what_commands_cost_in_both_directions() {
        let large = of(&Spent { fuel: 5_000_000, reply_bytes: 4 << 20, failed: false });
        assert!(large > ENTRY_MAX / 2, "one reply of 4 MiB is under way at a time: {large}");
        let risen = (0..5).fold(10_000, |mean, _| mean_with(mean, large));
        assert!(risen > 2 * HEAVY, "{risen}");
        let fallen = (0..50).fold(risen, |mean, _| mean_with(mean, 10_000));
        assert!(fallen < HEAVY / 10, "{fallen}");
        assert_eq!(of(&Spent { fuel: u64::MAX, reply_bytes: u64::MAX, failed: true }), COMMAND_MAX);
        assert_eq!(expected(u64::MAX, usize::MAX), COMMAND_MAX);
        let failed = Spent { fuel: 9, failed: true, ..Spent::default() };
        assert_eq!(of(&failed), 9 + FAILURE);
    }
}
