//! What the rewriting of guests' code promises for any bytes. `crate::fuzzing` calls it.

use wasmparser::{Parser, Payload, Validator};

use super::depth;
use super::features::PARSED_FEATURES;
use super::limits::Limits;
use super::load::inspect;

/// Meters a component. What the engine would take is still taken, and names, exports and descriptor
/// stay; what it would refuse is an error.
pub(crate) fn depth(bytes: &[u8]) {
    // A node comes here with components that it has inspected.
    let Ok(before) = inspect(bytes) else { return };
    if !Parser::is_component(bytes) {
        return;
    }
    let validate = |bytes: &[u8]| Validator::new_with_features(PARSED_FEATURES).validate_all(bytes).map(drop);
    let form = match (depth::metered(&Limits::DEFAULT, bytes), validate(bytes)) {
        (Ok(form), Ok(())) => form,
        (Err(_), Err(_)) => return,
        // The validator alone takes a component that ends within a module or a component in it.
        (Err(_), Ok(())) if ends_early(bytes) => return,
        (Ok(_), Err(error)) => panic!("an invalid component was rewritten: {error}"),
        (Err(error), Ok(())) => panic!("a valid component was not rewritten: {error}"),
    };
    validate(&form).expect("what was rewritten is valid");
    let after = inspect(&form).expect("what was rewritten can be inspected");
    assert_eq!((before.imports, before.exports), (after.imports, after.exports));
    assert_eq!((before.descriptor, before.versions), (after.descriptor, after.versions));
}

/// Returns whether a component has fewer bytes than the modules and components in it say.
fn ends_early(bytes: &[u8]) -> bool {
    let mut payloads = Parser::new(0).parse_all(bytes).flatten();
    payloads.any(|payload| match payload {
        Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } => {
            unchecked_range.end > bytes.len()
        }
        _ => false,
    })
}
