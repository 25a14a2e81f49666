//! Writes a module anew, so that its functions meter their depth and pay for sizes. A global is
//! added behind the others, functions behind the others, and types behind the others: no index
//! changes. A metered function becomes
//!
//! ```text
//! if left < cost { call the function that traps }    left -= cost
//! block { its own code, in which a `return` is a branch to the end of this block }
//! left += cost
//! ```
//!
//! A branch to the function's own label needs no change, since the block's label takes its place.
//! In front of an operator that pays for its size stands the payment (`sizes`), in functions that
//! are not metered, too. The functions for payments are added only where they are called, and the
//! one that traps is behind them. The added functions have names, in a section behind the others.
//! Sections that hold positions in the code, such as debug information, are left out: they would
//! lie.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use wasmparser::{
    BinaryReader, CodeSectionReader, FunctionBody, ImportSectionReader, Operator, OperatorsReader, RefType, TypeRef,
    ValType,
};

use super::code;
use super::cost::{Function, Functions};
use super::sections::{Section, put_bytes, put_section, put_signed, put_u32, rest, split};
use super::sizes::{Payments, Size};

/// Numbers of the sections of a component that hold others.
const COMPONENT_MODULE: u8 = 1;
const COMPONENT_COMPONENT: u8 = 4;

/// Numbers of the sections of a module.
const CUSTOM: u8 = 0;
const TYPE: u8 = 1;
const IMPORT: u8 = 2;
const FUNCTION: u8 = 3;
const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;
const DATA_COUNT: u8 = 12;
const CODE: u8 = 10;

/// Prefixes of the names of custom sections that hold positions in the code.
const POSITIONS: [&str; 2] = [".debug_", "metadata.code."];

/// Name of the function that traps.
pub(super) const USED_UP: &str = "lockstep-stack-used-up";
/// Name of the custom section of names, and the number of the part with those of functions.
const NAMES: &str = "name";
const NAMES_OF_FUNCTIONS: u8 = 1;

/// The functions that were measured, and what is metered.
pub(super) struct Metering<'a> {
    pub(super) functions: &'a Functions,
    /// The bytes that their frames have together.
    pub(super) stack_bytes: u32,
    /// Whether operators pay for their size.
    pub(super) charges_sizes: bool,
}

impl Metering<'_> {
    /// Writes a component with all modules in it.
    pub(super) fn component(&self, file: BinaryReader<'_>) -> Result<Vec<u8>, String> {
        let file = split(file).map_err(words)?;
        let mut out = file.header.to_vec();
        for section in &file.sections {
            match section.id {
                COMPONENT_MODULE => put_section(&mut out, section.id, &self.module(section.body.clone())?)?,
                COMPONENT_COMPONENT => put_section(&mut out, section.id, &self.component(section.body.clone())?)?,
                _ => put_section(&mut out, section.id, section.bytes().map_err(words)?)?,
            }
        }
        Ok(out)
    }

    /// Writes a module. One without functions stays as it is.
    fn module(&self, mut file: BinaryReader<'_>) -> Result<Vec<u8>, String> {
        let parts = split(file.clone()).map_err(words)?;
        let bodies = bodies(&parts.sections)?;
        if bodies.is_empty() {
            return rest(&mut file).map(<[u8]>::to_vec).map_err(words);
        }
        let additions = Additions::of(&parts.sections, &bodies, self)?;
        let mut out = parts.header.to_vec();
        let mut has_global = false;
        for section in &parts.sections {
            // A module may have no globals of its own.
            if !has_global && (EXPORT..=DATA_COUNT).contains(&section.id) {
                let mut global = vec![1];
                global.extend_from_slice(&additions.global);
                put_section(&mut out, GLOBAL, &global)?;
                has_global = true;
            }
            has_global |= section.id == GLOBAL;
            let body = match section.id {
                CUSTOM if holds_positions(section) => continue,
                TYPE => extended(section, additions.types_added, &additions.types)?,
                FUNCTION => extended(section, additions.functions_added(), &additions.function)?,
                GLOBAL => extended(section, 1, &additions.global)?,
                CODE => additions.code(&bodies)?,
                _ => section.bytes().map_err(words)?.to_vec(),
            };
            put_section(&mut out, section.id, &body)?;
        }
        // The guest's own names stay in a section of their own. Of two names of a function, the
        // engine takes the last.
        put_section(&mut out, CUSTOM, &additions.names()?)?;
        Ok(out)
    }
}

fn bodies<'a>(sections: &[Section<'a>]) -> Result<Vec<FunctionBody<'a>>, String> {
    let Some(section) = sections.iter().find(|section| section.id == CODE) else { return Ok(Vec::new()) };
    let reader = CodeSectionReader::new(section.body.clone()).map_err(words)?;
    reader.into_iter().collect::<wasmparser::Result<_>>().map_err(words)
}

