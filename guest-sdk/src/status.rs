//! Refusals: a handler returns a [`Status`] instead of a reply. The host sends it to the client
//! unchanged and undoes what the command wrote.

use std::fmt;

use prost::{Message, Name};

use crate::details::{self, RpcStatus};
use crate::limits::MESSAGE_BYTES_MAX;

pub use crate::details::ErrorInfo;

/// The result of a handler: a reply for a command or a query, a [`Step`](crate::Step) for a watch.
pub type Reply<T> = Result<T, Status>;

/// The gRPC status codes without OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Code {
    /// The caller cancelled the call.
    Cancelled = 1,
    /// No other code fits.
    Unknown = 2,
    /// The request is wrong, whatever the state is.
    InvalidArgument = 3,
    /// The request came too late, by the time of the log.
    DeadlineExceeded = 4,
    /// Something that the request names does not exist.
    NotFound = 5,
    /// Something that the request would create exists already.
    AlreadyExists = 6,
    /// The caller is not allowed to do this.
    PermissionDenied = 7,
    /// A quota of the machine is used up. The host also uses this code for its own limits.
    ResourceExhausted = 8,
    /// The state does not allow the request, and a retry will not help.
    FailedPrecondition = 9,
    /// The request lost against a concurrent change. The client should read again and retry.
    Aborted = 10,
    /// The request is beyond the valid range of the present state.
    OutOfRange = 11,
    /// This machine does not have this method.
    Unimplemented = 12,
    /// An invariant of the machine is broken. The host also uses this code for a panic.
    Internal = 13,
    /// The request cannot be served now; retry later. Client libraries may retry by themselves,
    /// without the application noticing.
    Unavailable = 14,
    /// The state is damaged.
    DataLoss = 15,
    /// The caller is not authenticated.
    Unauthenticated = 16,
}

#[cfg(not(target_arch = "wasm32"))]
impl Code {
    const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];
}

/// A refusal by the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    code: Code,
    message: String,
    details: Vec<u8>,
}

impl Status {
    /// Makes a status with a message for people. The host cuts the message at 1 KiB.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// Adds a message for programs, of your `.proto` or an [`ErrorInfo`].
    ///
    /// Clients find it where every gRPC library looks for details. All details together with the
    /// message for people have at most 4 KiB.
    ///
    /// # Panics
    /// After [`with_details`](Self::with_details) with bytes that are not a `google.rpc.Status`.
    #[must_use]
    pub fn with_detail<M: Message + Name>(mut self, detail: &M) -> Self {
        let mut status = if self.details.is_empty() {
            let message = &self.message[..self.message.floor_char_boundary(MESSAGE_BYTES_MAX)];
            RpcStatus { code: self.code as i32, message: message.to_owned(), details: Vec::new() }
        } else {
            RpcStatus::decode(self.details.as_slice()).expect("the details are a google.rpc.Status")
        };
        status.details.push(details::pack(detail));
        self.details = status.encode_to_vec();
        self
    }

    /// Adds a reason that programs can compare, as `google.rpc.ErrorInfo`.
    ///
    /// Example: `with_reason("SOLD_OUT", "shop.v1")`.
    #[must_use]
    pub fn with_reason(self, reason: impl Into<String>, domain: impl Into<String>) -> Self {
        let (reason, domain) = (reason.into(), domain.into());
        self.with_detail(&ErrorInfo { reason, domain, ..ErrorInfo::default() })
    }

    /// Returns the first detail of this type. For tests.
    pub fn detail<M: Message + Name + Default>(&self) -> Option<M> {
        let status = RpcStatus::decode(self.details.as_slice()).ok()?;
        status.details.iter().find_map(details::unpack)
    }

    /// Sets the details to an encoded `google.rpc.Status` of your own, at most 4 KiB.
    ///
    /// It is sent as `grpc-status-details-bin`.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<Vec<u8>>) -> Self {
        self.details = details.into();
        self
    }

    /// Makes a status as a client receives it. A number that is not a gRPC error becomes UNKNOWN,
    /// as in every client.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn from_parts(code: u32, message: String, details: Vec<u8>) -> Self {
        let known = Code::ALL.into_iter().find(|known| *known as u32 == code);
        Self { code: known.unwrap_or(Code::Unknown), message, details }
    }

    /// Cuts the message as the host does.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn with_short_message(mut self) -> Self {
        self.message.truncate(self.message.floor_char_boundary(MESSAGE_BYTES_MAX));
        self
    }

    /// Returns the code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Returns the message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the encoded `google.rpc.Status`; empty if there are no details.
    pub fn details(&self) -> &[u8] {
        &self.details
    }
}

/// Defines one constructor per code.
macro_rules! constructors {
    ($($name:ident $code:ident $when:literal;)*) => {
        impl Status {
            $(
                #[doc = $when]
                pub fn $name(message: impl Into<String>) -> Self {
                    Self::new(Code::$code, message)
                }
            )*
        }
    };
}

constructors! {
    cancelled Cancelled "The caller no longer wants it.";
    unknown Unknown "Nothing better fits.";
    invalid_argument InvalidArgument "The request is wrong whatever the state is.";
    deadline_exceeded DeadlineExceeded "It came too late, by the time of the log.";
    not_found NotFound "What the request names is not there.";
    already_exists AlreadyExists "What the request would create is there.";
    permission_denied PermissionDenied "The caller may not do this.";
    resource_exhausted ResourceExhausted "A quota of the machine is used up.";
    failed_precondition FailedPrecondition "The state does not allow it, and repeating will not help.";
    aborted Aborted "It lost against a concurrent change; read again and repeat.";
    out_of_range OutOfRange "Beyond the valid range of the present state.";
    unimplemented Unimplemented "This machine does not do this.";
    internal Internal "An invariant of the machine is broken.";
    unavailable Unavailable "Not now; repeat later.";
    data_loss DataLoss "The state is damaged.";
    unauthenticated Unauthenticated "The caller has no name.";
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}
