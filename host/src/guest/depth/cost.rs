//! What a function's frame costs, in bytes of the profile's stack. The cost follows from the
//! module's bytes alone: parameters, locals, the most operands that the function has at a time, and
//! the number of its operators. No compiler has a say in it, so it differs from what a machine
//! uses; the native stack is much larger. The numbers here are replicated semantics: changing one
//! changes outcomes.
//!
//! - A compiler may keep the result of an operator in the frame although the guest's code computes
//!   it anew, before a call and behind it. Such values are no locals and no operands. There are at
//!   most as many of them as the function has operators, so each operator costs a byte: at most 16
//!   native bytes for each metered one.

use std::collections::{BTreeMap, BTreeSet};

use wasmparser::{
    FuncToValidate, FuncValidator, FuncValidatorAllocations, FunctionBody, Operator, OperatorsReader, Parser, Result,
    ValType, ValidPayload, Validator, ValidatorResources, WasmModuleResources,
};

use super::sizes::{Payments, Size};
use crate::guest::features::PARSED_FEATURES;

/// Version of what this directory makes of a component. Whoever changes it raises the number, or
/// nodes would go on with compiled code that they kept from before.
pub(in crate::guest) const METERING: u32 = 2;

/// Bytes of every frame: return address, saved registers, and what a compiler keeps for itself.
const FRAME_BYTES: u64 = 64;
/// Bytes of a value; a vector has two of these.
const WORD_BYTES: u64 = 8;
/// Bytes for each operator, whose result a compiler may keep.
const OPERATOR_BYTES: u64 = 1;
/// Most bytes of the frame of a function that calls none and is not metered, without those for its
/// operators. Only the last frame can be such a one, and the native stack has room for it, and for
/// the small frame of what it calls to pay for a size. The small functions that run most often cost
/// nothing more in this way.
const LEAF_BYTES_MAX: u64 = 1024;
/// Most operators of such a function. Their results have at most 16 bytes each, half of the spare
/// part of the native stack.
const LEAF_OPERATORS_MAX: u64 = 8192;

/// What metering needs to know of a function.
pub(super) struct Function {
    /// Its index in its module, behind the imported ones.
    pub(super) index: u32,
    /// Bytes of its frame.
    pub(super) cost: u32,
    /// Whether it may be a frame of a recursion, or a large one.
    pub(super) is_metered: bool,
    /// Types of its results.
    pub(super) results: Vec<ValType>,
    /// Whether it has operators that pay for their size.
    pub(super) pays: bool,
    /// The sizes that are paid for in a call.
    pub(super) sizes: BTreeSet<Size>,
}

/// All functions of a component's modules, by the positions of their bodies in the file.
pub(super) type Functions = BTreeMap<usize, Function>;

/// Validates a component as the engine does for the features of guests, and measures its functions.
pub(super) fn functions(encoded: &[u8]) -> Result<Functions> {
    let mut validator = Validator::new_with_features(PARSED_FEATURES);
    let mut parser = Parser::new(0);
    parser.set_features(PARSED_FEATURES);
    let mut allocations = FuncValidatorAllocations::default();
    let mut functions = Functions::new();
    for payload in parser.parse_all(encoded) {
        if let ValidPayload::Func(function, body) = validator.payload(&payload?)? {
            let (measured, returned) = measure(function, &body, allocations)?;
            allocations = returned;
            functions.insert(body.range().start, measured);
        }
    }
    Ok(functions)
}

fn measure(
    function: FuncToValidate<ValidatorResources>,
    body: &FunctionBody<'_>,
    allocations: FuncValidatorAllocations,
) -> Result<(Function, FuncValidatorAllocations)> {
    let index = function.index;
    let signature = function.resources.sub_type_at(function.ty).expect("the validator has found it").unwrap_func();
    let (params, results) = (signature.params().to_vec(), signature.results().to_vec());
    let mut words: u64 = params.iter().map(words_of).sum();
    for locals in body.get_locals_reader()? {
        let (count, of) = locals?;
        words = words.saturating_add(u64::from(count) * words_of(&of));
    }
    let mut validator = function.into_validator(allocations);
    let mut reader = body.get_binary_reader();
    reader.set_features(PARSED_FEATURES);
    validator.read_locals(&mut reader)?;
    let mut operators = OperatorsReader::new(reader);
    let (mut operands, mut count, mut calls) = (Operands::default(), 0_u64, false);
    let (mut payments, mut pays, mut sizes) = (Payments::default(), false, BTreeSet::new());
    while !operators.eof() {
        let (operator, position) = operators.read_with_offset()?;
        let pushed = operator.operator_arity(&validator).map_or(0, |(_, pushed)| pushed);
        validator.op(position, &operator)?;
        calls |= matches!(operator, Operator::Call { .. } | Operator::CallIndirect { .. });
        if let Some(payment) = payments.before(&operator) {
            pays = true;
            sizes.extend(payment.size());
        }
        operands.follow(&validator, pushed);
        count += 1;
    }
    operators.finish()?;
    let declared = FRAME_BYTES.saturating_add(WORD_BYTES.saturating_mul(words.saturating_add(operands.highest)));
    let is_metered = calls || declared > LEAF_BYTES_MAX || count > LEAF_OPERATORS_MAX;
    let cost = declared.saturating_add(OPERATOR_BYTES.saturating_mul(count));
    let cost = u32::try_from(cost).unwrap_or(u32::MAX);
    Ok((Function { index, cost, is_metered, results, pays, sizes }, validator.into_allocations()))
}

