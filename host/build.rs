//! Compiles the protos that the host itself speaks. No protoc: protox parses in process.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = [
        "lockstep/entry.proto",
        "lockstep/peer.proto",
        "lockstep/call.proto",
        "manager.proto",
        "raft_admin.proto",
        "lockstep/admin.proto",
    ];
    for proto in protos {
        println!("cargo::rerun-if-changed=../proto/{proto}");
    }
    let set = protox::compile(protos, ["../proto"])?;
    std::fs::write(
        std::path::Path::new(&std::env::var("OUT_DIR")?).join("host_descriptor.bin"),
        prost_build_bytes(&set),
    )?;
    tonic_prost_build::configure().bytes(".lockstep").build_transport(true).compile_fds(set)?;
    Ok(())
}

fn prost_build_bytes(set: &impl prost::Message) -> Vec<u8> {
    set.encode_to_vec()
}
