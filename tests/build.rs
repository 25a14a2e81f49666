//! Generates the clients of the scenarios: raft-example's service from its own proto, its manager's under both names, that of the test
//! guest, and the messages that a forged peer would send.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in ["proto", "../proto", "guests/chain/proto"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let protos = [
        "raft_example.proto",
        "manager.proto",
        "raft_admin.proto",
        "lockstep/call.proto",
        "lockstep/peer.proto",
        "chain.proto",
    ];
    let set = protox::compile(protos, ["proto", "../proto", "guests/chain/proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(set)?;
    Ok(())
}
