//! Build scripts of guests call this: it turns a `.proto` into one Rust file that
//! `lockstep_guest::include_proto!()` takes in. No `protoc` is run.
//!
//! ```no_run
//! // build.rs
//! lockstep_guest_build::compile("proto/app.proto");
//! ```
//!
//! - [`rules`] decides what each method is: command, query or watch. It refuses what cannot be served.
//! - `report` says where in a `.proto` something is wrong.
//! - `codegen` writes the service traits with their dispatch tables.
//! - This file compiles, drives both, and writes `lockstep.rs` and `lockstep.bin` to `OUT_DIR`.
//!
//! It never decides at run time and knows nothing of the host.

mod codegen;
mod report;
pub mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost_build::Module;
use prost_reflect::{DescriptorPool, FileDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

pub use report::Place;
pub use rules::Kind;

/// Name under which a `.proto` imports the method options.
pub const OPTIONS_PROTO_NAME: &str = "lockstep/options.proto";

/// Text of `lockstep/options.proto`, which declares the option `(lockstep.method)`.
pub const OPTIONS_PROTO: &str = include_str!("../proto/lockstep/options.proto");

/// Stack of a guest. The linker's default of 1 MiB would have to be mapped for every fresh instance,
/// which is every log entry.
const GUEST_STACK_BYTES: u32 = 64 * 1024;

/// Why a `.proto` could not be turned into a guest's code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The `.proto` files do not compile: lines `file:line:column: …`, then hints.
    #[error("{0}")]
    Proto(String),
    /// A file that was asked for is not there.
    #[error("there is no file {}", report::absolute(.0))]
    NoFile(PathBuf),
    /// A method asks for something that no replicated machine can serve.
    #[error("{}{method}: {problem}", .place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default())]
    Method {
        /// Where it stands, if the descriptor says so.
        place: Option<Place>,
        /// Full name, `package.Service/Method`.
        method: String,
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
        /// What the system said.
        source: io::Error,
    },
    /// Not called from a build script.
    #[error("OUT_DIR is not set: call this from build.rs")]
    NoOutDir,
}

/// What one compilation yields.
#[derive(Debug)]
pub struct Output {
    /// Rust source: messages, service traits, dispatch tables, descriptor section.
    pub rust: String,
    /// Encoded `FileDescriptorSet` with imports and custom options; comments of the given files only.
    pub descriptor: Vec<u8>,
    /// Files on disk that were read.
    pub sources: Vec<PathBuf>,
}

/// Compiles one `.proto` whose imports lie in its own directory, for `include_proto!()`.
///
/// On an error it prints what is wrong and ends the build script.
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

/// Compiles several `.proto` files for one `include_proto!()`, looking for imports in `includes`.
///
/// # Errors
/// When a file does not compile, a method cannot be served, or `OUT_DIR` cannot be written.
pub fn compile_protos(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<(), Error> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or(Error::NoOutDir)?);
    for proto in protos {
        // Also when compilation fails below: the fixed file must start the script again.
        println!("cargo:rerun-if-changed={}", proto.as_ref().display());
    }
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
/// When a file does not compile or a method cannot be served.
pub fn generate(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<Output, Error> {
    let compiler = compile_sources(protos, includes)?;
    let pool = compiler.descriptor_pool();
    let kinds = method_kinds(&pool, includes)?;
    let own = own_files(&compiler);
    let descriptor = encode_descriptor(&pool, &own);
    let rust = generate_rust(&pool, &own, kinds, descriptor.len())?;
    let sources = compiler.files().filter_map(|file| file.path().map(Path::to_owned)).collect();
    Ok(Output { rust, descriptor, sources })
}

/// The descriptor alone, for guests that are not written in Rust.
///
/// # Errors
/// When a file does not compile or a method cannot be served.
pub fn descriptor(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<Vec<u8>, Error> {
    let compiler = compile_sources(protos, includes)?;
    let pool = compiler.descriptor_pool();
    method_kinds(&pool, includes)?;
    Ok(encode_descriptor(&pool, &own_files(&compiler)))
}

fn method_kinds(pool: &DescriptorPool, includes: &[impl AsRef<Path>]) -> Result<BTreeMap<String, Kind>, Error> {
    rules::method_kinds(pool).map_err(|error| match error {
        Error::Method { place, method, problem } => {
            Error::Method { place: place.map(|place| place.on_disk(includes)), method, problem }
        }
        other => other,
    })
}

/// Names of the files that were given, imports left out.
fn own_files(compiler: &Compiler) -> Vec<String> {
    compiler.files().filter(|file| !file.is_import()).map(|file| file.name().to_owned()).collect()
}

fn compile_sources(protos: &[impl AsRef<Path>], includes: &[impl AsRef<Path>]) -> Result<Compiler, Error> {
    if let Some(missing) = protos.iter().map(AsRef::as_ref).find(|proto| !proto.exists()) {
        return Err(Error::NoFile(missing.to_owned()));
    }
    let mut resolver = ChainFileResolver::new();
    // First, so that a stray copy on disk cannot change what an option means.
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

/// A `FileDescriptorSet` put together from the pool's own bytes: prost's types would lose the options.
fn encode_descriptor(pool: &DescriptorPool, own: &[String]) -> Vec<u8> {
    let mut set = Vec::new();
    for file in pool.files() {
        let bytes =
            if own.iter().any(|name| name == file.name()) { file.encode_to_vec() } else { without_source_info(&file) };
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

fn generate_rust(
    pool: &DescriptorPool,
    own: &[String],
    kinds: BTreeMap<String, Kind>,
    descriptor_len: usize,
) -> Result<String, Error> {
    let all: Vec<FileDescriptor> = pool.files().filter(|file| file.name() != OPTIONS_PROTO_NAME).collect();
    // prost asks its own types, too, what they can be derived of.
    let requests = all
        .iter()
        .map(|file| {
            let module = Module::from_protobuf_package_name(file.package_name());
            (module, file.file_descriptor_proto().clone())
        })
        .collect();
    let files: Vec<FileDescriptor> = all.into_iter().filter(|file| file.package_name() != "google.protobuf").collect();
    let mut modules = codegen::prost_config(kinds, &files).generate(requests).map_err(Error::Generate)?;
    let mut own_modules: Vec<Module> = Vec::new();
    for file in &files {
        let module = Module::from_protobuf_package_name(file.package_name());
        let source = modules.entry(module.clone()).or_default();
        source.push_str(&codegen::message_values(file));
        if own.iter().any(|name| name == file.name()) && !own_modules.contains(&module) {
            own_modules.push(module);
        }
    }
    Ok(codegen::assemble(modules.into_iter().collect(), &own_modules, descriptor_len))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
