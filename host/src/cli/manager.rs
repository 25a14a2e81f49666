//! The client of the `RaftManager` service: it makes calls, by name with words as arguments, too,
//! and runs operations to their end. The service is known by the descriptor that the host was built
//! with. This file prints nothing.

use std::sync::LazyLock;
use std::time::Duration;

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, ReflectMessage, ServiceDescriptor};
use tonic::Status;

use super::client::{self, CallOptions, Client};
use super::report::Failure;
use super::rpcs::Rpc;

static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes: &[u8] = lockstep_proto::DESCRIPTOR_SET;
    DescriptorPool::decode(bytes).expect("the build wrote a valid descriptor set")
});

/// Returns the descriptors of the host's own services.
pub(crate) fn descriptors() -> &'static DescriptorPool {
    &DESCRIPTORS
}

/// Returns the service `RaftManager`.
pub(crate) fn service() -> ServiceDescriptor {
    let service = descriptors().get_service_by_name("RaftManager");
    service.expect("the build compiles manager.proto")
}

/// The manager service of one node, and the other services that the node has for operators.
#[derive(Clone, Debug)]
pub(crate) struct Manager {
    server: Client,
    options: CallOptions,
}

impl Manager {
    /// Creates the client on an open connection. `timeout` limits each call.
    pub(crate) fn new(server: Client, timeout: Option<Duration>) -> Self {
        let options = CallOptions { timeout, ..CallOptions::default() };
        Manager { server, options }
    }

    /// Returns the connection, for other services of the same node.
    pub(crate) fn server(&self) -> &Client {
        &self.server
    }

    /// Makes one call, of any service.
    pub(crate) async fn call(
        &self,
        rpc: &MethodDescriptor,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage, Status> {
        client::unary(&self.server, rpc, request, &self.options).await
    }

    /// Calls an RPC by name. If the reply is an operation, it runs it to its end: `Await`, then
    /// `Forget`.
    pub(crate) async fn run(&self, name: &str, words: &[&str]) -> anyhow::Result<DynamicMessage> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let rpc = known(name);
        let failed = |status: Status| Failure::from_status(&status);
        let reply = self.call(&rpc.method, &rpc.request(&words)?).await.map_err(failed)?;
        if !is_operation(&reply) {
            return Ok(reply);
        }
        let outcome = self.call(&known("Await").method, &reply).await.map_err(failed)?;
        self.call(&known("Forget").method, &reply).await.map_err(failed)?;
        match operation_error(&outcome) {
            Some(error) => Err(Failure::new(format!("{name}: {error}")).into()),
            None => Ok(outcome),
        }
    }
}

/// Returns an RPC of `RaftManager` whose name is fixed in this program's code.
pub(crate) fn known(name: &str) -> Rpc {
    let method = service().methods().find(|method| method.name() == name);
    Rpc::plain(method.expect("manager.proto has this RPC"))
}

/// Tells whether the reply is a token of an operation.
pub(crate) fn is_operation(reply: &DynamicMessage) -> bool {
    reply.descriptor().full_name() == "Future"
}

/// Returns the error in an `AwaitResponse`, if there is one.
pub(crate) fn operation_error(outcome: &DynamicMessage) -> Option<String> {
    text_field(outcome, "error").filter(|error| !error.is_empty())
}

/// Returns a string field of a reply.
pub(crate) fn text_field(message: &DynamicMessage, name: &str) -> Option<String> {
    message.get_field_by_name(name)?.as_str().map(str::to_owned)
}
