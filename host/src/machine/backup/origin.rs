//! Says which cluster a backup is of, and where it stands, for a tool that continues it. Builds no
//! state, and reads the file to its end, so that a damaged one is known.

use std::io::Read;

use super::{BackupError, BackupReader};
use crate::machine::log_position::LogPosition;
use crate::machine::snapshot::frames::{Frame, RowReader};
use crate::machine::system::{cluster_of_genesis, key};
use crate::types::LogId;

/// Where a backup comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupOrigin {
    /// The cluster whose state it is.
    pub cluster: [u8; 16],
    /// The last entry in the state.
    pub last: LogId,
}

impl BackupOrigin {
    /// Reads a whole backup.
    pub fn read(from: impl Read) -> Result<BackupOrigin, BackupError> {
        let mut reader = BackupReader::new(from)?;
        let (mut last, mut cluster, mut rows) = (LogPosition::default(), None, RowReader::default());
        while let Some(frame) = reader.next_frame()? {
            match Frame::decode(&frame).map_err(BackupError::Damaged)? {
                Frame::Header(header) => last = header.applied,
                Frame::System(body) => {
                    rows.push::<String>(&body, |name, value| {
                        if name == key::GENESIS {
                            cluster = Some(cluster_of_genesis(value).map_err(|error| error.to_string())?);
                        }
                        Ok(())
                    })
                    .map_err(BackupError::Damaged)?;
                    if let Some(problem) = rows.problem() {
                        return Err(BackupError::Damaged(problem));
                    }
                }
                _ => {}
            }
        }
        let cluster =
            cluster.ok_or_else(|| BackupError::Damaged("it is of a cluster without a genesis entry".into()))?;
        Ok(BackupOrigin { cluster, last: last.into() })
    }
}
