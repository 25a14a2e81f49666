//! `lockstep call`: calls any unary or server-streaming method of any server with reflection, with
//! JSON as input and output. It knows no service: the server describes the requests of its methods.

use std::io::Read;
use std::time::Duration;

use anyhow::Context;
use prost_reflect::{DynamicMessage, MethodDescriptor, ServiceDescriptor};
use tonic::Status;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};

use super::called::as_called;
use super::client::{self, CONNECT_PATIENCE, CallOptions, Client};
use super::credentials::Credentials;
use super::door;
use super::json::{Shown, Tree, read_message, show_bytes};
use super::reflection::Reflection;
use super::report::{Failure, metadata_lines, print_line, print_notice, stdout_is_closed};
use super::similar::{similar, suggestion};
use lockstep_contract::{described, is_reserved};

/// A service that every node serves, and no other server.
const NODE_SERVICE: &str = "lockstep.v1.Admin";

const AFTER_HELP: &str = "\
Each reply is printed as one line of JSON; a stream ends with Ctrl-C. An error exits with code 1.
What of a reply has no JSON form is shown with \"@error\" beside it, and the reason on stderr; the call
has had its effect, and the code is 0.

Examples:
  lockstep call localhost:40051
  lockstep call localhost:40051 Example/Add '{\"key\": \"a\", \"val\": \"1\"}'
  lockstep call localhost:40051 Example/Get '{\"key\": \"a\", \"linearizable\": true}' --timeout 2s
  lockstep call localhost:40051,localhost:40052 Example/Get '{\"key\": \"a\"}'
  lockstep call localhost:40051 Example/Watch '{\"key\": \"a\"}'
  lockstep call localhost:40051 Example/Add @request.json
  echo '{\"key\": \"a\"}' | lockstep call localhost:40051 Example/Get -";

/// Call a method of a running cluster, with JSON.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CallArgs {
    /// The grpc_addr of a node; or of several, separated by commas: another one is tried when one
    /// cannot be reached or has not run the call
    #[arg(value_name = "HOST:PORT,…")]
    addr: String,

    /// Service/Method; without it, or with a service alone, the methods are listed
    #[arg(value_name = "SERVICE/METHOD")]
    method: Option<String>,

    /// The request as JSON, @file, or - for stdin [default: {}]
    #[arg(value_name = "JSON")]
    json: Option<String>,

    /// Give up after this long, such as 500ms or 2s [default: the node gives commands and queries
    /// 10s, watches no limit]
    #[arg(long = "timeout", value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    /// Metadata to send; may be given several times
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = metadata_pair)]
    metadata: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,

    #[command(flatten)]
    credentials: Credentials,
}

/// Makes one call, or lists the methods.
pub(crate) fn run(args: &CallArgs) -> anyhow::Result<()> {
    let method = args.method.as_deref().map(split_method);
    if let (Some((service, None)), Some(_)) = (method, &args.json) {
        return Err(Failure::usage(format!("{service:?} names no method, and a request is for one"))
            .hint("a method is called as SERVICE/METHOD; without a request, the methods of a service are listed")
            .into());
    }
    super::client_runtime()?.block_on(async {
        let server = client::connect_to_any(&args.addr, &args.credentials, CONNECT_PATIENCE).await?;
        match method {
            None => list(args, server, None).await,
            Some((service, None)) => list(args, server, Some(service)).await,
            Some((service, Some(method))) => call(server, service, method, args).await,
        }
    })
}

async fn call(server: Client, service: &str, method: &str, args: &CallArgs) -> anyhow::Result<()> {
    let service = describe(server.clone(), service).await?;
    let method = find_method(&service, method)?;
    let request = request(&method, args.json.as_deref().unwrap_or("{}"))?;
    let mut options = CallOptions { timeout: args.timeout, metadata: MetadataMap::new() };
    for (key, value) in &args.metadata {
        options.metadata.append(key.clone(), value.clone());
    }
    if method.is_client_streaming() {
        let name = method.full_name();
        return Err(Failure::usage(format!("{name} takes a stream of requests, which this command cannot send")).into());
    }
    if !method.is_server_streaming() {
        return match client::unary_bytes(&server, &method, &request, &options).await {
            Ok(reply) => {
                let shown = show_bytes(&method.output(), reply.get_ref());
                print_reply(&shown, &format!("the call succeeded{}", in_brackets(reply.metadata())))
            }
            Err(status) => Err(refusal(&server, &method, status).await.into()),
        };
    }
    match stream(&server, &method, &request, &options).await? {
        Ok(()) => Ok(()),
        Err(status) => Err(refusal(&server, &method, status).await.into()),
    }
}

