//! What operators pay for their size since semantics 6: those that work on a range of memory or of
//! a table, and those that make one grow. The guest's own code pays, with ordinary operators right
//! in front of such an operator, because versions of wasmtime differ in when they charge a price by
//! size. This file knows operators, and no module around them. Its numbers are replicated
//! semantics: changing one changes outcomes.
//!
//! - The price is a least one, and [`UNIT_FUEL`] more for each whole unit of 64 bytes. An element
//!   of a table counts as 8 bytes. A page counts as its 64 KiB, whether it is granted or not, up to
//!   [`PAGES_MAX`] of them.
//! - A function that is added to the module burns the price, and looks at the fuel at its end. So
//!   an operator that costs more than what is left does not begin. It is a leaf, and not metered.
//! - A size that is a small constant is paid for without a call, and nothing looks at the fuel, as
//!   with any other operators in a row. The price is the same.
//! - The engine charges nothing for these operators ([`OPERATORS`]).

use wasmparser::Operator;

use super::code;
use super::sections::{put_signed, put_u32};

/// The operators that pay for their size, by their names in the table of fuel.
pub(in crate::guest) const OPERATORS: [&str; 8] =
    ["MemoryCopy", "MemoryFill", "MemoryInit", "MemoryGrow", "TableCopy", "TableFill", "TableInit", "TableGrow"];

/// Fuel of an operator on a range, however small the range is.
const RANGE_FUEL: u32 = 32;
/// Fuel of an operator that makes something grow, however little it asks for.
const GROWTH_FUEL: u32 = 255;
/// Fuel of a unit of 64 bytes: what a turn of the loop costs.
const UNIT_FUEL: u32 = 8;

/// Bytes of a unit, as a power of two.
const UNIT_BYTES_LOG2: u32 = 6;
/// Elements of a table that are a unit, as a power of two.
const UNIT_ELEMENTS_LOG2: u32 = 3;
/// Units of a page of memory, as a power of two.
const PAGE_UNITS_LOG2: u32 = 16 - UNIT_BYTES_LOG2;
/// Most pages that are paid for: 256 MiB, as much as an operator may set as the limit of a memory.
/// Who asks for more is denied without work, and learns of it as long as a command has this fuel.
const PAGES_MAX: u32 = 1 << 12;
/// Most bytes of a constant size that is paid for without a call.
const CONSTANT_BYTES_MAX: u32 = 128;

/// Fuel that the added functions use beside what they burn: 2 for the call, 1 for every function,
/// 6 for the operators of each.
const OPERATORS_FUEL: u32 = 9;
/// Fuel of the further operators of the function that counts pages.
const PAGES_OPERATORS_FUEL: u32 = 5;
/// Fuel of a turn of the loop beside what it burns.
const TURN_OPERATORS_FUEL: u32 = 5;

/// What a size counts. Each has an added function of its own, in the modules that need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    /// Bytes of memory.
    Bytes,
    /// Pages by which a memory is to grow.
    Pages,
    /// Elements of a table.
    Elements,
    /// Elements by which a table is to grow.
    MoreElements,
}

/// How an operator pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payment {
    /// So much fuel, at the place.
    Constant(u32),
    /// In a call of the added function for this size, which takes the size and returns it.
    Call(Size),
}

/// Follows the operators of a function, one after the other.
#[derive(Debug, Default)]
pub(super) struct Payments {
    /// The constant that the operator before the next one has made.
    constant: Option<u32>,
}

impl Payments {
    /// Returns how the next operator pays, if it has a size. The size is its last operand.
    pub(super) fn before(&mut self, operator: &Operator<'_>) -> Option<Payment> {
        let constant = self.constant.take();
        match operator {
            Operator::I32Const { value } => {
                self.constant = Some(*value as u32);
                None
            }
            Operator::MemoryCopy { .. } | Operator::MemoryFill { .. } | Operator::MemoryInit { .. } => {
                let small = constant.filter(|bytes| *bytes <= CONSTANT_BYTES_MAX);
                let price = |bytes| RANGE_FUEL + (bytes >> UNIT_BYTES_LOG2) * UNIT_FUEL;
                Some(small.map_or(Payment::Call(Size::Bytes), |bytes| Payment::Constant(price(bytes))))
            }
            Operator::MemoryGrow { .. } => Some(Payment::Call(Size::Pages)),
            Operator::TableCopy { .. } | Operator::TableFill { .. } | Operator::TableInit { .. } => {
                Some(Payment::Call(Size::Elements))
            }
            Operator::TableGrow { .. } => Some(Payment::Call(Size::MoreElements)),
            _ => None,
        }
    }
}

