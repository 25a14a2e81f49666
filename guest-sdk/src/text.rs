//! Texts that are put together at compile time: the error messages of checks that run while an
//! author's crate is compiled. This file knows none of the checks.

/// An error message, built in a buffer of fixed size because it is built at compile time.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    bytes: [u8; TEXT_BYTES_MAX],
    len: usize,
}

/// Enough for two names or types of usual length and the words around them.
const TEXT_BYTES_MAX: usize = 1024;

impl Text {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; TEXT_BYTES_MAX], len: 0 }
    }

    /// Appends a text. A text that does not fit is left out as a whole, so that no character is
    /// cut.
    pub(crate) const fn add(mut self, text: &str) -> Self {
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

    pub(crate) const fn number(self, number: u16) -> Self {
        const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let text = if number < 10 { self } else { self.number(number / 10) };
        text.add(DIGITS[(number % 10) as usize])
    }

    pub(crate) const fn as_str(&self) -> &str {
        match std::str::from_utf8(self.bytes.split_at(self.len).0) {
            Ok(text) => text,
            Err(_) => "the state cannot be declared like this",
        }
    }
}

/// Tells whether two texts are equal.
pub(crate) const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut i = 0;
    while i < one.len() {
        if one[i] != other[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_ends_with_a_whole_word() {
        let long = "é".repeat(400);
        let text = Text::new().add(&long).add(&long).add("!");
        assert_eq!(text.as_str(), format!("{long}!"));
    }
}
