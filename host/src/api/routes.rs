//! Turns a component's descriptor into the methods that the host serves for it: kind, consistency,
//! names. It refuses what cannot be served, with the reason. It never decodes more of a request
//! than one bool field, and never does IO.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ServiceDescriptor, Value};

use super::descriptor::{self, NAME_BYTES_MAX};
use super::wire::find_bool;

/// How the host treats a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes through the log.
    Command,
    /// Reads the state of one node.
    Query,
    /// A stream that runs again when the data that it read changes.
    Watch,
}

impl Kind {
    /// Returns the name that metrics and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Command => "command",
            Kind::Query => "query",
            Kind::Watch => "watch",
        }
    }
}

/// How fresh the state must be that a query or watch reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every command answered before the call began. Needs a leader.
    Linearizable,
    /// Sees what this node has applied.
    Local,
}

/// What decides the consistency of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    Fixed(Consistency),
    /// The bool field of the request with this number: true means linearizable.
    Field(u32),
}

/// One method of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// `package.Service/Method`, without a leading slash.
    pub name: Arc<str>,
    /// How the host treats the method.
    pub kind: Kind,
    freshness: Freshness,
}

impl Method {
    /// Returns the consistency that this request asks for.
    pub fn consistency(&self, request: &[u8]) -> Consistency {
        match self.freshness {
            Freshness::Fixed(consistency) => consistency,
            Freshness::Field(number) if find_bool(request, number) => Consistency::Linearizable,
            Freshness::Field(_) => Consistency::Local,
        }
    }

    /// Returns kind and freshness as text for people, such as `query, linearizable`.
    pub fn nature(&self) -> String {
        match self.freshness() {
            Some(freshness) => format!("{}, {freshness}", self.kind.name()),
            None => self.kind.name().to_owned(),
        }
    }

    /// Returns how fresh the state is that a query or a watch reads, as text for people. It is
    /// `linearizable`, `local`, or names the field of the request that decides. None for a command.
    pub fn freshness(&self) -> Option<String> {
        match (self.kind, self.freshness) {
            (Kind::Command, _) => None,
            (_, Freshness::Fixed(Consistency::Linearizable)) => Some("linearizable".into()),
            (_, Freshness::Fixed(Consistency::Local)) => Some("local".into()),
            (_, Freshness::Field(number)) => Some(format!("as field {number} says")),
        }
    }
}

/// Why a component's services cannot be served.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RouteError {
    #[error(
        "the component carries no protobuf descriptor (custom section `lockstep.descriptor`): build it with the SDK, or add \
         one with `lockstep guest pack <file> --proto <file>`"
    )]
    NoDescriptor,
    #[error(
        "the component's protobuf descriptor has more than {most} {what}: leave out of its .proto files what its services do not use, imports \
         and comments among them"
    )]
    TooLarge { what: &'static str, most: usize },
    #[error(
        "the component's protobuf descriptor calls the {what} \"{name}\" ({bytes} bytes): a name is of letters, digits and _, begins with no digit, and has \
         at most {NAME_BYTES_MAX} bytes; make the descriptor with a protobuf compiler"
    )]
    Name { what: &'static str, name: String, bytes: usize },
    #[error("the component's protobuf descriptor does not decode: {0}")]
    Undecodable(String),
    #[error("the component's protobuf descriptor names no service, so there is nothing to serve{}", .imported.as_deref().map(only_imported).unwrap_or_default())]
    NoServices { imported: Option<String> },
    #[error("service {service} would shadow the host's own; rename it or move it to another package")]
    Shadows { service: String },
    #[error(
        "{error}; if {file} is a file that the guest only imports, build the guest with a newer SDK, or pack it with a newer `lockstep guest \
         pack`: the services of such a file are left out"
    )]
    Unmarked { error: Box<RouteError>, file: String },
    #[error("method {method}: client streaming is not supported; one request is one command, query or watch")]
    ClientStreaming { method: String },
    #[error("method {method} is a streaming {kind}; only a WATCH may stream replies, and a WATCH must")]
    Streaming { method: String, kind: &'static str },
    #[error("method {method}: option (lockstep.method) is not that of lockstep/options.proto: {reason}")]
    Option { method: String, reason: String },
    #[error("method {method}: consistency_field `{field}` is not a bool field of {message}")]
    ConsistencyField { method: String, field: String, message: String },
    #[error("method {method} is a WATCH, but the component does not export `watcher`")]
    NoWatcher { method: String },
}

