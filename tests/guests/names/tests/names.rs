//! The compiled corpus: each case as if it were the root of an author's crate. Little of it runs.
#![allow(missing_docs)]

include!(concat!(env!("OUT_DIR"), "/cases.rs"));

use defaults::{E, M, m};
use groups::lockstep_proto::corpus::groups as within;

#[test]
fn defaults_are_those_of_the_file() {
    let fields = M::default();
    assert_eq!((fields.must_e(), fields.e(), fields.f(), fields.g()), (E::A, E::A, E::B, E::Self_));
    assert_eq!((fields.kind(), fields.h()), (m::Kind::One, E::_8));
    assert_eq!((fields.low(), fields.lower(), fields.high()), (i32::MIN, i64::MIN, u64::MAX));
    assert_eq!(
        (fields.hex(), fields.octal(), fields.pi(), fields.huge(), fields.whole()),
        (u32::MAX, 0o777, 3.25, 1.5e300, 5.0)
    );
    assert_eq!((fields.infinite(), fields.minus(), fields.none().is_nan()), (f32::INFINITY, f64::NEG_INFINITY, true));
    assert_eq!(fields.text(), "quote \" back \\ tab \t null \0 A A ü ü ' {} // */");
    assert_eq!(fields.raw(), b"\0\x01\xff\" \\ ' \xfe\n");
}

#[test]
fn messages_within_each_other_by_way_of_a_group_have_an_end() {
    let back = within::Back { there: None };
    let hop = within::there::Hop { back: Some(Box::new(back)) };
    assert!(within::There { hop: Some(hop.into()) }.hop.is_some());
}
