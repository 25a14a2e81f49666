//! The rules of methods: what each method is, from its shape and its option `(lockstep.method)`,
//! and what is refused. The rules stand here once; a build refuses by them what a node would
//! refuse.

use prost_reflect::{DescriptorPool, DynamicMessage, Kind as FieldKind, MethodDescriptor, Value};

use crate::method::{Consistency, Freshness, Kind};

/// Name of the method option.
const OPTION: &str = "lockstep.method";

/// Why a method cannot be served. The text does not name the method.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request is a stream.
    #[error("client streaming cannot be one command of a replicated log; take a repeated field in the request instead")]
    ClientStreaming,
    /// A command or a query with a stream of replies.
    #[error("a {} has one reply: a server-streaming method is a WATCH", .0.name())]
    Streaming(Kind),
    /// A watch with one reply.
    #[error("a WATCH needs a reply of `stream`; for one reply use QUERY")]
    NotStreaming,
    /// The option is of another shape than `lockstep/options.proto` gives it.
    #[error("option (lockstep.method) is not that of lockstep/options.proto: {0}")]
    Option(String),
    /// A number that this version does not know.
    #[error("{what} {number} is unknown; this program may be too old for the guest")]
    Unknown {
        /// The field of the option.
        what: &'static str,
        /// Its value.
        number: i32,
    },
    /// A command that names a consistency.
    #[error("consistency is for queries and watches; a command is always ordered")]
    ConsistencyOfCommand,
    /// Two answers to one question.
    #[error("consistency and consistency_field exclude each other")]
    TwoConsistencies,
    /// The field that decides is of another type.
    #[error("consistency_field `{0}` is not a bool")]
    NotBool(String),
    /// The field that decides does not exist.
    #[error("consistency_field `{field}` is not a field of {message}")]
    NoField {
        /// The name that the option gives.
        field: String,
        /// The request's message.
        message: String,
    },
}

/// Returns what a method is: its kind, and what decides the consistency of its calls.
///
/// # Errors
/// The method cannot be served.
pub fn of(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<(Kind, Freshness), Refusal> {
    if method.is_client_streaming() {
        return Err(Refusal::ClientStreaming);
    }
    let rules = Rules::read(pool, method)?;
    let kind = rules.kind.unwrap_or_else(|| kind_by_shape(method));
    match (kind, method.is_server_streaming()) {
        (Kind::Command | Kind::Query, true) => return Err(Refusal::Streaming(kind)),
        (Kind::Watch, false) => return Err(Refusal::NotStreaming),
        _ => {}
    }
    if kind == Kind::Command && (rules.consistency.is_some() || !rules.consistency_field.is_empty()) {
        return Err(Refusal::ConsistencyOfCommand);
    }
    let freshness = match rules.consistency_field.as_str() {
        "" => Freshness::Fixed(rules.consistency.unwrap_or(match kind {
            Kind::Watch => Consistency::Local,
            Kind::Command | Kind::Query => Consistency::Linearizable,
        })),
        _ if rules.consistency.is_some() => return Err(Refusal::TwoConsistencies),
        field => Freshness::Field(bool_field(method, field)?),
    };
    Ok((kind, freshness))
}

/// Returns the kind of a method whose option does not name one.
fn kind_by_shape(method: &MethodDescriptor) -> Kind {
    use prost_types::method_options::IdempotencyLevel;
    let options = method.method_descriptor_proto().options.as_ref();
    if method.is_server_streaming() {
        Kind::Watch
    } else if options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects) {
        Kind::Query
    } else {
        Kind::Command
    }
}

fn bool_field(method: &MethodDescriptor, field: &str) -> Result<u32, Refusal> {
    let message = method.input();
    match message.get_field_by_name(field) {
        Some(found) if matches!(found.kind(), FieldKind::Bool) && !found.is_list() => Ok(found.number()),
        Some(_) => Err(Refusal::NotBool(field.into())),
        None => Err(Refusal::NoField { field: field.into(), message: message.full_name().into() }),
    }
}

/// The content of the option; empty where it is not set.
#[derive(Default)]
struct Rules {
    kind: Option<Kind>,
    consistency: Option<Consistency>,
    consistency_field: String,
}

impl Rules {
    fn read(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Rules, Refusal> {
        let Some(extension) = pool.get_extension_by_name(OPTION) else {
            return Ok(Rules::default());
        };
        let options = method.options();
        if !options.has_extension(&extension) {
            return Ok(Rules::default());
        }
        match options.get_extension(&extension).as_ref() {
            Value::Message(rules) => Rules::from_message(rules),
            other => Err(Refusal::Option(format!("found {other:?} instead of a message"))),
        }
    }

    fn from_message(message: &DynamicMessage) -> Result<Rules, Refusal> {
        let number = |field: &str| match message.get_field_by_name(field).as_deref() {
            Some(Value::EnumNumber(number)) => Ok(*number),
            _ => Err(Refusal::Option(format!("no enum field `{field}`"))),
        };
        let kind = match number("kind")? {
            0 => None,
            1 => Some(Kind::Command),
            2 => Some(Kind::Query),
            3 => Some(Kind::Watch),
            number => return Err(Refusal::Unknown { what: "kind", number }),
        };
        let consistency = match number("consistency")? {
            0 => None,
            1 => Some(Consistency::Linearizable),
            2 => Some(Consistency::Local),
            number => return Err(Refusal::Unknown { what: "consistency", number }),
        };
        let consistency_field = match message.get_field_by_name("consistency_field").as_deref() {
            Some(Value::String(field)) => field.clone(),
            _ => return Err(Refusal::Option("no string field `consistency_field`".into())),
        };
        Ok(Rules { kind, consistency, consistency_field })
    }
}
