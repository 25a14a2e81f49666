//! Turns a `.proto` into one Rust file that `lockstep_guest::include_proto!()` includes. The build
//! scripts of guests call this crate. It runs no `protoc`.
//!
//! ```no_run
//! // build.rs
//! lockstep_guest_build::compile("proto/app.proto");
//! ```
//!
//! The services of the given files are the guest's API. A file that is only imported adds messages;
//! the guest does not serve its services.
//!
//! - `state` passes the record of the state, the file `state.lock`, to the macros of the SDK.
//! - `own` knows which files are the guest's own and marks the others in the descriptor.
//! - [`rules`] decides whether a method is a command, a query or a watch, and refuses methods that
//!   cannot be served.
//! - `clashes` refuses names that cannot stand beside each other in Rust, and chooses the names of
//!   traits and their methods.
//! - `report` says where in a `.proto` an error is.
//! - `requests` changes the files so that prost can take them; `names` computes the names that
//!   prost writes.
//! - `codegen` writes the service traits with their dispatch tables.
//! - This file compiles the `.proto` files, calls the modules, and writes `lockstep.rs` and
//!   `lockstep.bin` to `OUT_DIR`.
//!
//! The crate does nothing at run time and knows nothing of the host.

mod clashes;
mod codegen;
mod names;
mod own;
mod report;
mod requests;
pub mod rules;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost_reflect::{DescriptorPool, FileDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

pub use report::Place;
pub use rules::Kind;

/// Name under which a `.proto` imports the method options.
pub const OPTIONS_PROTO_NAME: &str = "lockstep/options.proto";

/// Text of `lockstep/options.proto`, which declares the option `(lockstep.method)`.
pub const OPTIONS_PROTO: &str = include_str!("../proto/lockstep/options.proto");

/// Stack size of a guest. The linker's default of 1 MiB would have to be mapped for every fresh
/// instance, and every log entry takes a fresh instance.
const GUEST_STACK_BYTES: u32 = 64 * 1024;

/// The error when a `.proto` cannot be turned into a guest's code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The `.proto` files do not compile. Contains lines `file:line:column: …`, then hints.
    #[error("{0}")]
    Proto(String),
    /// A file that was given does not exist.
    #[error("there is no file {}", report::absolute(.0))]
    NoFile(PathBuf),
    /// A method needs something that no replicated machine can serve.
    #[error("{}{method}: {problem}", .place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default())]
    Method {
        /// Place of the method, if the descriptor contains it.
        place: Option<Place>,
        /// Full name, `package.Service/Method`.
        method: String,
        /// What is wrong and what to do instead.
        problem: String,
    },
    /// A name is legal in protobuf and not in Rust.
    #[error("{}{subject}: {problem}", .place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default())]
    Name {
        /// Place of the declaration, if the descriptor contains it.
        place: Option<Place>,
        /// The declaration, such as `message package.Name`.
        subject: String,
        /// What is wrong and what to do instead.
        problem: String,
    },
    /// The messages cannot be written as Rust.
    #[error("generating Rust: {0}")]
    Generate(#[source] io::Error),
    /// The output cannot be written.
    #[error("writing {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The record of the state cannot be read.
    #[error("{}: {problem}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The function was not called from a build script.
    #[error("OUT_DIR is not set: call this from build.rs")]
    NoOutDir,
}

/// Result of one compilation.
#[derive(Debug)]
pub struct Output {
    /// Rust source: messages, service traits, dispatch tables, descriptor section.
    pub rust: String,
    /// Encoded `FileDescriptorSet` with custom options and with imports, which are marked as such.
    /// It has the comments of the given files only.
    pub descriptor: Vec<u8>,
    /// Files on disk that were read.
    pub sources: Vec<PathBuf>,
}

/// Compiles one `.proto` whose imports lie in its own directory, for `include_proto!()`.
///
/// The services of the file are the guest's API. The declarations of its package are re-exported at
/// the root of the crate. All declarations, also imported ones, are in `lockstep_proto`, by
/// package. A message with the name of a type that every Rust file uses (`Result`, `Vec`) is in
/// `lockstep_proto` only.
///
/// On an error this prints what is wrong and ends the build script.
pub fn compile(proto: impl AsRef<Path>) {
    let proto = proto.as_ref();
    let include = match proto.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let Err(error) = compile_protos(&[proto], &[include]) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// Compiles several `.proto` files for one `include_proto!()`.
/// It looks for imports in `includes`. The services of all given files are the guest's API.
///
/// # Errors
/// When a file does not compile, a method cannot be served, or `OUT_DIR` cannot be written.
pub fn compile_protos(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or(Error::NoOutDir)?);
    for proto in protos {
        // Printed before compilation, which may fail: the build script must run again once the file
        // is fixed.
        println!("cargo:rerun-if-changed={}", proto.as_ref().display());
    }
    state::pass_on()?;
    let output = generate(protos, includes)?;
    for source in &output.sources {
        println!("cargo:rerun-if-changed={}", source.display());
    }
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "wasm32") {
        println!("cargo:rustc-link-arg-cdylib=-zstack-size={GUEST_STACK_BYTES}");
    }
    write(&out_dir.join("lockstep.bin"), &output.descriptor)?;
    write(&out_dir.join("lockstep.rs"), output.rust.as_bytes())
}

