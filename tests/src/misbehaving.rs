//! Builds the guest that breaks the rules from its text: a module with its types and its
//! descriptor, like one from a compiler.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use wit_component::StringEncoding;
use wit_parser::Resolve;

const TEXT: &str = include_str!("../guests/misbehaving/misbehaving.wat");
const CONTRACT: &str = include_str!("../../wit/machine.wit");
const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/misbehaving.bin"));

/// Elements of the segment that the guest copies into its table again and again. It is large, so
/// that the cost of the operator itself does not matter.
const ELEMENTS: usize = 10_000;

/// Elements of that segment in [`lean_misbehaving_wasm`].
const ELEMENTS_LEAN: usize = 10;

/// Writes the guest into a directory and returns its path.
pub fn misbehaving_wasm(place: &Path) -> Result<PathBuf> {
    written(place, TEXT, ELEMENTS)
}

/// Writes the guest with a small segment. The engine makes such a segment anew for each instance.
/// With the large one that takes a millisecond, and compilers make no such segments.
pub fn lean_misbehaving_wasm(place: &Path) -> Result<PathBuf> {
    written(place, TEXT, ELEMENTS_LEAN)
}

/// Writes the guest as a compiler would build it that puts the stack above the data.
/// Its snapshot is only declared.
pub fn unfinished_wasm(place: &Path) -> Result<PathBuf> {
    let stack = "(func (global.set $next (i32.sub (global.get $next) (i32.const 16))))";
    let text = TEXT.trim_end().strip_suffix(')').context("the text ends with its module")?;
    let snapshot = "(call $write_snapshot))";
    ensure!(text.contains(snapshot), "the guest's snapshot ends otherwise than {snapshot}");
    let text = format!("{} {stack})", text.replace(snapshot, "unreachable)"));
    written(place, &text, ELEMENTS)
}

fn written(place: &Path, text: &str, elements: usize) -> Result<PathBuf> {
    let list = "$ok ".repeat(elements);
    let text = text.replace("ELEMENT_LIST", &list).replace("ELEMENTS", &elements.to_string());
    let descriptor: String = DESCRIPTOR.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let section = format!("(@custom \"lockstep.descriptor\" \"{descriptor}\"))");
    let text = format!("{}{section}", text.trim_end().strip_suffix(')').context("the text ends with its module")?);
    let mut module = wat::parse_str(text)?;
    let mut resolve = Resolve::default();
    let package = resolve.push_str("machine.wit", CONTRACT)?;
    let world = resolve.select_world(&[package], Some("watching-guest"))?;
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    let path = place.join("misbehaving.wasm");
    std::fs::write(&path, module)?;
    Ok(path)
}