/// The operands of a function while its code is read. What lies on the stack in code that is never
/// reached is a matter of the validator's, and is not counted.
#[derive(Default)]
struct Operands {
    /// For each operand: the words of it and of all below it.
    words: Vec<u64>,
    /// The most words at a time.
    highest: u64,
    /// How deep the control frame lies from which on the code is never reached.
    never_reached: Option<u32>,
}

impl Operands {
    /// Follows an operator that was just validated and pushed so many operands.
    fn follow(&mut self, validator: &FuncValidator<ValidatorResources>, pushed: u32) {
        let frames = validator.control_stack_height();
        if self.never_reached.is_none_or(|within| frames <= within) {
            let is_unreachable = validator.get_control_frame(0).is_some_and(|frame| frame.unreachable);
            self.never_reached = is_unreachable.then_some(frames);
        }
        if self.never_reached.is_some() {
            return;
        }
        let height = validator.operand_stack_height() as usize;
        self.words.truncate(height.saturating_sub(pushed as usize));
        while self.words.len() < height {
            let of = validator.get_operand_type(height - 1 - self.words.len()).flatten();
            let below = self.words.last().copied().unwrap_or(0);
            self.words.push(below + of.as_ref().map_or(1, words_of));
        }
        self.highest = self.highest.max(self.words.last().copied().unwrap_or(0));
    }
}

fn words_of(of: &ValType) -> u64 {
    if *of == ValType::V128 { 2 } else { 1 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Returns cost and whether it is metered, of the functions of a module in text.
    fn measured(module: &str) -> Vec<(u32, bool)> {
        let functions = functions(&wat::parse_str(module).unwrap()).unwrap();
        functions.into_values().map(|function| (function.cost, function.is_metered)).collect()
    }

    #[test]
    fn a_frame_costs_what_the_function_declares() {
        let rows = [
            ("(module (func))", (65, false)),
            ("(module (func (param i32 i64) (local f32)))", (89, false)),
            ("(module (func (param v128) (local v128 i32)))", (105, false)),
            ("(module (func (drop (i32.add (i32.const 1) (i32.const 2)))))", (85, false)),
            ("(module (func (result i32 i32 i32) (i32.const 1) (i32.const 2) (i32.const 3)))", (92, false)),
            // A vector takes two words, as an operand and as a result.
            ("(module (func (drop (i32x4.extract_lane 0 (i32x4.splat (i32.const 1))))))", (85, false)),
            ("(module (func (result v128) (v128.const i64x2 0 0)))", (82, false)),
            ("(module (func $f (result v128 i32) (call $f)))", (90, true)),
            // Operands in code that is never reached cost nothing, nor in blocks there.
            ("(module (func unreachable i32.const 1 i32.const 2 drop drop))", (70, false)),
            ("(module (func unreachable (block (drop (i32.const 1)))))", (70, false)),
            ("(module (func (block (br 0)) (drop (i32.const 1))))", (78, false)),
            ("(module (func (param i32) (if (local.get 0) (then (br 0)) (else (drop (i32.const 1))))))", (88, false)),
            ("(module (func $f (call $f)))", (66, true)),
            ("(module (type $t (func)) (table 1 funcref) (func (call_indirect (type $t) (i32.const 0))))", (75, true)),
        ];
        for (module, wanted) in rows {
            assert_eq!(measured(module), [wanted], "{module}");
        }
    }

    #[test]
    fn a_large_frame_is_metered_without_a_call() {
        let of = |locals: usize| measured(&format!("(module (func (local {})))", "i64 ".repeat(locals)));
        assert_eq!((of(120), of(121)), (vec![(1025, false)], vec![(1033, true)]));
        // What the operators cost does not make it large, unless there are very many.
        let of = |operators: usize| measured(&format!("(module (func {}))", "nop ".repeat(operators - 1)));
        assert_eq!((of(8192), of(8193)), (vec![(8256, false)], vec![(8257, true)]));
    }

    #[test]
    fn what_guests_may_not_use_is_an_error() {
        for module in ["(module (func $tail (return_call $tail)))", "(module (memory i64 1))", "(module (tag))"] {
            assert!(functions(&wat::parse_str(module).unwrap()).is_err(), "{module}");
        }
    }
}
