//! Advice for panics that come from parts of the standard library that do not work in a guest.
//! Changes only the text of the panic.

/// Text of the standard library's panic, and what to do instead.
const MISSING: [(&str, &str); 2] = [
    (
        "time not implemented on this platform",
        "a guest has no clock: take the time of the log, `cx.time()`, and leave out `SystemTime`, `Instant` and what asks for them",
    ),
    (
        "operation not supported on this platform",
        "a guest has no threads, no files and no network: what it needs comes in the request, what it keeps is in its collections",
    ),
];

/// Returns the text of a panic, with advice if there is some for it.
pub(crate) fn explained(panic: String) -> String {
    match MISSING.iter().find(|(says, _)| panic.contains(says)) {
        Some((_, advice)) => format!("{panic}\n{advice}"),
        None => panic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_of_log_time() {
        let told = explained("panicked at time.rs:13:9:\ntime not implemented on this platform".to_owned());
        assert!(told.starts_with("panicked at") && told.contains("`cx.time()`"), "{told}");
        assert_eq!(explained("index out of bounds".to_owned()), "index out of bounds");
    }
}
