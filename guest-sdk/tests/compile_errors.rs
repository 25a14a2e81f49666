//! What an author is told who gets the state wrong: the words of the compiler are part of the SDK.
//! After a change: `TRYBUILD=overwrite cargo test -p lockstep-guest --test compile_errors`, and read what it says now.

#[test]
fn mistakes_are_named_by_the_compiler() {
    let cases = trybuild::TestCases::new();
    // A case that compiles makes all of them go through to code, where the last errors show.
    cases.pass("tests/compile_errors/good/*.rs");
    cases.compile_fail("tests/compile_errors/*.rs");
}
