//! Which files are the guest's own. Their services are its API. The services of files that are only
//! imported belong to others. It knows nothing of what is in a file.

use protox::Compiler;

/// Returns the names of the files that were given, without imports.
pub(crate) fn files(compiler: &Compiler) -> Vec<String> {
    compiler.files().filter(|file| !file.is_import()).map(|file| file.name().to_owned()).collect()
}
