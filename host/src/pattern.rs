//! Patterns of names: `*` stands for any run of characters, also for none. Everything else stands
//! for itself. The policy and the read-only mode name methods by them. Knows no caller and no
//! method.

/// A pattern that subjects or methods match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Makes the pattern that is written so.
    pub fn new(text: impl Into<String>) -> Pattern {
        Pattern(text.into())
    }

    /// Makes a pattern of methods. An error says how a method is written.
    pub fn of_methods(text: &str) -> Result<Pattern, &'static str> {
        match text {
            "" => Err("a method has a name"),
            slash if slash.starts_with('/') => Err("a method is written package.Service/Method, without a / before it"),
            name => Ok(Pattern::new(name)),
        }
    }

    /// Returns the pattern as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the whole of `name` matches. Its time grows with the product of both
    /// lengths, and no faster.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Where the last `*` stands, and how much of the name it has taken.
        let mut star: Option<(usize, usize)> = None;
        while read < name.len() {
            match (pattern.get(at), star) {
                (Some(b'*'), _) => {
                    star = Some((at, read));
                    at += 1;
                }
                (Some(byte), _) if *byte == name[read] => {
                    at += 1;
                    read += 1;
                }
                (_, Some((place, taken))) => {
                    star = Some((place, taken + 1));
                    at = place + 1;
                    read = taken + 1;
                }
                (_, None) => return false,
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        let rows = [
            ("alice", "alice", true),
            ("alice", "alice2", false),
            ("alice", "alic", false),
            ("shop-*", "shop-", true),
            ("shop-*", "shop-7", true),
            ("shop-*", "workshop-7", false),
            ("*", "", true),
            ("*", "orders.v1.Orders/Place", true),
            ("orders.*/Place", "orders.v1.Orders/Place", true),
            ("orders.*/Place", "orders.v1.Orders/PlaceAll", false),
            ("*/Get*", "a.B/GetAll", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXcXb", false),
            ("a**b", "ab", true),
            ("", "", true),
            ("", "x", false),
            ("ü*", "über", true),
            ("a?c", "abc", false),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_method_is_named_as_it_is_called() {
        assert_eq!(Pattern::of_methods("orders.*/Place"), Ok(Pattern::new("orders.*/Place")));
        assert!(Pattern::of_methods("").is_err() && Pattern::of_methods("/a.B/C").is_err());
    }

    proptest! {
        #[test]
        fn a_pattern_without_a_star_matches_itself_alone(name in "[^*]{0,12}", other in "[^*]{0,12}") {
            prop_assert_eq!(Pattern::new(&*name).matches(&other), name == other);
        }

        #[test]
        fn stars_around_a_part_find_it_anywhere(before in ".{0,6}", part in "[^*]{0,6}", after in ".{0,6}") {
            let (pattern, name) = (format!("*{part}*"), format!("{before}{part}{after}"));
            prop_assert!(Pattern::new(pattern).matches(&name));
        }
    }
}
