//! Tests the compiler's messages for a wrong state: they are part of the SDK.
//! After a change run `TRYBUILD=overwrite cargo test -p lockstep-guest --test compile_errors`, and
//! read the new messages.

#[test]
fn mistakes_are_named_by_the_compiler() {
    let cases = trybuild::TestCases::new();
    // A case that compiles makes trybuild generate code for all cases. The last errors appear only
    // then.
    cases.pass("tests/compile_errors/good/*.rs");
    cases.compile_fail("tests/compile_errors/*.rs");
}
