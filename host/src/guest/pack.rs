//! Puts a protobuf descriptor and a version into an encoded component whose compiler left none.
//! Changes nothing else in the component, and does not check whether a node would accept the
//! result.

use bytes::Bytes;
use wasmparser::{BinaryReader, Parser};

use super::load::{DESCRIPTOR_SECTION, VERSION_SECTION, checked_version, damaged, inspect};
use super::load_error::LoadError;

/// Size of magic number and version.
const HEADER_BYTES: usize = 8;
/// Id of a custom section, in modules and components alike.
const CUSTOM: u8 = 0;

/// Why a descriptor or a version was not put into a component.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The bytes cannot be read as a component.
    #[error(transparent)]
    Component(#[from] LoadError),
    /// The toolchain left a descriptor inside the component's module, which cannot be removed.
    #[error(
        "it already carries a descriptor inside its module, as the guest SDK's build leaves it: change the .proto and build again; packing is for \
         guests whose compiler adds none"
    )]
    HasDescriptor,
    /// The toolchain left a version inside the component's module, which cannot be removed.
    #[error(
        "it already declares a version inside its module, as lockstep_guest::version! leaves it: change that one and build again; packing is for \
         guests whose compiler adds none"
    )]
    HasVersion,
}

/// Returns the component with this descriptor set as a custom section at its top level. It replaces
/// one that an earlier call put there.
pub fn with_descriptor(encoded: &[u8], descriptor: &[u8]) -> Result<Bytes, PackError> {
    let bare = bare_of(encoded, DESCRIPTOR_SECTION)?;
    if inspect(&bare)?.descriptor.is_some() {
        return Err(PackError::HasDescriptor);
    }
    Ok(with_section(bare, DESCRIPTOR_SECTION, descriptor))
}

/// Returns the component with this version as a custom section at its top level. It replaces one
/// that an earlier call put there.
pub fn with_version(encoded: &[u8], version: &str) -> Result<Bytes, PackError> {
    checked_version(version.as_bytes())?;
    let bare = bare_of(encoded, VERSION_SECTION)?;
    if !inspect(&bare)?.versions.is_empty() {
        return Err(PackError::HasVersion);
    }
    Ok(with_section(bare, VERSION_SECTION, version.as_bytes()))
}

/// Returns the component without the section that an earlier call added.
fn bare_of(encoded: &[u8], name: &str) -> Result<Vec<u8>, LoadError> {
    if !Parser::is_component(encoded) {
        return Err(LoadError::Encode("it was not encoded yet".to_owned()));
    }
    without_section(encoded, name).map_err(damaged)
}

/// Appends a custom section at the top level.
fn with_section(mut component: Vec<u8>, name: &str, data: &[u8]) -> Bytes {
    let mut body = length(name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    component.push(CUSTOM);
    component.extend(length(body.len()));
    component.extend(body);
    component.into()
}

/// Returns all sections of the top level except custom sections with this name.
fn without_section(encoded: &[u8], name: &str) -> wasmparser::Result<Vec<u8>> {
    let mut kept = encoded[..HEADER_BYTES].to_vec();
    let mut reader = BinaryReader::new(&encoded[HEADER_BYTES..], HEADER_BYTES);
    while !reader.eof() {
        let start = reader.original_position();
        let id = reader.read_u8()?;
        let bytes = reader.read_var_u32()? as usize;
        let body = reader.read_bytes(bytes)?;
        let is_unwanted = id == CUSTOM && BinaryReader::new(body, start).read_string()? == name;
        if !is_unwanted {
            kept.extend_from_slice(&encoded[start..reader.original_position()]);
        }
    }
    Ok(kept)
}

/// Encodes a length in LEB128, as WebAssembly does.
fn length(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn descriptor(component: &[u8]) -> Option<Vec<u8>> {
        inspect(component).unwrap().descriptor
    }

    #[test]
    fn a_descriptor_is_added_and_replaced() {
        let bare = wat::parse_str("(component (core module))").unwrap();
        assert_eq!(descriptor(&bare), None);
        let long = vec![7; 300];
        let packed = with_descriptor(&bare, &long).unwrap();
        assert_eq!(descriptor(&packed), Some(long));
        let again = with_descriptor(&packed, b"short").unwrap();
        assert_eq!(descriptor(&again), Some(b"short".to_vec()));
        assert_eq!(without_section(&again, DESCRIPTOR_SECTION).unwrap(), bare);
    }

    #[test]
    fn one_that_the_compiler_left_inside_stays() {
        let built = wat::parse_str(r#"(component (core module (@custom "lockstep.descriptor" "x")))"#).unwrap();
        assert!(matches!(with_descriptor(&built, b"y"), Err(PackError::HasDescriptor)));
    }

    #[test]
    fn a_version_is_added_and_replaced_beside_the_descriptor() {
        let version = |component: &[u8]| inspect(component).unwrap().version().map(str::to_owned).unwrap();
        let bare = wat::parse_str("(component (core module))").unwrap();
        assert_eq!(version(&bare), "");
        let packed = with_version(&with_descriptor(&bare, b"a descriptor").unwrap(), "1").unwrap();
        let again = with_version(&packed, "2.0 rc").unwrap();
        assert_eq!((version(&packed), version(&again)), ("1".to_owned(), "2.0 rc".to_owned()));
        assert_eq!(descriptor(&again), Some(b"a descriptor".to_vec()));
        for bad in ["zwölf", "1\n", &"1".repeat(65)] {
            assert!(matches!(with_version(&bare, bad), Err(PackError::Component(LoadError::Version(_)))), "{bad}");
        }
    }

    #[test]
    fn what_the_compiler_declared_inside_stays() {
        let built = wat::parse_str(r#"(component (core module (@custom "lockstep.version" "1")))"#).unwrap();
        assert!(matches!(with_version(&built, "1"), Err(PackError::HasVersion)));
    }

    #[test]
    fn what_is_no_component_is_not_packed() {
        let module = wat::parse_str("(module)").unwrap();
        assert!(matches!(with_descriptor(&module, b"y"), Err(PackError::Component(LoadError::Encode(_)))));
        let bare = wat::parse_str("(component (core module))").unwrap();
        let cut = &bare[..bare.len() - 1];
        assert!(matches!(with_descriptor(cut, b"y"), Err(PackError::Component(LoadError::Damaged(_)))));
    }
}
