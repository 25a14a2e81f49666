//! Generates the clients of the scenarios: raft-example's service from its own proto, and its manager's.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=../proto/manager.proto");
    let set = protox::compile(["raft_example.proto", "manager.proto"], ["proto", "../proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(set)?;
    Ok(())
}
