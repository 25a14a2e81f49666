//! Checks at compile time of the author's crate that each collection and index of a state has a tag
//! of its own. Also writes the error message.

use crate::shape::Shape;
use crate::text::Text;

/// Largest tag of a collection. It takes two bytes of a key.
pub(crate) const TAG_MAX: u16 = 0x3fff;

/// The tags of one collection of the state, as [`state!`](crate::state) declares it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Tags {
    /// Name of the collection's field.
    pub field: &'static str,
    /// Tag of the collection.
    pub own: u16,
    /// Type of its rows.
    pub rows: Shape,
    /// Tags of its indexes.
    pub indexes: &'static [u16],
    /// Types of the entries of its indexes, in the same order.
    pub entries: &'static [Shape],
}

/// Fails the build when a tag is out of range or used twice. The error names the fields.
#[doc(hidden)]
pub const fn check_tags(collections: &[Tags]) {
    let mut i = 0;
    while i < collections.len() {
        let mut n = 0;
        while n <= collections[i].indexes.len() {
            let place = (i, n);
            let tag = tag(collections, place);
            if tag < 1 || tag > TAG_MAX {
                let text = holder(Text::new().add("the tag of "), collections, place).add(" is ").number(tag);
                panic!("{}", text.add("; a tag is 1 to 16383").as_str());
            }
            if let Some(other) = before(tag, collections, place) {
                let text = holder(Text::new(), collections, other).add(" and ");
                let text = holder(text, collections, place).add(" have the same tag, ").number(tag);
                panic!("{}", text.add("; each collection and each index has one of its own").as_str());
            }
            n += 1;
        }
        i += 1;
    }
}

/// Names a tag: the number of the collection, and 0 for its own tag or a higher number for one of
/// its indexes.
type Place = (usize, usize);

const fn tag(collections: &[Tags], (i, n): Place) -> u16 {
    if n == 0 { collections[i].own } else { collections[i].indexes[n - 1] }
}

/// Returns the first place before `place` that has this tag.
const fn before(wanted: u16, collections: &[Tags], place: Place) -> Option<Place> {
    let mut i = 0;
    while i <= place.0 {
        let mut n = 0;
        while n <= collections[i].indexes.len() && (i < place.0 || n < place.1) {
            if tag(collections, (i, n)) == wanted {
                return Some((i, n));
            }
            n += 1;
        }
        i += 1;
    }
    None
}

const fn holder(text: Text, collections: &[Tags], (i, n): Place) -> Text {
    let text = if n == 0 { text } else { text.add("an index of ") };
    text.add("`").add(collections[i].field).add("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tags(field: &'static str, own: u16, indexes: &'static [u16]) -> Tags {
        Tags { field, own, rows: Shape::Name("u8"), indexes, entries: &[] }
    }

    fn told(collections: &[Tags]) -> String {
        match std::panic::catch_unwind(|| check_tags(collections)) {
            Ok(()) => String::new(),
            Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
        }
    }

    #[test]
    fn whoever_has_the_same_tag_is_named() {
        const FINE: [Tags; 3] = [tags("a", 1, &[2, 16383]), tags("b", 3, &[]), tags("c", 4, &[5])];
        assert_eq!(told(&FINE), "");
        for (collections, expected) in [
            (&[tags("stock", 1, &[]), tags("orders", 1, &[])][..], "`stock` and `orders` have the same tag, 1;"),
            (&[tags("a", 1, &[7]), tags("b", 7, &[])], "an index of `a` and `b` have the same tag, 7;"),
            (&[tags("a", 7, &[]), tags("b", 1, &[3, 7])], "`a` and an index of `b` have the same tag, 7;"),
            (&[tags("a", 1, &[300, 300])], "an index of `a` and an index of `a` have the same tag, 300;"),
            (&[tags("a", 1, &[1])], "`a` and an index of `a` have the same tag, 1;"),
            (&[tags("a", 0, &[])], "the tag of `a` is 0; a tag is 1 to 16383"),
            (&[tags("a", 1, &[16384])], "the tag of an index of `a` is 16384;"),
        ] {
            assert!(told(collections).starts_with(expected), "{}", told(collections));
        }
    }
}
