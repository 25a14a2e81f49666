//! Reads the guest's rows of a backup one by one, and the component that they belong to, for tools.
//! This module builds no state; `BackupReader` checks that the file is complete.

use std::io::{self, Read};

use super::{BackupError, BackupReader};
use crate::machine::snapshot::frames::{Frame, Header, RowReader, row_head};

/// A backup whose rows are read.
pub struct RowsOf<R> {
    reader: BackupReader<R>,
    header: Header,
    component: Vec<u8>,
    /// The first frame behind the component.
    next: Option<Frame>,
}

/// The beginning of a backup as a node sends it: which component its state belongs to, and whether
/// it has any rows.
#[derive(Debug, Default)]
pub struct Beginning {
    /// The last entry in the state; 0 until the first frame.
    pub index: u64,
    /// The encoded component.
    pub component: Vec<u8>,
    /// Whether the guest has any rows.
    pub has_rows: bool,
}

impl Beginning {
    /// Takes in a frame. Returns whether that was the last one of the beginning.
    pub fn push(&mut self, frame: &[u8]) -> Result<bool, BackupError> {
        match Frame::decode(frame).map_err(BackupError::Damaged)? {
            Frame::Header(header) => self.index = header.applied.index,
            Frame::Component(part) => self.component.extend_from_slice(&part),
            Frame::Raw(_) => {
                self.has_rows = true;
                return Ok(true);
            }
            _ => return Ok(true),
        }
        Ok(false)
    }
}

impl<R: Read> RowsOf<R> {
    /// Reads the beginning of the file.
    pub fn open(from: R) -> Result<RowsOf<R>, BackupError> {
        let mut reader = BackupReader::new(from)?;
        let first =
            reader.next_frame()?.map(|frame| Frame::decode(&frame)).transpose().map_err(BackupError::Damaged)?;
        match first {
            Some(Frame::Header(header)) => {
                let (mut component, mut next) = (Vec::new(), None);
                while let Some(frame) = reader.next_frame()? {
                    match Frame::decode(&frame).map_err(BackupError::Damaged)? {
                        Frame::Component(part) => component.extend_from_slice(&part),
                        other => {
                            next = Some(other);
                            break;
                        }
                    }
                }
                Ok(RowsOf { reader, header, component, next })
            }
            Some(other) => Err(BackupError::Damaged(format!("it begins with a frame out of place: {}", other.name()))),
            None => Err(BackupError::Damaged("it has no frames".into())),
        }
    }

    /// Returns the index of the last entry in the rows.
    pub fn index(&self) -> u64 {
        self.header.applied.index
    }

    /// Returns the log time of that entry.
    pub fn time_ms(&self) -> u64 {
        self.header.time_ms
    }

    /// Returns the encoded component that the rows belong to.
    pub fn component(&self) -> &[u8] {
        &self.component
    }

    /// Calls `row` for each row in order, and returns the number of rows. `row` receives the
    /// lengths of key and value in the format of a snapshot, the key, and the value. The whole file
    /// is known to be good only when this function returns.
    pub fn read(mut self, mut row: impl FnMut(&[u8], &[u8], &[u8]) -> io::Result<()>) -> Result<u64, BackupError> {
        let (mut rows, mut count) = (RowReader::default(), 0);
        while let Some(frame) = self.next_frame()? {
            let Frame::Raw(body) = frame else { continue };
            rows.push(&body, |key, value| {
                count += 1;
                row(&row_head(key, value), key, value)
            })?;
            if let Some(problem) = rows.problem() {
                return Err(BackupError::Damaged(problem));
            }
        }
        if !rows.is_empty() {
            return Err(BackupError::Damaged("its last row is cut short".into()));
        }
        Ok(count)
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, BackupError> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        self.reader.next_frame()?.map(|frame| Frame::decode(&frame)).transpose().map_err(BackupError::Damaged)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::log_position::LogPosition;
    use super::super::BackupWriter;
    use super::*;
    use crate::machine::snapshot::frames::{FORMAT, Footer};

    fn file(raw: &[&[u8]]) -> Vec<u8> {
        let applied = LogPosition { term: 1, leader: 2, index: 30 };
        let mut writer = BackupWriter::new(Vec::new()).unwrap();
        let mut push = |frame: Frame| writer.push(&frame.encode()).unwrap();
        push(Frame::Header(Header { format: FORMAT, applied, time_ms: 4, component: None }));
        push(Frame::Component(b"wasm".to_vec()));
        raw.iter().for_each(|body| push(Frame::Raw(body.to_vec())));
        push(Frame::System(b"the host's own".to_vec()));
        push(Frame::Footer(Footer { digest: [6; 32], rows: 2 }));
        writer.finish().unwrap().1
    }

    fn rows() -> Vec<u8> {
        [("a", "1"), ("b", "")]
            .iter()
            .flat_map(|(key, value)| {
                [&row_head(key.as_bytes(), value.as_bytes())[..], key.as_bytes(), value.as_bytes()].concat()
            })
            .collect()
    }

    #[test]
    fn the_guests_rows_are_read_however_they_were_cut() {
        let rows = rows();
        for cut in 0..rows.len() {
            let file = file(&[&rows[..cut], &rows[cut..]]);
            let backup = RowsOf::open(file.as_slice()).unwrap();
            assert_eq!((backup.index(), backup.time_ms(), backup.component()), (30, 4, &b"wasm"[..]));
            let mut read = Vec::new();
            let count = backup.read(|head, key, value| {
                read.extend([head, key, value].concat());
                Ok(())
            });
            assert_eq!((count.unwrap(), read), (2, rows.clone()));
        }
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let rows = rows();
        let read = |file: &[u8]| RowsOf::open(file)?.read(|_, _, _| Ok(()));
        let whole = file(&[&rows]);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        assert!(read(&file(&[&rows[..rows.len() - 1]])).unwrap_err().to_string().contains("cut short"));
    }

    #[test]
    fn the_beginning_ends_behind_the_component() {
        let applied = LogPosition { term: 1, leader: 2, index: 30 };
        let header = Frame::Header(Header { format: FORMAT, applied, time_ms: 4, component: None });
        let begin = |behind: Frame| {
            let mut beginning = Beginning::default();
            for frame in [header.clone(), Frame::Component(b"wa".to_vec()), Frame::Component(b"sm".to_vec())] {
                assert!(!beginning.push(&frame.encode()).unwrap());
            }
            assert!(beginning.push(&behind.encode()).unwrap());
            (beginning.index, beginning.component, beginning.has_rows)
        };
        assert_eq!(begin(Frame::Raw(rows())), (30, b"wasm".to_vec(), true));
        assert_eq!(begin(Frame::System(Vec::new())), (30, b"wasm".to_vec(), false));
        assert!(Beginning::default().push(b"nothing").is_err());
    }
}
