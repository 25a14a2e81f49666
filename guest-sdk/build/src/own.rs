//! Which files are the guest's own. Their services are its API; the services of files that are only imported are somebody else's. The
//! descriptor set says it of each file: the host knows it from there. Knows nothing of what is in a file.

use prost::encoding::{self, WireType};
use protox::Compiler;

/// Field of a `FileDescriptorProto` that says more about the file, as the images of Buf have it. The host's `api/descriptor.rs` reads it.
const MORE: u32 = 8042;
/// In there: whether the file is only imported.
const IS_IMPORT: u32 = 1;

/// Names of the files that were given, imports left out.
pub(crate) fn files(compiler: &Compiler) -> Vec<String> {
    compiler.files().filter(|file| !file.is_import()).map(|file| file.name().to_owned()).collect()
}

/// Says of an encoded file that it is only imported. What does not know the field skips it.
pub(crate) fn mark_import(file: &mut Vec<u8>) {
    let mut more = Vec::new();
    encoding::bool::encode(IS_IMPORT, &true, &mut more);
    encoding::encode_key(MORE, WireType::LengthDelimited, file);
    encoding::encode_varint(more.len() as u64, file);
    file.extend(more);
}