fn only_imported(services: &str) -> String {
    format!(
        ": {services} stand in files that are only imported. Name their .proto, too: to `compile_protos` in build.rs, or with another --proto"
    )
}

/// The services of one component.
#[derive(Debug)]
pub struct Routes {
    encoded: Bytes,
    methods: HashMap<Arc<str>, Arc<Method>>,
    services: Vec<String>,
    imported: Vec<String>,
}

impl Routes {
    /// Reads the component's descriptor set and refuses what cannot be served.
    pub fn new(descriptor: Option<&[u8]>, has_watcher: bool) -> Result<Routes, RouteError> {
        let files = descriptor::read(descriptor.ok_or(RouteError::NoDescriptor)?)?;
        let encoded = files.encoded;
        let pool = DescriptorPool::decode(encoded.clone()).map_err(|error| descriptor::refused(&error.to_string()))?;
        let mut methods = HashMap::new();
        let (mut services, mut imported) = (BTreeSet::new(), BTreeSet::new());
        for service in pool.services() {
            let (name, file) = (service.full_name(), service.parent_file());
            if files.imported.contains(file.name()) {
                imported.insert(name.to_owned());
                continue;
            }
            services.insert(name.to_owned());
            match admit_service(&pool, &service, has_watcher) {
                Ok(admitted) => {
                    methods.extend(admitted.into_iter().map(|method| (method.name.clone(), Arc::new(method))))
                }
                Err(error) if files.imported.is_empty() && is_dependency(&pool, file.name()) => {
                    return Err(RouteError::Unmarked { error: error.into(), file: file.name().into() });
                }
                Err(error) => return Err(error),
            }
        }
        let imported: Vec<String> = imported.into_iter().collect();
        if services.is_empty() {
            let imported = (!imported.is_empty()).then(|| imported.join(", "));
            return Err(RouteError::NoServices { imported });
        }
        Ok(Routes { encoded, methods, services: services.into_iter().collect(), imported })
    }

    /// Returns the method with the name `package.Service/Method`.
    pub fn method(&self, name: &str) -> Option<&Arc<Method>> {
        self.methods.get(name)
    }

    /// Returns all methods, sorted by name.
    pub fn methods(&self) -> Vec<&Method> {
        let mut methods: Vec<&Method> = self.methods.values().map(|method| &**method).collect();
        methods.sort_by(|a, b| a.name.cmp(&b.name));
        methods
    }

    /// Returns the full names of the services, sorted.
    pub fn services(&self) -> &[String] {
        &self.services
    }

    /// Returns the full names of the services in files that the guest only imports, sorted.
    /// Reflection describes them, but no node serves them.
    pub fn imported(&self) -> &[String] {
        &self.imported
    }

    /// Returns the descriptor set as the component carries it, including custom options.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Returns the error text for a client that called an unknown method.
    pub fn explain_unknown(&self, name: &str) -> String {
        let service = name.split_once('/').map_or(name, |(service, _)| service);
        if self.services.iter().any(|known| known == service) {
            let prefix = format!("{service}/");
            let mut known: Vec<&str> = self.methods.keys().filter_map(|key| key.strip_prefix(&prefix)).collect();
            known.sort_unstable();
            return format!("service {service} has no such method; it has {}", known.join(", "));
        }
        let serves = self.services.join(", ");
        if self.imported.iter().any(|known| known == service) {
            return format!("service {service} is of a file that the guest only imports; this node serves {serves}");
        }
        format!("no service {service:?} here; this node serves {serves}")
    }
}

/// Returns a method of a guest as a node serves it, from the descriptor that the node sends. `None`
/// when no node would serve it.
pub(crate) fn described(pool: &DescriptorPool, descriptor: &MethodDescriptor) -> Option<Method> {
    admit(pool, descriptor, true).ok()
}

/// Tells whether `service`, a full name, belongs to the host itself.
pub(crate) fn is_reserved(service: &str) -> bool {
    const NAMES: [&str; 2] = ["RaftManager", "RaftAdmin"];
    const PACKAGES: [&str; 3] = ["grpc.health.", "grpc.reflection.", "lockstep."];
    NAMES.contains(&service) || PACKAGES.iter().any(|package| service.starts_with(package))
}

/// Tells whether another file imports this one.
fn is_dependency(pool: &DescriptorPool, file: &str) -> bool {
    pool.files().any(|other| other.dependencies().any(|imported| imported.name() == file))
}

