//! Decompresses the messages of a request before any service sees them: in steps, each counted
//! before the next, a few messages at a time, and never more than a message may have. So a small
//! body that inflates to much costs little, and holds up nobody.

use std::io::Read;
use std::sync::Arc;

use axum::body::{Body, HttpBody};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use futures::stream;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tonic::Status;

use super::Held;
use super::incoming::{Incoming, PREFIX_BYTES};
use crate::api::status;
use crate::calls::MESSAGE_BYTES_MAX;

/// Bytes of one step. After each, other tasks have their turn.
const STEP_BYTES: usize = 64 << 10;

/// First byte of a message.
const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

/// Returns a body with the same messages, none of them compressed.
pub(super) fn inflated(incoming: Incoming, held: Held, turns: Arc<Semaphore>) -> Body {
    let reader = Reader { incoming, arrived: BytesMut::new(), held, turns, is_foreign: false };
    Body::from_stream(stream::try_unfold(reader, |mut reader| async move {
        Ok::<_, Status>(reader.next().await?.map(|message| (message, reader)))
    }))
}

struct Reader {
    incoming: Incoming,
    /// Bytes that have arrived and were not passed on.
    arrived: BytesMut,
    held: Held,
    turns: Arc<Semaphore>,
    /// The service refuses what follows, so it gets the bytes as they are.
    is_foreign: bool,
}

impl Reader {
    /// Returns the next message with its prefix; or the bytes that there are, if no service would
    /// take them.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.is_foreign || !self.has(PREFIX_BYTES).await? {
            return self.rest().await;
        }
        let (flag, mut length) = (self.arrived[0], &self.arrived[1..PREFIX_BYTES]);
        let length = length.get_u32() as usize;
        if flag > COMPRESSED || length > MESSAGE_BYTES_MAX || !self.has(PREFIX_BYTES + length).await? {
            self.is_foreign = true;
            return self.rest().await;
        }
        let message = self.arrived.split_to(PREFIX_BYTES + length).freeze();
        match flag {
            COMPRESSED => self.inflate(message.slice(PREFIX_BYTES..)).await.map(Some),
            _ => Ok(Some(message)),
        }
    }

    /// Reads until so many bytes are there. Returns false when the body ends before.
    async fn has(&mut self, bytes: usize) -> Result<bool, Status> {
        while self.arrived.len() < bytes {
            let Some(frame) = self.incoming.frame().await else { return Ok(false) };
            if let Ok(data) = frame?.into_data() {
                self.arrived.extend_from_slice(&data);
            }
        }
        Ok(true)
    }

    async fn rest(&mut self) -> Result<Option<Bytes>, Status> {
        if self.arrived.is_empty() && !self.incoming.is_end_stream() {
            self.has(1).await?;
        }
        let rest = self.arrived.split().freeze();
        Ok((!rest.is_empty()).then_some(rest))
    }

    async fn inflate(&mut self, compressed: Bytes) -> Result<Bytes, Status> {
        let _turn = self.turns.acquire().await.map_err(|error| Status::internal(error.to_string()))?;
        let mut message = BytesMut::zeroed(PREFIX_BYTES);
        let mut decoder = GzDecoder::new(compressed.reader());
        let mut step = vec![0; STEP_BYTES];
        loop {
            let bytes = decoder.read(&mut step).map_err(|error| status::bad_compression(&error))?;
            if bytes == 0 {
                break;
            }
            if message.len() - PREFIX_BYTES + bytes > MESSAGE_BYTES_MAX {
                return Err(status::request_too_large(MESSAGE_BYTES_MAX));
            }
            self.held.lock().grow(bytes as u64).map_err(status::no_memory)?;
            message.put_slice(&step[..bytes]);
            tokio::task::yield_now().await;
        }
        let length = (message.len() - PREFIX_BYTES) as u32;
        message[0] = PLAIN;
        message[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(message.freeze())
    }
}
