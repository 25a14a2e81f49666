//! Reads the contract of one component: which services its descriptor declares, and how each method
//! is served. It refuses what cannot be served, with the reason. It never does IO.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor, ServiceDescriptor};

use crate::descriptor::{self, NAME_BYTES_MAX};
use crate::known::{self, TooLarge};
use crate::method::{Kind, Method};
use crate::rules::{self, Refusal};

/// Why a component's services cannot be served.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ContractError {
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
    Unmarked { error: Box<ContractError>, file: String },
    #[error("method {method}: {refusal}")]
    Method { method: String, refusal: Refusal },
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
pub struct Contract {
    encoded: Bytes,
    methods: HashMap<Arc<str>, Arc<Method>>,
    /// The message that each method takes.
    requests: HashMap<Arc<str>, MessageDescriptor>,
    services: Vec<String>,
    imported: Vec<String>,
}

impl Contract {
    /// Reads the descriptor set of a component. `has_watcher`: whether it exports `watcher`.
    ///
    /// # Errors
    /// A node could not serve the component.
    pub fn new(descriptor: Option<&[u8]>, has_watcher: bool) -> Result<Contract, ContractError> {
        let files = descriptor::read(descriptor.ok_or(ContractError::NoDescriptor)?)?;
        let encoded = files.encoded;
        let pool = DescriptorPool::decode(encoded.clone()).map_err(|error| descriptor::refused(&error.to_string()))?;
        let (mut methods, mut requests) = (HashMap::new(), HashMap::new());
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
                    let names = admitted.iter().map(|method| method.name.clone());
                    requests.extend(names.zip(service.methods().map(|method| method.input())));
                    methods.extend(admitted.into_iter().map(|method| (method.name.clone(), Arc::new(method))))
                }
                Err(error) if files.imported.is_empty() && is_dependency(&pool, file.name()) => {
                    return Err(ContractError::Unmarked { error: error.into(), file: file.name().into() });
                }
                Err(error) => return Err(error),
            }
        }
        let imported: Vec<String> = imported.into_iter().collect();
        if services.is_empty() {
            let imported = (!imported.is_empty()).then(|| imported.join(", "));
            return Err(ContractError::NoServices { imported });
        }
        Ok(Contract { encoded, methods, requests, services: services.into_iter().collect(), imported })
    }

    /// Returns the method with the name `package.Service/Method`.
    pub fn method(&self, name: &str) -> Option<&Arc<Method>> {
        self.methods.get(name)
    }

    /// Returns the fields of a request that its message declares, without the others. A request of
    /// a method that this contract does not have is returned as it is.
    ///
    /// # Errors
    /// They have more than `bytes_max` bytes.
    pub fn known_fields(&self, method: &Method, request: &[u8], bytes_max: usize) -> Result<Vec<u8>, TooLarge> {
        match self.requests.get(&method.name) {
            Some(message) => known::fields(message, request, bytes_max),
            None if request.len() <= bytes_max => Ok(request.to_vec()),
            None => Err(TooLarge),
        }
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
pub fn described(pool: &DescriptorPool, descriptor: &MethodDescriptor) -> Option<Method> {
    admit(pool, descriptor, true).ok()
}

/// Tells whether `service`, a full name, belongs to the host itself.
pub fn is_reserved(service: &str) -> bool {
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
) -> Result<Vec<Method>, ContractError> {
    if is_reserved(service.full_name()) {
        return Err(ContractError::Shadows { service: service.full_name().into() });
    }
    service.methods().map(|descriptor| admit(pool, &descriptor, has_watcher)).collect()
}

fn admit(pool: &DescriptorPool, descriptor: &MethodDescriptor, has_watcher: bool) -> Result<Method, ContractError> {
    let name = format!("{}/{}", descriptor.parent_service().full_name(), descriptor.name());
    let (kind, freshness) = match rules::of(pool, descriptor) {
        Ok(rules) => rules,
        Err(refusal) => return Err(ContractError::Method { method: name, refusal }),
    };
    if kind == Kind::Watch && !has_watcher {
        return Err(ContractError::NoWatcher { method: name });
    }
    Ok(Method { name: name.into(), kind, freshness })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "services_tests.rs"]
mod tests;