/// What is added to a module, and the indexes that it gets.
struct Additions<'a> {
    functions: Vec<&'a Function>,
    /// Index of the global.
    left: u32,
    /// The sizes that have a function, in the order of these.
    sizes: Vec<Size>,
    /// Index of the first of these functions, or of the one that traps.
    first_added: u32,
    /// Whether operators pay for their size.
    charges_sizes: bool,
    /// Indexes of the types of blocks with several results, by these results.
    blocks: BTreeMap<Vec<u8>, u32>,
    /// The added types, encoded, and their number.
    types: Vec<u8>,
    types_added: u32,
    /// The added entries of the other sections, encoded.
    function: Vec<u8>,
    global: Vec<u8>,
}

impl<'a> Additions<'a> {
    fn of(
        sections: &[Section<'_>],
        bodies: &[FunctionBody<'_>],
        metering: &Metering<'a>,
    ) -> Result<Additions<'a>, String> {
        let measured = |body: &FunctionBody<'_>| {
            let position = body.range().start;
            metering.functions.get(&position).ok_or_else(|| format!("the function at {position} was not measured"))
        };
        let functions: Vec<&Function> = bodies.iter().map(measured).collect::<Result<_, _>>()?;
        let first_added = functions.last().map_or(0, |last| last.index + 1);
        let nothing = count(sections, TYPE)?;
        let (mut types, mut types_added) = (vec![code::FUNCTION_TYPE, 0, 0], 1);
        let mut blocks = BTreeMap::new();
        for function in functions.iter().filter(|function| function.is_metered && function.results.len() > 1) {
            if let Entry::Vacant(vacant) = blocks.entry(encoded(&function.results)?) {
                types.extend_from_slice(&[code::FUNCTION_TYPE, 0]);
                put_u32(&mut types, function.results.len() as u32);
                types.extend_from_slice(vacant.key());
                vacant.insert(nothing + types_added);
                types_added += 1;
            }
        }
        let charges_sizes = metering.charges_sizes;
        let called = functions.iter().filter(|_| charges_sizes).flat_map(|function| function.sizes.iter().copied());
        let sizes: Vec<Size> = called.collect::<BTreeSet<_>>().into_iter().collect();
        let mut function = Vec::new();
        if !sizes.is_empty() {
            types.extend_from_slice(&[code::FUNCTION_TYPE, 1, code::I32, 1, code::I32]);
            sizes.iter().for_each(|_| put_u32(&mut function, nothing + types_added));
            types_added += 1;
        }
        put_u32(&mut function, nothing);
        let mut global = vec![code::I32, code::MUTABLE, code::I32_CONST];
        put_signed(&mut global, (metering.stack_bytes as i32).into());
        global.push(code::END);
        let left = imported_globals(sections)? + count(sections, GLOBAL)?;
        Ok(Additions {
            functions,
            left,
            sizes,
            first_added,
            charges_sizes,
            blocks,
            types,
            types_added,
            function,
            global,
        })
    }

    fn functions_added(&self) -> u32 {
        self.sizes.len() as u32 + 1
    }

    /// Returns the index of the function that traps.
    fn used_up(&self) -> u32 {
        self.first_added + self.sizes.len() as u32
    }

    /// Returns the index of the function for a size that is called.
    fn function_for(&self, size: Size) -> u32 {
        let place = self.sizes.binary_search(&size).expect("every size that is called has a function");
        self.first_added + place as u32
    }

    /// Writes a section with the names of the added functions.
    fn names(&self) -> Result<Vec<u8>, String> {
        let mut names = Vec::new();
        put_u32(&mut names, self.functions_added());
        let added = self.sizes.iter().map(|size| size.name()).chain([USED_UP]);
        for (index, name) in (self.first_added..).zip(added) {
            put_u32(&mut names, index);
            put_bytes(&mut names, name.as_bytes())?;
        }
        let mut out = Vec::new();
        put_bytes(&mut out, NAMES.as_bytes())?;
        put_section(&mut out, NAMES_OF_FUNCTIONS, &names)?;
        Ok(out)
    }

