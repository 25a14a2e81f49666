//! The client of the `RaftManager` service: it makes calls by name with words as arguments, and
//! runs operations to their end. Field names and types come from the descriptor that the host was
//! built with. This file prints nothing.

use std::sync::LazyLock;
use std::time::Duration;

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MethodDescriptor, ReflectMessage,
    ServiceDescriptor, Value,
};
use tonic::Status;

use super::client::{self, CallOptions, Client};
use super::report::Failure;
use super::text::snake_case;

/// Fields that may be left out on the command line. Their zero value means "without".
const OPTIONAL_FIELDS: [&str; 2] = ["previous_index", "extensions"];

static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let bytes: &[u8] = lockstep_proto::DESCRIPTOR_SET;
    DescriptorPool::decode(bytes).expect("the build wrote a valid descriptor set")
});

/// Returns the descriptors of the host's own services.
pub(crate) fn descriptors() -> &'static DescriptorPool {
    &DESCRIPTORS
}

fn service() -> ServiceDescriptor {
    let service = descriptors().get_service_by_name("RaftManager");
    service.expect("the build compiles manager.proto")
}

/// Returns all RPCs, in the order of the proto.
pub(crate) fn rpcs() -> Vec<MethodDescriptor> {
    service().methods().collect()
}

/// Returns the RPC of this name, written as `add_voter`, `add-voter` or `AddVoter`.
pub(crate) fn rpc(name: &str) -> Option<MethodDescriptor> {
    let snake = name.replace('-', "_");
    service().methods().find(|method| method.name() == name || snake_case(method.name()) == snake)
}

/// Returns, for example, `add_voter <id> <address> [previous_index]`.
pub(crate) fn usage(rpc: &MethodDescriptor) -> String {
    let mut words = vec![snake_case(rpc.name())];
    for field in rpc.input().fields() {
        let name = field.name();
        words.push(if is_optional(&field) { format!("[{name}]") } else { format!("<{name}>") });
    }
    words.join(" ")
}

/// Returns the request whose fields, in order, have these words as values.
pub(crate) fn request(rpc: &MethodDescriptor, words: &[String]) -> Result<DynamicMessage, Failure> {
    let input = rpc.input();
    let mut fields: Vec<FieldDescriptor> = input.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    let required = fields.iter().filter(|field| !is_optional(field)).count();
    if words.len() < required || words.len() > fields.len() {
        let given = words.len();
        let failure = Failure::usage(format!("{} was given {given} arguments", snake_case(rpc.name())));
        return Err(failure.hint(format!("it is used as: {}", usage(rpc))));
    }
    let mut message = DynamicMessage::new(input);
    for (field, word) in fields.iter().zip(words) {
        message.set_field(field, value(field, word)?);
    }
    Ok(message)
}

fn is_optional(field: &FieldDescriptor) -> bool {
    OPTIONAL_FIELDS.contains(&field.name())
}

fn value(field: &FieldDescriptor, word: &str) -> Result<Value, Failure> {
    let name = field.name();
    let not_a = |what: &str| Failure::usage(format!("{name}: {word:?} is not {what}"));
    if field.cardinality() == Cardinality::Repeated {
        return Err(Failure::usage(format!("{name} takes several values, which the command line cannot say")));
    }
    match field.kind() {
        Kind::String => Ok(Value::String(word.to_owned())),
        Kind::Uint64 => word.parse().map(Value::U64).map_err(|_| not_a("a number from 0 up")),
        Kind::Int64 => word.parse().map(Value::I64).map_err(|_| not_a("a number")),
        Kind::Bool => word.parse().map(Value::Bool).map_err(|_| not_a("true or false")),
        Kind::Bytes => bytes(word).map(Value::Bytes).map_err(|problem| Failure::usage(format!("{name}: {problem}"))),
        other => Err(Failure::usage(format!("{name} is a {other:?}, which the command line cannot say"))),
    }
}

/// Reads bytes that are given as text, as `hex:...`, or as the contents of `@file`.
fn bytes(word: &str) -> Result<bytes::Bytes, String> {
    if let Some(path) = word.strip_prefix('@') {
        let contents = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        return Ok(contents.into());
    }
    let Some(hex) = word.strip_prefix("hex:") else {
        return Ok(word.to_owned().into());
    };
    let odd = || format!("{hex:?} is not pairs of hexadecimal digits");
    if !hex.is_ascii() || hex.len() % 2 != 0 {
        return Err(odd());
    }
    let pairs = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    pairs.collect::<Result<Vec<u8>, _>>().map(Into::into).map_err(|_| odd())
}

/// The manager service of one node.
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

    /// Makes one call.
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
        let reply = self.call(&rpc, &request(&rpc, &words)?).await.map_err(failed)?;
        if !is_operation(&reply) {
            return Ok(reply);
        }
        let outcome = self.call(&known("Await"), &reply).await.map_err(failed)?;
        self.call(&known("Forget"), &reply).await.map_err(failed)?;
        match operation_error(&outcome) {
            Some(error) => Err(Failure::new(format!("{name}: {error}")).into()),
            None => Ok(outcome),
        }
    }
}

/// Returns an RPC whose name is fixed in this program's code.
pub(crate) fn known(name: &str) -> MethodDescriptor {
    rpc(name).expect("manager.proto has this RPC")
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::text::{self, Defaults};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn said(name: &str, arguments: &[&str]) -> Result<String, String> {
        let request = request(&rpc(name).unwrap(), &words(arguments));
        request.map(|message| text::format(&message, Defaults::Hidden)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn all_twenty_rpcs_are_known_by_their_snake_case_names() {
        assert_eq!(rpcs().len(), 20);
        for method in rpcs() {
            assert_eq!(rpc(&snake_case(method.name())), Some(method.clone()));
        }
        assert_eq!(rpc("AddVoter"), rpc("add-voter"));
        assert_eq!(rpc("add_vote"), None);
    }

    #[test]
    fn words_become_fields_in_order() {
        let expected = r#"id: "nodeB" address: "localhost:50052" previous_index: 3"#;
        assert_eq!(said("add_voter", &["nodeB", "localhost:50052", "3"]).unwrap(), expected);
        assert_eq!(said("demote_voter", &["nodeB"]).unwrap(), r#"id: "nodeB""#);
        assert_eq!(said("apply_log", &["hex:0a01ff"]).unwrap(), r#"data: "\n\x01\xff""#);
        assert_eq!(said("state", &[]).unwrap(), "");
    }

    #[test]
    fn wrong_words_are_refused() {
        let table: [(&str, &[&str], &str); 5] = [
            ("add_voter", &["nodeB"], "1 arguments"),
            ("state", &["x"], "1 arguments"),
            ("add_voter", &["b", "a:1", "-3"], "previous_index"),
            ("apply_log", &["hex:0"], "hexadecimal"),
            ("apply_log", &["@/nonexistent"], "cannot read"),
        ];
        for (name, arguments, problem) in table {
            let error = said(name, arguments).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn usage_marks_what_may_be_left_out() {
        assert_eq!(usage(&known("AddVoter")), "add_voter <id> <address> [previous_index]");
        assert_eq!(usage(&known("Barrier")), "barrier");
    }
}