/// Compiles without writing anything.
///
/// # Errors
/// When a file does not compile, a method cannot be served, or a name cannot stand in Rust.
pub fn generate(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<Output, Error> {
    let compiler = compile_sources(protos, includes)?;
    let pool = compiler.descriptor_pool();
    let own = own::files(&compiler);
    let descriptor = encode_descriptor(&pool, &own);
    let rust = generate_rust(&pool, &own, descriptor.len()).map_err(|error| error.on_disk(includes))?;
    let sources = compiler.files().filter_map(|file| file.path().map(Path::to_owned)).collect();
    Ok(Output { rust, descriptor, sources })
}

/// Returns the descriptor alone, for guests that are not written in Rust.
///
/// # Errors
/// When a file does not compile or a method cannot be served.
pub fn descriptor(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<Vec<u8>, Error> {
    let compiler = compile_sources(protos, includes)?;
    let pool = compiler.descriptor_pool();
    let own = own::files(&compiler);
    rules::method_kinds(&pool, &own).map_err(|error| error.on_disk(includes))?;
    Ok(encode_descriptor(&pool, &own))
}

impl Error {
    /// Returns the error with the path on disk in its place.
    fn on_disk(mut self, includes: &[impl AsRef<Path>]) -> Error {
        if let Error::Method { place, .. } | Error::Name { place, .. } = &mut self {
            *place = place.take().map(|place| place.on_disk(includes));
        }
        self
    }
}

fn compile_sources(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<Compiler, Error> {
    if let Some(missing) = protos.iter().map(AsRef::as_ref).find(|proto| !proto.exists()) {
        return Err(Error::NoFile(missing.to_owned()));
    }
    let mut resolver = ChainFileResolver::new();
    // The first resolver, so that a stray copy on disk cannot change what an option means.
    resolver.add(OptionsResolver);
    for include in includes {
        resolver.add(IncludeFileResolver::new(include.as_ref().to_owned()));
    }
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(protos).map_err(|error| Error::Proto(report::text(&error, includes)))?;
    Ok(compiler)
}

struct OptionsResolver;

impl FileResolver for OptionsResolver {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == OPTIONS_PROTO_NAME {
            File::from_source(name, OPTIONS_PROTO)
        } else {
            Err(protox::Error::file_not_found(name))
        }
    }
}

/// Builds a `FileDescriptorSet` from the pool's own bytes.
/// With prost's types the options would be lost.
fn encode_descriptor(pool: &DescriptorPool, own: &[String]) -> Vec<u8> {
    let mut set = Vec::new();
    for file in pool.files() {
        let bytes = if own.iter().any(|name| name == file.name()) {
            file.encode_to_vec()
        } else {
            let mut bytes = without_source_info(&file);
            lockstep_contract::mark_import(&mut bytes);
            bytes
        };
        // Field 1, length-delimited.
        prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut set);
        prost::encoding::encode_varint(bytes.len() as u64, &mut set);
        set.extend_from_slice(&bytes);
    }
    set
}

fn without_source_info(file: &FileDescriptor) -> Vec<u8> {
    use prost_reflect::{DynamicMessage, ReflectMessage};
    let descriptor = prost_types::FileDescriptorProto::default().descriptor();
    let mut message =
        DynamicMessage::decode(descriptor, file.encode_to_vec().as_slice()).expect("the pool encodes what it decoded");
    message.clear_field_by_name("source_code_info");
    prost::Message::encode_to_vec(&message)
}

fn generate_rust(pool: &DescriptorPool, own: &[String], descriptor_len: usize) -> Result<String, Error> {
    let kinds = rules::method_kinds(pool, own)?;
    let files = requests::files(pool);
    clashes::check_rest(pool)?;
    let scopes = clashes::Scopes::of(&files, own)?;
    let traits = codegen::Traits { kinds, names: scopes.rust.clone() };
    let mut modules: BTreeMap<Vec<String>, String> = codegen::prost_config(traits, &files)
        .generate(requests::all(pool, own))
        .map_err(Error::Generate)?
        .into_iter()
        .map(|(module, source)| (module.parts().map(str::to_owned).collect(), source))
        .collect();
    for file in &files {
        let source = modules.entry(names::package(file.package_name())).or_default();
        source.push_str(&codegen::message_values(file));
    }
    let own_files = files.iter().filter(|file| own.iter().any(|name| name == file.name()));
    let own_modules: BTreeSet<_> = own_files.map(|file| names::package(file.package_name())).collect();
    let at_root = codegen::names_at_root(&scopes, &own_modules);
    Ok(codegen::assemble(modules, &at_root, descriptor_len))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod refusals;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