async fn refusal(server: &Client, method: &MethodDescriptor, status: Status) -> Failure {
    door::failure_described(server, status, Some(method.parent_pool())).await
}

/// Prints the replies until the stream ends. The inner error is the server's or the connection's.
async fn stream(
    server: &Client,
    method: &MethodDescriptor,
    request: &DynamicMessage,
    options: &CallOptions,
) -> anyhow::Result<Result<(), Status>> {
    let mut replies = match client::server_streaming(server, method, request, options).await {
        Ok(replies) => replies,
        Err(status) => return Ok(Err(status)),
    };
    loop {
        let reply = tokio::select! {
            reply = client::next(&mut replies, options) => reply,
            // Without this, a call that prints nothing for hours would not notice that its stdout
            // is closed.
            closed = stdout_is_closed() => return Err(closed),
        };
        match reply {
            Ok(Some(reply)) => print_reply(&show_bytes(&method.output(), &reply), "the stream goes on")?,
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}

/// Prints a reply. For parts without a JSON form, prints the reasons to stderr, after `outcome`.
/// The call has had its effect all the same.
fn print_reply(shown: &Shown, outcome: &str) -> anyhow::Result<()> {
    print_line(&shown.json)?;
    if !shown.problems.is_empty() {
        print_notice(format_args!("{outcome}; parts of the reply have no JSON form and are shown with \"@error\":"));
        shown.problems.iter().for_each(|problem| print_notice(format_args!("  {problem}")));
    }
    Ok(())
}

/// Returns ` (lockstep-index: 7)`, or nothing when the server sent no such metadata.
fn in_brackets(metadata: &MetadataMap) -> String {
    let lines = metadata_lines(metadata);
    if lines.is_empty() { String::new() } else { format!(" ({})", lines.join(", ")) }
}

/// Asks a server to describe one of its services. An error names similar services.
pub(crate) async fn describe(server: Client, service: &str) -> anyhow::Result<ServiceDescriptor> {
    let mut reflection = Reflection::new(server.clone());
    let services = reflection.services().await?;
    let unknown = |hint: String| Failure::new(format!("the server has no service {service:?}")).hint(hint);
    if !services.iter().any(|known| known == service) {
        if let Some(what_to_do) = door::outside(&server).await {
            return Err(unknown(what_to_do).into());
        }
        if let Some(called) = named_by_its_method(&mut reflection, &services, service).await? {
            return Err(unknown(format!("a method is called as SERVICE/METHOD; did you mean {called}?")).into());
        }
        let close: Vec<String> =
            similar(service, services.iter().map(String::as_str)).into_iter().map(str::to_owned).collect();
        return Err(unknown(suggestion(&close, &services)).into());
    }
    let pool = reflection.describe(&[service.to_owned()]).await?;
    let found = pool.and_then(|pool| pool.get_service_by_name(service));
    found.ok_or_else(|| unknown("it lists the service but does not describe it".into()).into())
}

/// Returns how to call the guest's method whose name was given in the place of a service. `Add` and
/// `Example.Add` name a method, for example.
async fn named_by_its_method(
    reflection: &mut Reflection,
    services: &[String],
    called: &str,
) -> anyhow::Result<Option<String>> {
    let (before, name) = called.rsplit_once('.').unwrap_or(("", called));
    for service in services.iter().filter(|service| !is_reserved(service) && [service, ""].contains(&before)) {
        let pool = reflection.describe(std::slice::from_ref(service)).await?;
        let service = pool.and_then(|pool| pool.get_service_by_name(service));
        if let Some(method) = service.iter().flat_map(ServiceDescriptor::methods).find(|method| method.name() == name) {
            return Ok(Some(format!("{}/{}", method.parent_service().full_name(), method.name())));
        }
    }
    Ok(None)
}

/// Finds a method of a service. An error names similar methods.
pub(crate) fn find_method(service: &ServiceDescriptor, name: &str) -> anyhow::Result<MethodDescriptor> {
    let exact = service.methods().find(|method| method.name() == name);
    exact.ok_or_else(|| {
        let names: Vec<String> = service.methods().map(|method| method.name().to_owned()).collect();
        let path = |method: &str| format!("{}/{method}", service.full_name());
        let close: Vec<String> = similar(name, names.iter().map(String::as_str)).into_iter().map(path).collect();
        let all: Vec<String> = names.iter().map(|name| path(name)).collect();
        Failure::new(format!("{} has no method {name:?}", service.full_name())).hint(suggestion(&close, &all)).into()
    })
}

/// Prints the methods of one service, or all methods of the guest. In the second case, the names of
/// the host's own services follow.
async fn list(args: &CallArgs, server: Client, only: Option<&str>) -> anyhow::Result<()> {
    let mut reflection = Reflection::new(server.clone());
    if let Some(service) = only {
        let is_node = is_node(&reflection.services().await?);
        return print_service(&describe(server, service).await?, is_node);
    }
    let services = reflection.services().await?;
    let is_node = is_node(&services);
    let (own, others): (Vec<_>, Vec<_>) = services.into_iter().partition(|name| is_node && is_reserved(name));
    for service in others {
        // Describes one service at a time: two services of different authors may each bring their
        // own version of a file.
        let pool = reflection.describe(std::slice::from_ref(&service)).await?;
        match pool.and_then(|pool| pool.get_service_by_name(&service)) {
            Some(service) => print_service(&service, is_node)?,
            None => print_line(format!("{service}  (not described by the server)"))?,
        }
    }
    for service in own {
        print_line(as_called(&format!("{service}  of the node; `lockstep call {} {service}` lists it", args.addr)))?;
    }
    if let Some(what_to_do) = door::outside(&server).await {
        print_notice(as_called(&what_to_do));
    }
    Ok(())
}

/// Tells whether a server with these services is a Lockstep node, where methods have kinds.
fn is_node(services: &[String]) -> bool {
    services.iter().any(|service| service == NODE_SERVICE)
}

fn print_service(service: &ServiceDescriptor, is_node: bool) -> anyhow::Result<()> {
    let of_guest = is_node && !is_reserved(service.full_name());
    let width = service.methods().map(|method| method.name().len()).max().unwrap_or(0) + service.full_name().len() + 1;
    for method in service.methods() {
        match described(service.parent_pool(), &method).filter(|_| of_guest) {
            Some(guest) => {
                print_line(format!("{:<width$}  {:<23}  {}", guest.name, guest.nature(), shapes(&method)))?;
            }
            None => print_line(signature(&method))?,
        }
    }
    Ok(())
}

/// Returns, for example, `Example/Add  {"key": string, "val": string} -> {"commitIndex": uint64}`.
pub(crate) fn signature(method: &MethodDescriptor) -> String {
    format!("{}/{}  {}", method.parent_service().full_name(), method.name(), shapes(method))
}

/// Returns, for example, `{"key": string, "val": string} -> {"commitIndex": uint64}`.
pub(crate) fn shapes(method: &MethodDescriptor) -> String {
    let shape = |message: prost_reflect::MessageDescriptor| {
        let fields: Vec<String> = message
            .fields()
            .map(|field| {
                let many = if field.is_list() { "repeated " } else { "" };
                format!("{:?}: {many}{}", field.json_name(), kind_name(&field))
            })
            .collect();
        format!("{{{}}}", fields.join(", "))
    };
    let stream = |streaming: bool| if streaming { "stream " } else { "" };
    format!(
        "{}{} -> {}{}",
        stream(method.is_client_streaming()),
        shape(method.input()),
        stream(method.is_server_streaming()),
        shape(method.output()),
    )
}

fn kind_name(field: &prost_reflect::FieldDescriptor) -> String {
    match field.kind() {
        prost_reflect::Kind::Message(_) if field.is_map() => "map".into(),
        prost_reflect::Kind::Message(message) => message.name().to_owned(),
        prost_reflect::Kind::Enum(kind) => kind.name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

/// Splits a name: `/Example/Add` and `Example/Add` name a method, `Example` names a service.
pub(crate) fn split_method(text: &str) -> (&str, Option<&str>) {
    let text = text.strip_prefix('/').unwrap_or(text);
    match text.rsplit_once('/') {
        Some((service, method)) => (service, Some(method)),
        None => (text, None),
    }
}

fn request(method: &MethodDescriptor, argument: &str) -> anyhow::Result<DynamicMessage> {
    let json = match argument.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?,
        None if argument == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
            text
        }
        None => argument.to_owned(),
    };
    if json.trim().is_empty() {
        // Without this check, an empty shell variable would become a command.
        return Err(Failure::usage("the request is empty").hint("for a request without fields, give {}").into());
    }
    parse(method, &json).map_err(|error| {
        let message = method.input().full_name().to_owned();
        Failure::usage(format!("the request is no {message}: {error}"))
            .hint(format!("the method is {}", signature(method)))
            .into()
    })
}

fn parse(method: &MethodDescriptor, json: &str) -> Result<DynamicMessage, String> {
    read_message(&method.input(), &Tree::parse(json)?)
}

fn metadata_pair(text: &str) -> Result<(AsciiMetadataKey, AsciiMetadataValue), String> {
    let (key, value) = text.split_once('=').ok_or("give key=value")?;
    let key = key.parse().map_err(|_| format!("{key:?} is no metadata key (binary ones are not supported)"))?;
    let value = value.parse().map_err(|_| format!("{value:?} is no metadata value"))?;
    Ok((key, value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::json::show;

    fn method(name: &str) -> MethodDescriptor {
        let pool = crate::cli::manager::descriptors();
        find_method(&pool.get_service_by_name("RaftManager").unwrap(), name).unwrap()
    }

    #[test]
    fn methods_are_split_with_and_without_a_leading_slash() {
        assert_eq!(split_method("Example/Add"), ("Example", Some("Add")));
        assert_eq!(split_method("/a.b.Example/Add"), ("a.b.Example", Some("Add")));
        assert_eq!(split_method("Example"), ("Example", None));
    }

    #[test]
    fn json_is_read_and_written_as_protobuf_maps_it() {
        let reply = parse(&method("Await"), r#"{"operationToken": "t"}"#).unwrap();
        assert_eq!(show(&reply).json.to_string(), r#"{"operationToken":"t"}"#);
        let index = DynamicMessage::new(method("LastIndex").output());
        assert_eq!(show(&index).json.to_string(), r#"{"index":"0"}"#);
    }

    #[test]
    fn wrong_field_is_refused_with_the_right_ones() {
        let error = request(&method("AddVoter"), r#"{"name": "x"}"#).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert!(failure.to_string().contains("AddVoterRequest"), "{failure}");
        assert!(request(&method("AddVoter"), r#"{} {}"#).is_err(), "trailing text is refused");
        assert!(request(&method("AddVoter"), " ").unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn unknown_method_suggests_a_similar_one() {
        let service = method("State").parent_service().clone();
        let error = find_method(&service, "AddVotr").unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap();
        assert!(format!("{failure:?}").contains("AddVoter"));
    }

    #[test]
    fn help_names_the_deadline_that_the_node_sets() {
        let command = <CallArgs as clap::Args>::augment_args(clap::Command::new("call"));
        let timeout = command.get_arguments().find(|argument| argument.get_id() == "timeout").unwrap();
        let default = humantime::format_duration(crate::api::DEADLINE_DEFAULT).to_string();
        assert!(timeout.get_help().unwrap().to_string().contains(&default), "{timeout:?}");
    }

    #[test]
    fn signature_shows_both_messages() {
        assert_eq!(signature(&method("LastIndex")), r#"RaftManager/LastIndex  {} -> {"index": uint64}"#);
    }
}
