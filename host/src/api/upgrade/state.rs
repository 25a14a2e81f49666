//! Compares what a new component says of its state with what the component in force says. It looks
//! at no row: a guest of the SDK has a section with the type of the rows under each tag.
//!
//! - A tag whose rows have another type breaks the state, unless the new component migrates. Then
//!   the rehearsal shows whether it can.
//! - A component without such a section is not compared.

use lockstep_contract::{Difference, StateLock};

use super::Kept;

/// Begins the subject of each difference here.
const SUBJECT: &str = "state tag ";

/// Returns which tags of the state in force the new component would misread. `in_force` is the
/// section of the component that has written them.
pub(super) fn differences(in_force: Option<&[u8]>, kept: &Kept) -> Vec<Difference> {
    let (Some(old), Some(new)) = (read(in_force), read(kept.state.as_deref())) else { return Vec::new() };
    if kept.has_migrator {
        return Vec::new();
    }
    let misread = old.differences(&new).into_iter().filter(|difference| difference.breaks);
    let told = misread.map(|difference| Difference {
        breaks: true,
        subject: format!("{SUBJECT}{}", difference.tag),
        words: format!("{}, and the new component migrates nothing: it would misread the rows", difference.words),
    });
    told.collect()
}

/// Returns whether this is a difference of the state, and not of what is served.
pub(super) fn is_of_state(difference: &Difference) -> bool {
    difference.subject.starts_with(SUBJECT)
}

/// A section that cannot be read says nothing.
fn read(section: Option<&[u8]>) -> Option<StateLock> {
    StateLock::parse(std::str::from_utf8(section?).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::example_contract;

    fn kept(state: Option<&str>, has_migrator: bool) -> Kept {
        Kept {
            hash: [1; 32],
            source: [2; 32],
            version: String::new(),
            has_migrator,
            state: state.map(|text| text.as_bytes().to_vec()),
            contract: Arc::new(example_contract()),
        }
    }

    #[test]
    fn a_tag_with_rows_of_another_type_breaks_unless_a_migration_rewrites_them() {
        let old = Some("1 names: Set<String>\n2 ages: Map<String, u8>\n".as_bytes());
        let other = Some("1 names: Set<u64>\n3 years: Map<String, u8>\n");
        let found = differences(old, &kept(other, false));
        assert_eq!(found.len(), 1, "tags that are new or gone are fine: {found:?}");
        assert!(found[0].breaks && is_of_state(&found[0]));
        let words = found[0].to_string();
        assert!(words.starts_with("state tag 1: was Set<String>, and is Set<u64> now, and the new"), "{words}");
        assert!(differences(old, &kept(other, true)).is_empty());
        assert!(differences(old, &kept(None, false)).is_empty() && differences(None, &kept(other, false)).is_empty());
        assert!(differences(Some(b"no such lines"), &kept(other, false)).is_empty());
    }
}
