//! Writes the `.proto` files of the corpus and generates Rust for each case. Each case is a module
//! of its own, and all of them are compiled together.

mod corpus;

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=corpus.rs");
    println!("cargo::rerun-if-changed=corpus");
    let place = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut modules = String::new();
    for (case, files) in corpus::cases() {
        let directory = place.join(&case);
        let paths = write(&directory, &files)?;
        let output =
            lockstep_guest_build::generate(&paths, &[&directory]).map_err(|error| format!("{case}: {error}"))?;
        // The descriptor of a module is not used. That of the crate comes from `manager.proto`.
        let code = output.rust.split("::lockstep_guest::descriptor_section!").next().unwrap_or_default().to_owned();
        fs::write(directory.join("case.rs"), code)?;
        modules.push_str(&format!("pub mod {case} {{ include!(concat!(env!(\"OUT_DIR\"), \"/{case}/case.rs\")); }}\n"));
    }
    fs::write(place.join("cases.rs"), modules)?;
    lockstep_guest_build::compile("proto/manager.proto");
    Ok(())
}

/// Writes the files of a case and returns its own files, which are those not called `imported…`.
fn write(directory: &Path, files: &[(String, String)]) -> std::io::Result<Vec<PathBuf>> {
    let mut own = Vec::new();
    for (name, text) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(&path, text)?;
        if !name.starts_with("imported") {
            own.push(path);
        }
    }
    Ok(own)
}
