//! The call of `lockstep.v1.Admin` that brings rows into the state. `raft/upgrade` proposes the
//! entries, and apply decides whether it takes them. This file only translates.

use lockstep_proto::v1::{ImportRowsRequest, ImportRowsResponse, ImportedRow};
use tonic::{Code, Request, Response, Status, Streaming};

use super::gate::{apart, note};
use super::{Shared, status};
use crate::codec::entry::Row;
use crate::raft::upgrade::{ImportError, Imported};
use crate::types::hex;

/// Bytes of a BLAKE3 hash.
const HASH_BYTES: usize = 32;

/// Brings in the rows of all messages.
pub(super) async fn import(
    shared: &Shared,
    request: Request<Streaming<ImportRowsRequest>>,
) -> Result<Response<ImportRowsResponse>, Status> {
    let (call, mut messages) = apart(request);
    shared.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
    let first = messages.message().await?.ok_or_else(|| Status::invalid_argument("nothing was sent"))?;
    if first.expected_component.len() != HASH_BYTES {
        return Err(Status::invalid_argument(
            "the first message has the hash of the component that the rows were made for",
        ));
    }
    note(&call, "component", hex(&first.expected_component));
    note(&call, "replace", first.replace);
    let upgrades = &shared.parts.upgrades;
    let import = upgrades.import(first.expected_component, first.replace, rows(first.rows)).await;
    let mut import = import.map_err(|error| failed(&error))?;
    let ended = |status: Status, so_far: String| Status::new(status.code(), format!("{}{so_far}", status.message()));
    while let Some(message) = messages.message().await.map_err(|status| ended(status, import.so_far()))? {
        import.put(rows(message.rows)).await.map_err(|error| failed(&error))?;
    }
    let Imported { removed, written, index } = import.finish().await.map_err(|error| failed(&error))?;
    note(&call, "removed", removed);
    note(&call, "written", written);
    tracing::warn!(index, removed, written, "an operator brought rows into the state");
    Ok(Response::new(ImportRowsResponse { removed, written, index }))
}

fn rows(rows: Vec<ImportedRow>) -> Vec<Row> {
    rows.into_iter().map(|ImportedRow { key, value }| Row { key, value }).collect()
}

fn failed(error: &ImportError) -> Status {
    Status::new(code_of(error), error.to_string())
}

fn code_of(error: &ImportError) -> Code {
    match error {
        ImportError::Unable(_)
        | ImportError::NotNow(_)
        | ImportError::TakesCommands
        | ImportError::OnProbation { .. }
        | ImportError::OtherComponent
        | ImportError::NotEmpty => Code::FailedPrecondition,
        ImportError::Row { .. } => Code::InvalidArgument,
        ImportError::NotProposed(_) => Code::Unavailable,
        ImportError::LeadLost => Code::Unknown,
        ImportError::Disk(_) => Code::Internal,
        ImportError::Partly { why, .. } => code_of(why),
    }
}
