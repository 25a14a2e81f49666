//! Asks a server for its services through `grpc.reflection.v1`. It calls nothing else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use prost::{Message, encoding};
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorProto;
use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ErrorResponse, ServerReflectionRequest};

use super::client::Client;
use super::door;
use super::report::Failure;

/// Most files in one service's description. Nobody writes that many by hand.
const FILES_MAX: usize = 1000;

/// Number of the field `google.protobuf.FileDescriptorSet.file`.
const SET_FILE_FIELD: u32 = 1;

/// A file of a server's description.
struct File {
    read: FileDescriptorProto,
    raw: Vec<u8>,
}

/// The reflection service of one server.
pub(crate) struct Reflection {
    server: Client,
    client: ServerReflectionClient<Client>,
}

impl Reflection {
    /// Creates the client on an open connection. Reflection changes nothing, so a client of several
    /// nodes asks another one when a connection breaks.
    pub(crate) fn new(server: Client) -> Self {
        Reflection { client: ServerReflectionClient::new(server.repeating()), server }
    }

    /// Returns the full names of the services, sorted.
    pub(crate) async fn services(&mut self) -> anyhow::Result<Vec<String>> {
        match self.ask(MessageRequest::ListServices("*".into())).await? {
            MessageResponse::ListServicesResponse(list) => {
                let names: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
                Ok(names.into_iter().collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Returns everything that the descriptions of these services need. `None` if the server does
    /// not know one of them.
    pub(crate) async fn describe(&mut self, services: &[String]) -> anyhow::Result<Option<DescriptorPool>> {
        let mut files: BTreeMap<String, File> = BTreeMap::new();
        for service in services {
            let Some(found) = self.files(MessageRequest::FileContainingSymbol(service.clone())).await? else {
                return Ok(None);
            };
            files.extend(found.into_iter().map(|file| (file.read.name().to_owned(), file)));
        }
        self.add_imports(&mut files).await?;
        for file in files.values() {
            lockstep_contract::check_syntax(&file.read).context("the server's description of its services")?;
        }
        // Keeps the files as the server sent them: prost's types have lost the custom options.
        let mut set = Vec::new();
        for file in files.into_values() {
            encoding::bytes::encode(SET_FILE_FIELD, &file.raw, &mut set);
        }
        let pool = DescriptorPool::decode(set.as_slice())
            .context("the server's description of its services does not fit together")?;
        Ok(Some(pool))
    }

    /// Asks for the files that the given ones import, since a server may send a file alone.
    async fn add_imports(&mut self, files: &mut BTreeMap<String, File>) -> anyhow::Result<()> {
        loop {
            let missing: BTreeSet<String> = files
                .values()
                .flat_map(|file| &file.read.dependency)
                .filter(|name| !files.contains_key(*name))
                .cloned()
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            for name in missing {
                anyhow::ensure!(
                    files.len() < FILES_MAX,
                    "the server describes its services in more than {FILES_MAX} files"
                );
                let found = self.files(MessageRequest::FileByFilename(name.clone())).await?;
                let found =
                    found.with_context(|| format!("the server does not know {name}, which its own services import"))?;
                anyhow::ensure!(
                    found.iter().any(|file| file.read.name() == name),
                    "asked for {name}, the server sent another file"
                );
                files.extend(found.into_iter().map(|file| (file.read.name().to_owned(), file)));
            }
        }
    }

    async fn files(&mut self, request: MessageRequest) -> anyhow::Result<Option<Vec<File>>> {
        match self.ask(request).await? {
            MessageResponse::FileDescriptorResponse(found) => {
                let decoded = found
                    .file_descriptor_proto
                    .into_iter()
                    .map(|raw| FileDescriptorProto::decode(raw.as_slice()).map(|read| File { read, raw }));
                let files = decoded.collect::<Result<Vec<_>, _>>();
                Ok(Some(files.context("the server's description of its services is damaged")?))
            }
            MessageResponse::ErrorResponse(error) if error.error_code == Code::NotFound as i32 => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&mut self, request: MessageRequest) -> anyhow::Result<MessageResponse> {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let reply = match self.client.server_reflection_info(futures::stream::iter([request])).await {
            Ok(replies) => replies.into_inner().message().await,
            Err(status) => Err(status),
        };
        let reply = match reply {
            // Some servers send this error in a reply, others end the stream with it.
            Err(status) if status.code() == Code::NotFound => {
                return Ok(MessageResponse::ErrorResponse(ErrorResponse {
                    error_code: Code::NotFound as i32,
                    error_message: status.message().to_owned(),
                }));
            }
            Err(status) => return Err(door::failure(&self.server, status).await.into()),
            Ok(reply) => reply,
        };
        let response = reply.and_then(|reply| reply.message_response);
        response.context("the server ended the description of its services early")
    }
}

fn unexpected(response: &MessageResponse) -> anyhow::Error {
    match response {
        MessageResponse::ErrorResponse(error) => {
            Failure::new(format!("the server does not describe its services: {}", error.error_message)).into()
        }
        _ => Failure::new("the server answered another question than the one asked").into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::client::{self, CONNECT_PATIENCE, CallOptions};
    use crate::cli::credentials::Credentials;
    use crate::reserved::Reserved;
    use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
    use std::net::SocketAddr;
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;

    const HEALTH: &str = "grpc.health.v1.Health";

    /// Starts a server with the health service and its reflection. It ends with the runtime of the
    /// test.
    async fn serve(listener: TcpListener) -> SocketAddr {
        let addr = listener.local_addr().unwrap();
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("Example", tonic_health::ServingStatus::Serving).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .unwrap();
        tokio::spawn(async move {
            let services = axum::Router::new()
                .route_service("/grpc.health.v1.Health/{method}", health)
                .route_service("/grpc.reflection.v1.ServerReflection/{method}", reflection);
            tonic::transport::Server::builder()
                .serve_with_incoming(services, TcpListenerStream::new(listener))
                .await
                .unwrap();
            // The reporter keeps the health service's watches open.
            drop(reporter);
        });
        addr
    }

    async fn health() -> (Client, impl Fn(&str) -> MethodDescriptor) {
        let addr = serve(Reserved::address().0.listen()).await;
        let server = client::connect(&addr.to_string(), &Credentials::default(), CONNECT_PATIENCE).await.unwrap();
        let mut reflection = Reflection::new(server.clone());
        let pool = reflection.describe(&[HEALTH.to_owned()]).await.unwrap();
        let service = pool.unwrap().get_service_by_name(HEALTH).unwrap();
        let method = move |name: &str| service.methods().find(|m| m.name() == name).unwrap();
        (server, method)
    }

    fn check(method: &MethodDescriptor, service: &str) -> DynamicMessage {
        let mut request = DynamicMessage::new(method.input());
        request.set_field_by_name("service", Value::String(service.to_owned()));
        request
    }

    #[tokio::test]
    async fn services_are_listed_and_unknown_ones_are_none() {
        let (server, _) = health().await;
        let mut reflection = Reflection::new(server);
        let services = reflection.services().await.unwrap();
        assert!(services.iter().any(|service| service == HEALTH));
        let unknown = reflection.describe(&["No.Such".to_owned()]).await.unwrap();
        assert!(unknown.is_none());
    }

    #[tokio::test]
    async fn described_method_can_be_called_and_streamed() {
        let (server, method) = health().await;
        let options = CallOptions::default();
        let serving = Value::EnumNumber(1);
        let unary = method("Check");
        let reply = client::unary(&server, &unary, &check(&unary, "Example"), &options).await;
        let reply = reply.unwrap();
        assert_eq!(*reply.get_field_by_name("status").unwrap(), serving);

        let watch = method("Watch");
        let request = check(&watch, "Example");
        let replies = client::server_streaming(&server, &watch, &request, &options).await;
        let first = client::next(&mut replies.unwrap(), &options).await.unwrap().unwrap();
        let first = client::decode(&watch, first).unwrap();
        assert_eq!(*first.get_field_by_name("status").unwrap(), serving);
    }

    #[tokio::test]
    async fn error_of_the_server_keeps_its_code() {
        let (server, method) = health().await;
        let unary = method("Check");
        let request = check(&unary, "Nobody");
        let result = client::unary(&server, &unary, &request, &CallOptions::default()).await;
        assert_eq!(result.unwrap_err().code(), Code::NotFound);
    }

    #[tokio::test]
    async fn stream_past_its_timeout_is_deadline_exceeded() {
        let (server, method) = health().await;
        let watch = method("Watch");
        let options = CallOptions { timeout: Some(std::time::Duration::from_millis(20)), ..CallOptions::default() };
        let request = check(&watch, "Example");
        let mut replies = client::server_streaming(&server, &watch, &request, &options).await.unwrap();
        let status = loop {
            match client::next(&mut replies, &options).await {
                Ok(reply) => assert!(reply.is_some(), "the stream ended without an error"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn node_that_is_just_starting_is_waited_for() {
        let (reserved, addr) = Reserved::address();
        let (text, none) = (addr.to_string(), Credentials::default());
        let (connected, _) = tokio::join!(client::connect(&text, &none, CONNECT_PATIENCE), async {
            tokio::task::yield_now().await;
            serve(reserved.listen()).await
        });
        connected.unwrap();
    }

    #[tokio::test]
    async fn refused_connection_says_what_to_check() {
        let (_reserved, addr) = Reserved::address();
        let addr = addr.to_string();
        let error = client::connect(&addr, &Credentials::default(), std::time::Duration::ZERO).await;
        let text = format!("{:?}", error.unwrap_err().downcast_ref::<Failure>());
        assert!(text.contains(&addr) && text.contains("--grpc_addr"), "{text}");
    }
}
