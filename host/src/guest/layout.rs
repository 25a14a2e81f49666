//! Finds where a guest's stack lies in its memory, by reading its modules as compilers produce
//! them. This module runs nothing and refuses nothing: it reports a layout that hides an overflow
//! to the author.

use std::collections::BTreeSet;

use wasmparser::{ConstExpr, DataKind, FunctionBody, Operator, Parser, Payload, ValType};

use super::load::damaged;
use super::load_error::LoadError;

/// Alignment of the start of a stack.
const STACK_ALIGN: u64 = 16;

/// A stack that grows down into the program's own data. An overflow overwrites statics without an
/// error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HiddenStack {
    /// Address at which the stack begins.
    pub top: u64,
    /// Address at which the data below it begins.
    pub data: u64,
}

/// The relevant parts of one core module.
#[derive(Default)]
struct Module {
    has_memory: bool,
    globals_imported: u32,
    /// For each global of the module's own: its initial address, if it may be a stack pointer (a
    /// mutable `i32`).
    globals: Vec<Option<u64>>,
    /// The lowest address to which data is loaded.
    data: Option<u64>,
    /// Globals from which functions subtract on entry to make room for a frame: stack pointers,
    /// whatever their names.
    lowered: BTreeSet<u32>,
}

/// Finds the first module, in a module or a component, whose stack layout hides an overflow.
pub fn hidden_stack(wasm: &[u8]) -> Result<Option<HiddenStack>, LoadError> {
    let mut open: Vec<Module> = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(damaged)? {
            Payload::Version { .. } => open.push(Module::default()),
            Payload::End(_) => {
                if let Some(found) = open.pop().and_then(|module| module.hidden_stack()) {
                    return Ok(Some(found));
                }
            }
            payload => {
                if let Some(module) = open.last_mut() {
                    module.take(payload).map_err(damaged)?;
                }
            }
        }
    }
    Ok(None)
}

impl Module {
    fn take(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    self.globals_imported += u32::from(matches!(import?.ty, wasmparser::TypeRef::Global(_)));
                }
            }
            Payload::MemorySection(memories) => self.has_memory = memories.count() > 0,
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let global = global?;
                    let is_address = global.ty.mutable && global.ty.content_type == ValType::I32;
                    self.globals.push(constant(&global.init_expr)?.filter(|_| is_address));
                }
            }
            Payload::DataSection(data) => {
                for data in data {
                    if let DataKind::Active { memory_index: 0, offset_expr } = data?.kind
                        && let Some(at) = constant(&offset_expr)?
                    {
                        self.data = Some(self.data.map_or(at, |least| least.min(at)));
                    }
                }
            }
            Payload::CodeSectionEntry(body) => self.find_lowered(&body)?,
            _ => {}
        }
        Ok(())
    }

    /// Finds `global.get`, `i32.const`, `i32.sub`: compiled functions make room for their frame
    /// with them.
    fn find_lowered(&mut self, body: &FunctionBody<'_>) -> wasmparser::Result<()> {
        let (mut before, mut last) = (None, None);
        for operator in body.get_operators_reader()? {
            let operator = operator?;
            if let (Some(Operator::GlobalGet { global_index }), Some(Operator::I32Const { .. }), Operator::I32Sub) =
                (&before, &last, &operator)
            {
                self.lowered.insert(*global_index);
            }
            (before, last) = (last, Some(operator));
        }
        Ok(())
    }

    fn hidden_stack(&self) -> Option<HiddenStack> {
        let data = self.data.filter(|_| self.has_memory)?;
        let own = self.lowered.iter().filter_map(|global| global.checked_sub(self.globals_imported));
        let tops = own.filter_map(|own| *self.globals.get(own as usize)?);
        let top = tops.filter(|top| top.is_multiple_of(STACK_ALIGN)).find(|top| data < *top)?;
        Some(HiddenStack { top, data })
    }
}

/// Returns the value of `i32.const`.
fn constant(expression: &ConstExpr<'_>) -> wasmparser::Result<Option<u64>> {
    Ok(match expression.get_operators_reader().read()? {
        Operator::I32Const { value } => Some(u64::from(value as u32)),
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<HiddenStack> {
        hidden_stack(&wat::parse_str(text).unwrap()).unwrap()
    }

    /// The layout that clang and its linker produce without `--stack-first`.
    const HIDDEN: &str = r#"(memory 2) (global $stack (mut i32) (i32.const 66576)) (data (i32.const 1024) "statics")
        (func (local i32) (local.set 0 (i32.sub (global.get $stack) (i32.const 32))) (global.set $stack (local.get 0)))"#;

    #[test]
    fn a_stack_above_the_data_is_found_wherever_its_module_lies() {
        let expected = Some(HiddenStack { top: 66576, data: 1024 });
        assert_eq!(found(&format!("(module {HIDDEN})")), expected);
        assert_eq!(found(&format!("(component (core module (memory 1)) (core module {HIDDEN}))")), expected);
        let second = HIDDEN.replace("(global $stack", "(global (mut i32) (i32.const 0)) (global $stack");
        assert_eq!(found(&format!("(module (import \"a\" \"b\" (global i32)) {second})")), expected);
    }

    #[test]
    fn other_layouts_are_left_alone() {
        let first = HIDDEN.replace("66576", "65536").replace("1024", "65536");
        let without_data = HIDDEN.replace("(data (i32.const 1024) \"statics\")", "");
        let of_another = HIDDEN.replace("(memory 2)", "(import \"a\" \"b\" (memory 2))");
        // A heap that grows up.
        let heap = HIDDEN.replace("i32.sub", "i32.add");
        for text in [&first, &without_data, &of_another, &heap, "", "(memory 1)"] {
            assert_eq!(found(&format!("(module {text})")), None, "{text}");
        }
    }
}