impl Size {
    /// All sizes, in their order.
    pub(super) const ALL: [Size; 4] = [Size::Bytes, Size::Pages, Size::Elements, Size::MoreElements];

    /// Returns the name of its function.
    pub(super) fn name(self) -> &'static str {
        match self {
            Size::Bytes => "lockstep-price-of-bytes",
            Size::Pages => "lockstep-price-of-pages",
            Size::Elements => "lockstep-price-of-elements",
            Size::MoreElements => "lockstep-price-of-more-elements",
        }
    }

    /// Writes the code of its function, `(param i32) (result i32)`. It has no locals: the result
    /// lies below all else, and the parameter is what is left.
    ///
    /// ```text
    /// result = size    burn the least price    left = units of the size
    /// if left != 0 { loop { burn the rest of a unit    left -= 1    if left != 0 { again } } }
    /// loop { }, because the engine looks at the fuel at every loop
    /// ```
    pub(super) fn function(self) -> Vec<u8> {
        let mut out = vec![0, code::LOCAL_GET, 0];
        put_burnt(&mut out, self.least() - self.operators_fuel());
        self.put_units(&mut out);
        out.extend_from_slice(&[code::LOCAL_TEE, 0, code::IF, code::NO_RESULT, code::LOOP, code::NO_RESULT]);
        put_burnt(&mut out, UNIT_FUEL - TURN_OPERATORS_FUEL);
        out.extend_from_slice(&[code::LOCAL_GET, 0]);
        put_constant(&mut out, 1);
        out.extend_from_slice(&[code::I32_SUB, code::LOCAL_TEE, 0, code::BR_IF, 0, code::END, code::END]);
        out.extend_from_slice(&[code::LOOP, code::NO_RESULT, code::END, code::END]);
        out
    }

    /// Writes what makes units of the parameter. No size makes more than fit into 32 bits.
    fn put_units(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[code::LOCAL_GET, 0]);
        match self {
            Size::Pages => {
                put_constant(out, PAGES_MAX);
                out.extend_from_slice(&[code::LOCAL_GET, 0]);
                put_constant(out, PAGES_MAX);
                out.extend_from_slice(&[code::I32_LT_U, code::SELECT]);
                put_constant(out, PAGE_UNITS_LOG2);
                out.push(code::I32_SHL);
            }
            Size::Bytes => {
                put_constant(out, UNIT_BYTES_LOG2);
                out.push(code::I32_SHR_U);
            }
            Size::Elements | Size::MoreElements => {
                put_constant(out, UNIT_ELEMENTS_LOG2);
                out.push(code::I32_SHR_U);
            }
        }
    }

    fn least(self) -> u32 {
        match self {
            Size::Bytes | Size::Elements => RANGE_FUEL,
            Size::Pages | Size::MoreElements => GROWTH_FUEL,
        }
    }

    fn operators_fuel(self) -> u32 {
        OPERATORS_FUEL + if self == Size::Pages { PAGES_OPERATORS_FUEL } else { 0 }
    }
}

impl Payment {
    /// Returns the size whose function is called.
    pub(super) fn size(self) -> Option<Size> {
        match self {
            Payment::Constant(_) => None,
            Payment::Call(size) => Some(size),
        }
    }

    /// Writes the payment. `function` is the index of the function for a size.
    pub(super) fn put(self, out: &mut Vec<u8>, function: impl Fn(Size) -> u32) {
        match self {
            Payment::Constant(fuel) => put_burnt(out, fuel),
            Payment::Call(size) => {
                out.push(code::CALL);
                put_u32(out, function(size));
            }
        }
    }
}

/// Writes operators that use so much fuel, at least 1, and have no other effect. A compiler makes
/// no code of them.
fn put_burnt(out: &mut Vec<u8>, fuel: u32) {
    // A constant costs 1, counting bits 2, a comparison 1, and dropping the result nothing.
    put_constant(out, 0);
    let left = fuel - 1;
    out.extend(std::iter::repeat_n(code::I32_POPCNT, (left / 2) as usize));
    out.extend(std::iter::repeat_n(code::I32_EQZ, (left % 2) as usize));
    out.push(code::DROP);
}

fn put_constant(out: &mut Vec<u8>, value: u32) {
    out.push(code::I32_CONST);
    put_signed(out, (value as i32).into());
}
