//! Checks at compile time of the author's crate that each collection and index of a state has a tag
//! of its own. Also writes the error message.

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
    /// Tags of its indexes.
    pub indexes: &'static [u16],
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

/// An error message, built in a buffer of fixed size because it is built at compile time.
#[derive(Clone, Copy)]
struct Text {
    bytes: [u8; TEXT_BYTES_MAX],
    len: usize,
}

/// Enough for two field names of usual length and the words around them.
const TEXT_BYTES_MAX: usize = 512;

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; TEXT_BYTES_MAX], len: 0 }
    }

    /// Appends a text. A text that does not fit is left out as a whole, so that no character is
    /// cut.
    const fn add(mut self, text: &str) -> Self {
        let text = text.as_bytes();
        if self.len + text.len() > TEXT_BYTES_MAX {
            return self;
        }
        let mut at = 0;
        while at < text.len() {
            self.bytes[self.len] = text[at];
            self.len += 1;
            at += 1;
        }
        self
    }

    const fn number(self, number: u16) -> Self {
        const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let text = if number < 10 { self } else { self.number(number / 10) };
        text.add(DIGITS[(number % 10) as usize])
    }

    const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => "a tag is out of range or taken twice",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tags(field: &'static str, own: u16, indexes: &'static [u16]) -> Tags {
        Tags { field, own, indexes }
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

    #[test]
    fn a_text_that_is_too_long_ends_with_a_whole_word() {
        let long = "é".repeat(200);
        let text = Text::new().add(&long).add(&long).add("!");
        assert_eq!(text.as_str(), format!("{long}!"));
    }
}
