//! Asks a server for its services through `grpc.reflection.v1`. Calls nothing else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorProto;
use tonic::Code;
use tonic::transport::Channel;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::report::Failure;

/// Files of one service's description; far more than anyone writes by hand.
const FILES_MAX: usize = 1000;

/// The reflection service of one server.
pub(crate) struct Reflection {
    client: ServerReflectionClient<Channel>,
}

impl Reflection {
    /// Over an open connection.
    pub(crate) fn new(channel: Channel) -> Self {
        Reflection {
            client: ServerReflectionClient::new(channel),
        }
    }

    /// The full names of the services, sorted.
    pub(crate) async fn services(&mut self) -> anyhow::Result<Vec<String>> {
        match self.ask(MessageRequest::ListServices("*".into())).await? {
            MessageResponse::ListServicesResponse(list) => {
                let names: BTreeSet<String> = list
                    .service
                    .into_iter()
                    .map(|service| service.name)
                    .collect();
                Ok(names.into_iter().collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Everything that the descriptions of these services need, or `None` if the server knows one of them not.
    pub(crate) async fn describe(
        &mut self,
        services: &[String],
    ) -> anyhow::Result<Option<DescriptorPool>> {
        let mut files: BTreeMap<String, FileDescriptorProto> = BTreeMap::new();
        for service in services {
            let Some(found) = self
                .files(MessageRequest::FileContainingSymbol(service.clone()))
                .await?
            else {
                return Ok(None);
            };
            files.extend(found.into_iter().map(|file| (file.name().to_owned(), file)));
        }
        self.add_imports(&mut files).await?;
        let mut pool = DescriptorPool::new();
        pool.add_file_descriptor_protos(files.into_values())
            .context("the server's description of its services does not fit together")?;
        Ok(Some(pool))
    }

    /// Servers may send a file alone, so we ask for what it imports.
    async fn add_imports(
        &mut self,
        files: &mut BTreeMap<String, FileDescriptorProto>,
    ) -> anyhow::Result<()> {
        loop {
            let missing: BTreeSet<String> = files
                .values()
                .flat_map(|file| &file.dependency)
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
                let found = self
                    .files(MessageRequest::FileByFilename(name.clone()))
                    .await?;
                let found = found.with_context(|| {
                    format!("the server does not know {name}, which its own services import")
                })?;
                anyhow::ensure!(
                    found.iter().any(|file| file.name() == name),
                    "asked for {name}, the server sent another file"
                );
                files.extend(found.into_iter().map(|file| (file.name().to_owned(), file)));
            }
        }
    }

    async fn files(
        &mut self,
        request: MessageRequest,
    ) -> anyhow::Result<Option<Vec<FileDescriptorProto>>> {
        match self.ask(request).await? {
            MessageResponse::FileDescriptorResponse(found) => {
                let decoded = found
                    .file_descriptor_proto
                    .iter()
                    .map(|bytes| FileDescriptorProto::decode(bytes.as_slice()));
                let files = decoded.collect::<Result<Vec<_>, _>>();
                Ok(Some(files.context(
                    "the server's description of its services is damaged",
                )?))
            }
            MessageResponse::ErrorResponse(error) if error.error_code == Code::NotFound as i32 => {
                Ok(None)
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&mut self, request: MessageRequest) -> anyhow::Result<MessageResponse> {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(request),
        };
        let reply = match self
            .client
            .server_reflection_info(futures::stream::iter([request]))
            .await
        {
            Ok(replies) => replies.into_inner().message().await,
            Err(status) => Err(status),
        };
        let reply = reply.map_err(|status| refused(&status))?;
        let response = reply.and_then(|reply| reply.message_response);
        response.context("the server ended the description of its services early")
    }
}

fn refused(status: &tonic::Status) -> Failure {
    let failure = Failure::from_status(status);
    match status.code() {
        Code::Unimplemented => {
            failure.hint("this server has no reflection; is the address the --grpc_addr of a node?")
        }
        Code::NotFound => {
            failure.hint("name it as package.Service/Method; without a name all are listed")
        }
        _ => failure,
    }
}

fn unexpected(response: &MessageResponse) -> anyhow::Error {
    match response {
        MessageResponse::ErrorResponse(error) => Failure::new(format!(
            "the server does not describe its services: {}",
            error.error_message
        ))
        .into(),
        _ => Failure::new("the server answered another question than the one asked").into(),
    }
}