    /// Writes the section of the code.
    fn code(&self, bodies: &[FunctionBody<'_>]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        put_u32(&mut out, bodies.len() as u32 + self.functions_added());
        for (body, function) in bodies.iter().zip(&self.functions) {
            match function.is_metered || (self.charges_sizes && function.pays) {
                true => put_bytes(&mut out, &self.rewritten(body, function)?)?,
                false => put_bytes(&mut out, body.as_bytes())?,
            }
        }
        for size in &self.sizes {
            put_bytes(&mut out, &size.function())?;
        }
        // The function that traps: no locals.
        put_bytes(&mut out, &[0, code::UNREACHABLE, code::END])?;
        Ok(out)
    }

    /// Writes a function's locals and code.
    fn rewritten(&self, body: &FunctionBody<'_>, function: &Function) -> Result<Vec<u8>, String> {
        let operators = body.get_binary_reader_for_operators().map_err(words)?;
        let (locals, own) = body.as_bytes().split_at(operators.original_position() - body.range().start);
        let mut out = locals.to_vec();
        if !function.is_metered {
            self.put_operators(&mut out, own, operators, false).map_err(words)?;
            return Ok(out);
        }
        self.put_left_and(&mut out, function, code::I32_LT_U);
        out.extend_from_slice(&[code::IF, code::NO_RESULT, code::CALL]);
        put_u32(&mut out, self.used_up());
        out.push(code::END);
        self.put_left_and(&mut out, function, code::I32_SUB);
        self.put_left(&mut out, code::GLOBAL_SET);
        out.push(code::BLOCK);
        match function.results.as_slice() {
            [] => out.push(code::NO_RESULT),
            [one] => out.push(encoded_one(*one)?),
            several => {
                let of = self.blocks.get(&encoded(several)?).ok_or("the type of a block was not added")?;
                put_signed(&mut out, i64::from(*of));
            }
        }
        self.put_operators(&mut out, own, operators, true).map_err(words)?;
        self.put_left_and(&mut out, function, code::I32_ADD);
        self.put_left(&mut out, code::GLOBAL_SET);
        out.push(code::END);
        Ok(out)
    }

    /// Writes a function's operators up to its last `end`, and the payments between them. In a
    /// block, which that `end` ends, a `return` becomes a branch to the block.
    fn put_operators(
        &self,
        out: &mut Vec<u8>,
        own: &[u8],
        operators: BinaryReader<'_>,
        in_block: bool,
    ) -> wasmparser::Result<()> {
        let begin = operators.original_position();
        let mut operators = OperatorsReader::new(operators);
        let (mut copied, mut nested, mut payments) = (0, 0_u32, Payments::default());
        while !operators.eof() {
            let (operator, position) = operators.read_with_offset()?;
            match operator {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => nested += 1,
                Operator::End => nested = nested.saturating_sub(1),
                Operator::Return if in_block => {
                    out.extend_from_slice(&own[copied..position - begin]);
                    out.push(code::BR);
                    put_u32(out, nested);
                    copied = operators.original_position() - begin;
                }
                _ => {}
            }
            if let Some(payment) = payments.before(&operator).filter(|_| self.charges_sizes) {
                out.extend_from_slice(&own[copied..position - begin]);
                copied = position - begin;
                payment.put(out, |size| self.function_for(size));
            }
        }
        out.extend_from_slice(&own[copied..]);
        Ok(())
    }

    fn put_left(&self, out: &mut Vec<u8>, operator: u8) {
        out.push(operator);
        put_u32(out, self.left);
    }

    /// Writes an operator on what is left and the function's cost.
    fn put_left_and(&self, out: &mut Vec<u8>, function: &Function, operator: u8) {
        self.put_left(out, code::GLOBAL_GET);
        out.push(code::I32_CONST);
        put_signed(out, (function.cost as i32).into());
        out.push(operator);
    }
}

/// Returns a section of items with more items behind them.
fn extended(section: &Section<'_>, count: u32, items: &[u8]) -> Result<Vec<u8>, String> {
    let mut body = section.body.clone();
    let before = body.read_var_u32().map_err(words)?;
    let mut out = Vec::new();
    put_u32(&mut out, before.saturating_add(count));
    out.extend_from_slice(rest(&mut body).map_err(words)?);
    out.extend_from_slice(items);
    Ok(out)
}

/// Returns how many items the section of this number has; 0 if there is no such section.
fn count(sections: &[Section<'_>], id: u8) -> Result<u32, String> {
    let section = sections.iter().find(|section| section.id == id);
    section.map_or(Ok(0), |section| section.body.clone().read_var_u32().map_err(words))
}

fn imported_globals(sections: &[Section<'_>]) -> Result<u32, String> {
    let Some(section) = sections.iter().find(|section| section.id == IMPORT) else { return Ok(0) };
    let mut globals = 0;
    for import in ImportSectionReader::new(section.body.clone()).map_err(words)?.into_imports() {
        globals += u32::from(matches!(import.map_err(words)?.ty, TypeRef::Global(_)));
    }
    Ok(globals)
}

fn holds_positions(section: &Section<'_>) -> bool {
    let name = section.body.clone().read_string();
    name.is_ok_and(|name| POSITIONS.iter().any(|prefix| name.starts_with(prefix)))
}

fn encoded(types: &[ValType]) -> Result<Vec<u8>, String> {
    types.iter().map(|one| encoded_one(*one)).collect()
}

fn encoded_one(of: ValType) -> Result<u8, String> {
    match of {
        ValType::I32 => Ok(code::I32),
        ValType::I64 => Ok(0x7e),
        ValType::F32 => Ok(0x7d),
        ValType::F64 => Ok(0x7c),
        ValType::V128 => Ok(0x7b),
        ValType::Ref(RefType::FUNCREF) => Ok(0x70),
        ValType::Ref(RefType::EXTERNREF) => Ok(0x6f),
        other => Err(format!("a result of type {other:?}, which no guest may use")),
    }
}

fn words(error: wasmparser::BinaryReaderError) -> String {
    error.to_string()
}
