//! Compiles the protos that the host itself speaks. No protoc is run: protox parses them in this
//! process.

use prost::Message;

const PROTOS: [&str; 6] = [
    "lockstep/entry.proto",
    "lockstep/peer.proto",
    "lockstep/call.proto",
    "manager.proto",
    "raft_admin.proto",
    "lockstep/admin.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
    }
    let set = protox::compile(PROTOS, ["."])?;
    let place = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(place.join("descriptor_set.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".lockstep").build_transport(true).compile_fds(set)?;
    Ok(())
}
