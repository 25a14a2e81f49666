//! Finds the names that a person probably meant.

/// Most edits between a typed name and a suggested one.
const DISTANCE_MAX: usize = 3;

/// Returns the candidates closest to `typed`, all at the same distance. Empty if nothing is close.
pub(crate) fn similar<'a>(typed: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let typed = typed.to_lowercase();
    let mut close: Vec<(usize, &str)> = candidates
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            // One or two letters occur in many names, so they do not count as contained.
            let contained =
                (typed.len() >= 3 && lower.contains(&typed)) || (lower.len() >= 3 && typed.contains(&lower));
            let distance = if contained { 1 } else { distance(&typed, &lower) };
            (distance <= DISTANCE_MAX).then_some((distance, candidate))
        })
        .collect();
    close.sort();
    let best = close.first().map_or(0, |(distance, _)| *distance);
    close.into_iter().take_while(|(distance, _)| *distance == best).map(|(_, candidate)| candidate).collect()
}

/// Returns a hint: the close names as a question, or otherwise all names.
pub(crate) fn suggestion(close: &[String], all: &[String]) -> String {
    match close {
        [] => format!("there are {}", all.join(", ")),
        close => format!("did you mean {}?", close.join(" or ")),
    }
}

/// Returns the Levenshtein distance: insertions, removals and replacements that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let rpcs = ["add_voter", "add_nonvoter", "state", "stats", "leader"];
        assert_eq!(similar("add_votr", rpcs.into_iter()), ["add_voter"]);
        assert_eq!(similar("stat", rpcs.into_iter()), ["state", "stats"]);
        assert!(similar("snapshotting", rpcs.into_iter()).is_empty());
    }
}
