//! Records what the sandbox tells of its build: the version of wasmtime and the optimization level.
//! `host/build.rs` does the same for the host.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rustc-env=LOCKSTEP_WASMTIME={}", locked("wasmtime")?);
    println!("cargo::rustc-env=LOCKSTEP_OPT_LEVEL={}", std::env::var("OPT_LEVEL")?);
    Ok(())
}

/// Returns the version of a package in the Cargo.lock beside the manifest.
fn locked(package: &str) -> Result<String, Box<dyn std::error::Error>> {
    let lock = std::fs::read_to_string("Cargo.lock")?;
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\""));
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(version.ok_or_else(|| format!("Cargo.lock names no version of {package}"))?.to_owned())
}
