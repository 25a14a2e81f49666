//! Generates the clients of the scenarios: for raft-example's service from its own proto, and for
//! the test guests.

const ROOMS: [&str; 8] = [
    "proto",
    "../proto",
    "guests/chain/proto",
    "guests/locks-2/proto",
    "guests/medley/proto",
    "guests/misbehaving/proto",
    "guests/orders-3/proto",
    "guests/statics/proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in ROOMS {
        println!("cargo::rerun-if-changed={path}");
    }
    let protos = [
        "raft_example.proto",
        "chain.proto",
        "locks.proto",
        "medley.proto",
        "misbehaving.proto",
        "orders.proto",
        "statics.proto",
    ];
    let set = protox::compile(protos, ROOMS)?;
    tonic_prost_build::configure().build_server(false).compile_fds(set)?;
    // The misbehaving guest, which is written as text, contains this descriptor. It is encoded
    // here, because prost's types would lose the options of its methods.
    let mut misbehaving = protox::Compiler::new(ROOMS)?;
    misbehaving.include_imports(true).open_file("misbehaving.proto")?;
    let place = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(place.join("misbehaving.bin"), misbehaving.encode_file_descriptor_set())?;
    Ok(())
}
