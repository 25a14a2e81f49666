//! Why there is no room for more bytes, in the words that a client gets. It counts nothing.

/// Why a lease is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Short {
    /// The node holds as much as it may.
    #[error(
        "calls and watches hold the {} that clients may make this node hold (--client_memory); this call was refused, and nothing \
         was applied. Try again, or at another node", size(*.0)
    )]
    Node(u64),
    /// One connection holds as much as it may.
    #[error(
        "the calls and watches of this connection hold {} of this node, a quarter of what clients may make it hold \
         (--client_memory); this call was refused, and nothing was applied. Take the replies that wait, or send less at a time", size(*.0)
    )]
    Connection(u64),
    /// All connections of one address hold as much as they may.
    #[error(
        "the calls and watches of this client's address, on all its connections, hold {} of this node, the most that those of one \
         address may (a half of --client_memory, and three eighths for one more watch); this call was refused, and nothing was \
         applied. Take the replies that wait, or send less at a time", size(*.0)
    )]
    Address(u64),
    /// The watches hold as much as they may.
    #[error(
        "watches hold {} of this node, half of what clients may make it hold (--client_memory); this watch was refused. Try \
         again, or at another node", size(*.0)
    )]
    Watches(u64),
}

/// Returns bytes in words.
fn size(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => format!("{} MiB", bytes >> 20),
        _ => format!("{bytes} bytes"),
    }
}
