//! Server reflection, v1 and v1alpha: the host's own services and the guest's, with the guest's bytes as they are, so that custom
//! options survive. Built anew when the component becomes known, because the service cannot change once built.

use axum::Router;
use tonic_reflection::server::{Builder, Error};

use super::mount;
use super::routes::Routes;

/// Descriptors of the protos that the host speaks.
const HOST_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/host_descriptor.bin"));

/// Services that clients of this port may call, apart from the guest's.
const HOST_SERVICES: [&str; 4] = ["RaftManager", "RaftAdmin", "lockstep.v1.Admin", "grpc.health.v1.Health"];

/// Adds both versions to `router`.
pub(super) fn add(router: Router, guest: Option<&Routes>) -> Result<Router, Error> {
    let v1 = builder(guest).with_service_name("grpc.reflection.v1.ServerReflection").build_v1()?;
    let v1alpha = builder(guest).with_service_name("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?;
    Ok(mount(mount(router, v1), v1alpha))
}

fn builder(guest: Option<&Routes>) -> Builder<'_> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(HOST_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    // The guest's last: of two symbols of one name, the one it means is the one it gets.
    let builder = match guest {
        Some(routes) => builder.register_encoded_file_descriptor_set(routes.encoded()),
        None => builder,
    };
    let guests = guest.map(Routes::services).unwrap_or_default();
    let names = HOST_SERVICES.into_iter().chain(guests.iter().map(String::as_str));
    names.fold(builder, |builder, name| builder.with_service_name(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_built_with_and_without_a_guest() {
        drop(add(Router::new(), None).unwrap());
        let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
        let mut compiler = protox::Compiler::new([protos]).unwrap();
        compiler.include_imports(true).open_file("example.proto").unwrap();
        let routes = Routes::new(Some(&compiler.encode_file_descriptor_set()), true).unwrap();
        drop(add(Router::new(), Some(&routes)).unwrap());
    }
}
