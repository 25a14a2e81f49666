//! Fetches committed log entries from a running node, for an incremental backup or a replay. It
//! checks each entry, and says clearly when the node's log does not reach back so far.

use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::Context;
use lockstep_proto::v1::admin_client::AdminClient;
use lockstep_proto::v1::{LogEntriesRequest, LogEntriesResponse};
use tonic::{Code, Streaming};

use super::client::{self, CONNECT_PATIENCE};
use super::credentials::Credentials;
use super::door;
use super::report::Failure;
use crate::store::{SegmentHeader, SegmentWriter, decode_value};
use crate::types::{Entry, GROUP};

/// Most bytes of one message: an entry of the largest size, and its envelope.
const MESSAGE_BYTES_MAX: usize = 80 << 20;

/// The entries that a node sends.
pub(super) struct Incoming {
    /// The cluster whose log they are of.
    pub(super) cluster: [u8; 16],
    /// The incarnation that it is in.
    pub(super) incarnation: u32,
    /// Index behind the last one.
    pub(super) end: u64,
    next: u64,
    messages: Streaming<LogEntriesResponse>,
}

/// Writes the entries from `from` to `to`, or to the last one, as a segment file in `directory`.
/// Returns which they are.
pub(super) async fn fetch(
    addr: &str,
    credentials: &Credentials,
    from: u64,
    to: Option<u64>,
    directory: &Path,
) -> anyhow::Result<RangeInclusive<u64>> {
    let mut incoming = ask(addr, credentials, LogEntriesRequest { from, to, ..LogEntriesRequest::default() }).await?;
    if incoming.end == from {
        return Err(Failure::new(format!("{addr} has no entry {from} yet")).into());
    }
    let cannot = || format!("cannot keep the entries in {}", directory.display());
    let mut writer = SegmentWriter::create(directory, incoming.header(from)).with_context(cannot)?;
    while let Some(entries) = incoming.next().await? {
        entries.iter().try_for_each(|entry| writer.push(entry)).with_context(cannot)?;
    }
    let (_, last) = writer.finish().with_context(cannot)?;
    Ok(from..=last.index)
}

/// Has a node send entries.
pub(super) async fn ask(addr: &str, credentials: &Credentials, request: LogEntriesRequest) -> anyhow::Result<Incoming> {
    let from = request.from;
    let server = client::connect(addr, credentials, CONNECT_PATIENCE).await?;
    let mut client = AdminClient::new(server.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut messages = match client.log_entries(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if status.code() == Code::OutOfRange => {
            let failure = door::failure(&server, status).await;
            return Err(failure
                .hint("every node has its own log. A backup without --incremental needs none, and a replay begins behind a backup: --from")
                .into());
        }
        Err(status) => return Err(door::failure(&server, status).await.into()),
    };
    let first = messages.message().await.map_err(|status| Failure::from_status(&status))?;
    let first = first.ok_or_else(|| Failure::new(format!("{addr} sent nothing")))?;
    let cluster = first.cluster_id.as_ref().try_into().ok();
    let cluster = cluster.ok_or_else(|| Failure::new(format!("{addr} does not say of which cluster it is")))?;
    Ok(Incoming { cluster, incarnation: first.incarnation, end: first.end, next: from, messages })
}

impl Incoming {
    /// Returns the header of a segment file with these entries, of which `first` is the first one.
    pub(super) fn header(&self, first: u64) -> SegmentHeader {
        SegmentHeader { cluster: self.cluster, group: GROUP, incarnation: self.incarnation, first }
    }

    /// Returns the next entries; `None` when all have come.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<Entry>>> {
        let Some(message) = self.messages.message().await.map_err(|status| Failure::from_status(&status))? else {
            return match self.next == self.end {
                true => Ok(None),
                false => {
                    let (last, next) = (self.end.saturating_sub(1), self.next);
                    Err(Failure::new(format!("the node stopped sending before entry {next}, of {last}")).into())
                }
            };
        };
        let mut entries = Vec::with_capacity(message.entries.len());
        for sent in message.entries {
            if sent.index != self.next {
                let text = format!("the node sent entry {} where entry {} belongs", sent.index, self.next);
                return Err(Failure::new(text).into());
            }
            let entry = decode_value(GROUP, sent.index, &sent.value);
            let damaged = |why| Failure::new(format!("entry {} came damaged: {why}", sent.index));
            entries.push(entry.map_err(damaged)?);
            self.next += 1;
        }
        Ok(Some(entries))
    }
}