fn admit_service(
    pool: &DescriptorPool,
    service: &ServiceDescriptor,
    has_watcher: bool,
) -> Result<Vec<Method>, RouteError> {
    if is_reserved(service.full_name()) {
        return Err(RouteError::Shadows { service: service.full_name().into() });
    }
    service.methods().map(|descriptor| admit(pool, &descriptor, has_watcher)).collect()
}

fn admit(pool: &DescriptorPool, descriptor: &MethodDescriptor, has_watcher: bool) -> Result<Method, RouteError> {
    let name = format!("{}/{}", descriptor.parent_service().full_name(), descriptor.name());
    if descriptor.is_client_streaming() {
        return Err(RouteError::ClientStreaming { method: name });
    }
    let rules = Rules::read(pool, descriptor, &name)?;
    let kind = rules.kind.unwrap_or_else(|| kind_by_shape(descriptor));
    if descriptor.is_server_streaming() != (kind == Kind::Watch) {
        return Err(RouteError::Streaming { method: name, kind: kind.name() });
    }
    if kind == Kind::Watch && !has_watcher {
        return Err(RouteError::NoWatcher { method: name });
    }
    let freshness = match rules.consistency_field.as_str() {
        "" => Freshness::Fixed(rules.consistency.unwrap_or(match kind {
            Kind::Watch => Consistency::Local,
            Kind::Command | Kind::Query => Consistency::Linearizable,
        })),
        field => Freshness::Field(bool_field(descriptor, &name, field)?),
    };
    Ok(Method { name: name.into(), kind, freshness })
}

/// Returns the kind that the method's own shape implies. It is used when the option sets no kind.
fn kind_by_shape(descriptor: &MethodDescriptor) -> Kind {
    use prost_types::method_options::IdempotencyLevel;
    let options = descriptor.method_descriptor_proto().options.as_ref();
    if descriptor.is_server_streaming() {
        Kind::Watch
    } else if options.is_some_and(|options| options.idempotency_level() == IdempotencyLevel::NoSideEffects) {
        Kind::Query
    } else {
        Kind::Command
    }
}

fn bool_field(descriptor: &MethodDescriptor, method: &str, field: &str) -> Result<u32, RouteError> {
    let message = descriptor.input();
    message
        .get_field_by_name(field)
        .filter(|found| matches!(found.kind(), prost_reflect::Kind::Bool) && !found.is_list())
        .map(|found| found.number())
        .ok_or_else(|| RouteError::ConsistencyField {
            method: method.into(),
            field: field.into(),
            message: message.full_name().into(),
        })
}

/// The values of `option (lockstep.method)`. Empty where it is not set.
#[derive(Default)]
struct Rules {
    kind: Option<Kind>,
    consistency: Option<Consistency>,
    consistency_field: String,
}

impl Rules {
    fn read(pool: &DescriptorPool, descriptor: &MethodDescriptor, method: &str) -> Result<Rules, RouteError> {
        let Some(extension) = pool.get_extension_by_name("lockstep.method") else {
            return Ok(Rules::default());
        };
        let options = descriptor.options();
        if !options.has_extension(&extension) {
            return Ok(Rules::default());
        }
        let refuse = |reason: String| RouteError::Option { method: method.into(), reason };
        match options.get_extension(&extension).as_ref() {
            Value::Message(rules) => Rules::from_message(rules).map_err(refuse),
            other => Err(refuse(format!("found {other:?} instead of a message"))),
        }
    }

    fn from_message(message: &DynamicMessage) -> Result<Rules, String> {
        let number = |field: &str| match message.get_field_by_name(field).as_deref() {
            Some(Value::EnumNumber(number)) => Ok(*number),
            _ => Err(format!("no enum field `{field}`")),
        };
        let kind = match number("kind")? {
            0 => None,
            1 => Some(Kind::Command),
            2 => Some(Kind::Query),
            3 => Some(Kind::Watch),
            other => return Err(format!("unknown kind {other}; this host may be too old for the component")),
        };
        let consistency = match number("consistency")? {
            0 => None,
            1 => Some(Consistency::Linearizable),
            2 => Some(Consistency::Local),
            other => return Err(format!("unknown consistency {other}; this host may be too old for the component")),
        };
        let consistency_field = match message.get_field_by_name("consistency_field").as_deref() {
            Some(Value::String(field)) => field.clone(),
            _ => return Err("no string field `consistency_field`".into()),
        };
        if consistency.is_some() && !consistency_field.is_empty() {
            return Err("consistency and consistency_field exclude each other".into());
        }
        Ok(Rules { kind, consistency, consistency_field })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "routes_tests.rs"]
mod tests;
