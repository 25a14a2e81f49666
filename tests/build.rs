//! Generates the clients of the scenarios: raft-example's service from its own proto, its manager's, and that of the test guest.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in ["proto", "../proto/manager.proto", "../proto/lockstep", "guests/chain/proto"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let sources = ["raft_example.proto", "manager.proto", "chain.proto"];
    let set = protox::compile(sources, ["proto", "../proto", "guests/chain/proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(set)?;
    Ok(())
}
