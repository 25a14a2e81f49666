//! Server reflection, v1 and v1alpha, for the host's own services and the guest's. It serves the
//! guest's descriptor bytes unchanged, so that custom options survive. It is rebuilt when the
//! component becomes known, because the service cannot change once built.

use std::sync::LazyLock;

use axum::Router;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic_reflection::server::{Builder, Error};

use super::mount;
use lockstep_contract::Contract;

/// Descriptors of the host's own protos.
const HOST_DESCRIPTORS: &[u8] = lockstep_proto::DESCRIPTOR_SET;

/// Services that clients of this port may call, apart from the guest's.
const HOST_SERVICES: [&str; 4] = ["RaftManager", "RaftAdmin", "lockstep.v1.Admin", "grpc.health.v1.Health"];

/// Folder that is put before the names of the host's own files. Of two files with one name,
/// reflection shows only the first, and a guest may name its files freely.
const HOST_FOLDER: &str = "lockstep.host/";

static HOST_FILES: LazyLock<Vec<u8>> = LazyLock::new(|| in_host_folder(HOST_DESCRIPTORS).encode_to_vec());
static HEALTH_FILES: LazyLock<Vec<u8>> =
    LazyLock::new(|| in_host_folder(tonic_health::pb::FILE_DESCRIPTOR_SET).encode_to_vec());

/// Adds both versions to `router`.
pub(super) fn add(router: Router, guest: Option<&Contract>) -> Result<Router, Error> {
    let v1 = builder(guest).with_service_name("grpc.reflection.v1.ServerReflection").build_v1()?;
    let v1alpha = builder(guest).with_service_name("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?;
    Ok(mount(mount(router, v1), v1alpha))
}

/// Returns why a guest's descriptor cannot be served, if so.
pub(super) fn check(guest: &Contract) -> Result<(), Error> {
    builder(Some(guest)).build_v1().map(drop)
}

fn builder(guest: Option<&Contract>) -> Builder<'_> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(&HOST_FILES)
        .register_encoded_file_descriptor_set(&HEALTH_FILES);
    // The guest's set comes last: if two symbols share a name, the guest's own wins.
    let builder = match guest {
        Some(routes) => builder.register_encoded_file_descriptor_set(routes.encoded()),
        None => builder,
    };
    let guests = guest.map(Contract::services).unwrap_or_default();
    let names = HOST_SERVICES.into_iter().chain(guests.iter().map(String::as_str));
    names.fold(builder, |builder, name| builder.with_service_name(name))
}

fn in_host_folder(encoded: &[u8]) -> FileDescriptorSet {
    let mut set = FileDescriptorSet::decode(encoded).expect("the build encoded it");
    let move_file = |name: &mut String| {
        // The files that come with protobuf are shared by all.
        if !name.starts_with("google/protobuf/") {
            name.insert_str(0, HOST_FOLDER);
        }
    };
    for file in &mut set.file {
        file.name.iter_mut().chain(&mut file.dependency).for_each(move_file);
    }
    set
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_file_of_the_host_has_a_name_that_a_guests_may_have() {
        for set in [in_host_folder(HOST_DESCRIPTORS), in_host_folder(tonic_health::pb::FILE_DESCRIPTOR_SET)] {
            prost_reflect::DescriptorPool::from_file_descriptor_set(set.clone()).unwrap();
            let is_apart = |name: &str| name.starts_with(HOST_FOLDER) || name.starts_with("google/protobuf/");
            assert!(!set.file.is_empty() && set.file.iter().all(|file| is_apart(file.name())), "{set:?}");
        }
    }

    #[test]
    fn it_is_built_with_and_without_a_guest() {
        drop(add(Router::new(), None).unwrap());
        drop(add(Router::new(), Some(&crate::api::example_contract())).unwrap());
    }
}
