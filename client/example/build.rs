//! Generates the client of the key-value guest from its proto, as tonic's own documentation does.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto/example.proto");
    let set = protox::compile(["example.proto"], ["../../proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(set)?;
    Ok(())
}
