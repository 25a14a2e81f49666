//! Checks that the limits in the SDK equal those of the default profile: a test that passes on the
//! harness must not fail on a node.

use lockstep_guest::limits as harness;

use super::*;

#[test]
fn the_harness_keeps_the_hosts_limits() {
    let host = Limits::default();
    let rows: [(&str, usize, u64); 13] = [
        ("key", harness::KEY_BYTES_MAX, host.key_bytes_max.into()),
        ("value", harness::VALUE_BYTES_MAX, host.value_bytes_max.into()),
        ("bytes written", harness::COMMAND_WRITE_BYTES_MAX, host.write_bytes_per_command_max),
        ("store calls", harness::STORE_CALLS_MAX, host.store_calls_max),
        ("store bytes", harness::STORE_BYTES_MAX, host.store_bytes_max),
        ("keys removed", harness::KEYS_REMOVED_MAX, host.keys_removed_max),
        ("chunk", harness::CHUNK_BYTES_MAX, host.snapshot_chunk_bytes_max.into()),
        ("reply", harness::REPLY_BYTES_MAX, host.reply_bytes_max.into()),
        ("replies of a step", harness::STEP_REPLIES_BYTES_MAX, host.watch_replies_bytes_max.into()),
        ("memo", harness::MEMO_BYTES_MAX, host.watch_memo_bytes_max.into()),
        ("message", harness::MESSAGE_BYTES_MAX, host.status_message_bytes_max.into()),
        ("details", harness::DETAILS_BYTES_MAX, host.status_details_bytes_max.into()),
        ("log", harness::LOG_BYTES_MAX, host.log_bytes_max.into()),
    ];
    for (what, kept, limit) in rows {
        assert_eq!(kept as u64, limit, "{what}");
    }
}
