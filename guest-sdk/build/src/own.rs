//! Knows which files are the guest's own. Their services are the guest's API; the services of files
//! that are only imported are not. The descriptor set marks imported files, so that the host knows
//! them, too. This file does not look into the files.

use prost::encoding::{self, WireType};
use protox::Compiler;

/// Field of a `FileDescriptorProto` with more facts about the file, as in the images of Buf. The
/// host's `api/descriptor.rs` reads it.
const MORE: u32 = 8042;
/// Field within [`MORE`]: whether the file is only imported.
const IS_IMPORT: u32 = 1;

/// Returns the names of the files that were given, without imports.
pub(crate) fn files(compiler: &Compiler) -> Vec<String> {
    compiler.files().filter(|file| !file.is_import()).map(|file| file.name().to_owned()).collect()
}

/// Marks an encoded file as only imported. A reader that does not know the field skips it.
pub(crate) fn mark_import(file: &mut Vec<u8>) {
    let mut more = Vec::new();
    encoding::bool::encode(IS_IMPORT, &true, &mut more);
    encoding::encode_key(MORE, WireType::LengthDelimited, file);
    encoding::encode_varint(more.len() as u64, file);
    file.extend(more);
}
