//! The state machine of raft-grpc-example: it keeps the three longest words that it received. This
//! file owns their order, which equals that of the original byte for byte. It knows nothing of
//! replication.

use lockstep_guest::{Command, Map, Query, Reply, Status};

lockstep_guest::include_proto!();

lockstep_guest::state! {
    /// The best words, by rank from 0.
    pub struct Words {
        best: Map<u8, String> = 1,
    }
}

const RANKS: std::ops::Range<u8> = 0..3;

impl Example for Words {
    fn add_word(&mut self, cx: &Command, request: AddWordRequest) -> Reply<AddWordResponse> {
        only_group(&request.group_id)?;
        let mut word = request.word;
        for rank in RANKS {
            let held = self.at(rank);
            if outranks(&word, &held) {
                self.best.insert(&rank, &word);
                // The word that lost its rank is compared with the next one.
                word = held;
            }
        }
        Ok(AddWordResponse { commit_index: cx.index() })
    }

    fn get_words(&self, cx: &Query, request: GetWordsRequest) -> Reply<GetWordsResponse> {
        only_group(&request.group_id)?;
        Ok(GetWordsResponse { read_at_index: cx.index(), best_words: RANKS.map(|rank| self.at(rank)).collect() })
    }
}

impl Words {
    /// Returns the word at a rank, or an empty string if there were fewer words.
    fn at(&self, rank: u8) -> String {
        self.best.get(&rank).unwrap_or_default()
    }
}

/// Tells whether `word` is better than `held`.
///
/// A word with more bytes is better. Of two words of equal length, the alphabetically first is
/// better.
fn outranks(word: &str, held: &str) -> bool {
    if word.len() == held.len() { word < held } else { word.len() > held.len() }
}

fn only_group(name: &str) -> Reply<()> {
    if name.is_empty() {
        Ok(())
    } else {
        Err(Status::not_found(format!("group not found: {name}; a cluster is one group, leave group_id empty")))
    }
}

lockstep_guest::export!(Words: Example);
