//! The protocol between the harness and `lockstep guest serve`, over a pipe. The harness sends a
//! call; the program sends the guest's requests and the outcome. Both programs compile this file,
//! so it uses nothing but prost. It never decides what an answer is.

use std::io::{Error, ErrorKind, Read, Result, Write};

use prost::{Enumeration, Message, Oneof};

/// Version of the protocol. Raise it with every change that an older side would not understand. The
/// tag of [`Hello::protocol`] never changes.
pub const PROTOCOL: u32 = 2;

/// Most bytes of a frame. The largest frames carry steps and snapshot chunks. Neither side writes a
/// longer one.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// Writes a frame: its length (u32, little-endian), then the message.
pub fn write(to: &mut impl Write, frame: &impl Message) -> Result<()> {
    let length = frame.encoded_len();
    if length > FRAME_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, format!("a frame of {length} bytes is too large")));
    }
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    frame.encode(&mut bytes).expect("a vector takes any message");
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads a frame. Returns `None` when the other side closed the pipe between two frames.
pub fn read<F: Message + Default>(from: &mut impl Read) -> Result<Option<F>> {
    let mut length = [0; 4];
    let begun = loop {
        match from.read(&mut length) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            begun => break begun?,
        }
    };
    // The pipe may end before the first byte of a frame only.
    if begun == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[begun..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidData, "what came is no frame"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    let frame = F::decode(bytes.as_slice()).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
    Ok(Some(frame))
}

/// A frame from the program that runs the component.
#[derive(Clone, PartialEq, Message)]
pub struct FromGuest {
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub said: Option<Said>,
}

/// Content of a frame.
///
/// The first frame is a hello, the last frame of a call is its outcome. All others except log lines
/// are requests that wait for their [`Answer`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Said {
    #[prost(message, tag = "1")]
    Hello(Hello),
    #[prost(message, tag = "2")]
    Outcome(Outcome),
    #[prost(message, tag = "3")]
    Log(Line),
    #[prost(bytes, tag = "4")]
    Get(Vec<u8>),
    #[prost(message, tag = "5")]
    Scan(Range),
    #[prost(message, tag = "6")]
    Put(Row),
    #[prost(bytes, tag = "7")]
    Remove(Vec<u8>),
    #[prost(message, tag = "8")]
    RemoveRange(Range),
    #[prost(bool, tag = "9")]
    NodeStatus(bool),
    #[prost(bytes, tag = "10")]
    SinkWrite(Vec<u8>),
    /// Most bytes to read.
    #[prost(uint32, tag = "11")]
    SourceRead(u32),
}

/// Versions, component and methods of the program.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// Version of the program.
    #[prost(string, tag = "2")]
    pub program: String,
    /// Hash of the component, as nodes print it.
    #[prost(string, tag = "3")]
    pub component: String,
    /// Names as `command locks.Locks/Acquire`.
    #[prost(string, repeated, tag = "4")]
    pub methods: Vec<String>,
    /// The version that the component declares; empty if it declares none.
    #[prost(string, tag = "5")]
    pub version: String,
    /// Whether the component exports `migrator`.
    #[prost(bool, tag = "6")]
    pub migrates: bool,
}

/// Outcome of a call. It is empty when the harness ended the call.
#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    #[prost(oneof = "Came", tags = "1, 2, 3, 4")]
    pub came: Option<Came>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Came {
    /// Reply of a method. Empty for a snapshot or a restore.
    #[prost(bytes, tag = "1")]
    Reply(Vec<u8>),
    #[prost(message, tag = "2")]
    Step(Step),
    /// A refusal or a failure of the guest, as a client of a node would get it.
    #[prost(message, tag = "3")]
    Status(Status),
    #[prost(message, tag = "4")]
    Migrated(Migrated),
}

/// How far a call of a migration has come.
#[derive(Clone, PartialEq, Message)]
pub struct Migrated {
    #[prost(bool, tag = "1")]
    pub done: bool,
    #[prost(bytes, tag = "2")]
    pub cursor: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Step {
    #[prost(bytes, repeated, tag = "1")]
    pub replies: Vec<Vec<u8>>,
    #[prost(bytes, tag = "2")]
    pub memo: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub wake_at_index: u64,
    #[prost(uint32, tag = "4")]
    pub wake_after_ms: u32,
    #[prost(bool, tag = "5")]
    pub done: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Status {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(bytes, tag = "3")]
    pub details: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Line {
    #[prost(enumeration = "Level", tag = "1")]
    pub level: i32,
    #[prost(string, tag = "2")]
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum Level {
    Debug = 0,
    Info = 1,
    Warn = 2,
    Error = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(bytes, tag = "1")]
    pub start: Vec<u8>,
    #[prost(bytes, optional, tag = "2")]
    pub end: Option<Vec<u8>>,
    #[prost(bool, tag = "3")]
    pub reverse: bool,
    /// Most rows; 0 means no limit.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Row {
    #[prost(bytes, tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes, tag = "2")]
    pub value: Vec<u8>,
}

/// A frame from the harness.
#[derive(Clone, PartialEq, Message)]
pub struct ToGuest {
    #[prost(oneof = "Told", tags = "1, 2")]
    pub told: Option<Told>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Told {
    #[prost(message, tag = "1")]
    Call(Call),
    #[prost(message, tag = "2")]
    Answer(Answer),
}

/// A call, which runs in an instance of its own.
#[derive(Clone, PartialEq, Message)]
pub struct Call {
    #[prost(enumeration = "Mode", tag = "1")]
    pub mode: i32,
    #[prost(uint64, tag = "2")]
    pub index: u64,
    #[prost(uint32, tag = "3")]
    pub position: u32,
    #[prost(uint64, tag = "4")]
    pub time_ms: u64,
    #[prost(string, tag = "5")]
    pub caller: String,
    #[prost(string, tag = "6")]
    pub method: String,
    #[prost(bytes, tag = "7")]
    pub request: Vec<u8>,
    /// Cause of a step of a watch. Set for a watch only.
    #[prost(enumeration = "Cause", tag = "8")]
    pub cause: i32,
    /// Memo of the step before. Set for a watch only.
    #[prost(bytes, tag = "9")]
    pub memo: Vec<u8>,
    /// What a migration starts from. Set for a migration only.
    #[prost(message, optional, tag = "10")]
    pub from: Option<Predecessor>,
    /// Cursor of the call before. Set for a migration only.
    #[prost(bytes, tag = "11")]
    pub cursor: Vec<u8>,
}

/// The machine that ran before.
#[derive(Clone, PartialEq, Message)]
pub struct Predecessor {
    /// Hash of its component, 32 bytes.
    #[prost(bytes, tag = "1")]
    pub hash: Vec<u8>,
    #[prost(string, tag = "2")]
    pub version: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum Mode {
    Apply = 0,
    Query = 1,
    Watch = 2,
    Snapshot = 3,
    Restore = 4,
    Migrate = 5,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum Cause {
    Start = 0,
    Change = 1,
    Wake = 2,
    Reset = 3,
}

/// Answer to a request. Only the fields that belong to the request are set.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// The value if there is one, the rows of a scan, the node's status, or a chunk of a snapshot.
    #[prost(bytes, optional, tag = "1")]
    pub bytes: Option<Vec<u8>>,
    /// Whether a scan left out rows.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// Number of removed keys.
    #[prost(uint64, tag = "3")]
    pub removed: u64,
    /// Whether a rule of the harness ended the call. There is no answer then, and the harness
    /// ignores the outcome.
    #[prost(bool, tag = "4")]
    pub ended: bool,
}
