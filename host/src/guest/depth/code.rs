//! Codes of the operators and types that metering writes.

pub(super) const UNREACHABLE: u8 = 0x00;
pub(super) const BLOCK: u8 = 0x02;
pub(super) const LOOP: u8 = 0x03;
pub(super) const IF: u8 = 0x04;
pub(super) const END: u8 = 0x0b;
pub(super) const BR: u8 = 0x0c;
pub(super) const BR_IF: u8 = 0x0d;
pub(super) const CALL: u8 = 0x10;
pub(super) const DROP: u8 = 0x1a;
pub(super) const SELECT: u8 = 0x1b;
pub(super) const LOCAL_GET: u8 = 0x20;
pub(super) const LOCAL_TEE: u8 = 0x22;
pub(super) const GLOBAL_GET: u8 = 0x23;
pub(super) const GLOBAL_SET: u8 = 0x24;
pub(super) const I32_CONST: u8 = 0x41;
pub(super) const I32_EQZ: u8 = 0x45;
pub(super) const I32_LT_U: u8 = 0x49;
pub(super) const I32_POPCNT: u8 = 0x69;
pub(super) const I32_ADD: u8 = 0x6a;
pub(super) const I32_SUB: u8 = 0x6b;
pub(super) const I32_SHL: u8 = 0x74;
pub(super) const I32_SHR_U: u8 = 0x76;
pub(super) const NO_RESULT: u8 = 0x40;
pub(super) const FUNCTION_TYPE: u8 = 0x60;
pub(super) const I32: u8 = 0x7f;
pub(super) const MUTABLE: u8 = 0x01;
