//! What `read_only` has beyond other RPCs on the command line: `lockstep admin <addr> read_only on`
//! has the cluster refuse commands, and `off` ends that. The leader does it.

use lockstep_proto::v1::{ReadOnlyRequest, ReadOnlyResponse};
use prost_reflect::Value;

use super::report::Failure;
use super::rpcs::{Answered, Argument, Extra};

/// The addition to the RPC.
pub(crate) const EXTRA: Extra = Extra {
    rpc: "lockstep.v1.Admin.ReadOnly",
    about: "read_only has the cluster refuse commands, of all methods or of those that match a pattern such as 'orders.*/Place'; queries and \
            watches go on. It finds the leader through any node; --methods takes the patterns, too, with commas.",
    arguments: &[Argument { field: "on", name: "on|off", is_optional: false, read: Some(read_on) }],
    finds_leader: true,
    answer: Some(answer),
    json: Some(json),
    ..Extra::NONE
};

fn read_on(word: &str) -> Result<Value, Failure> {
    match word {
        "on" => Ok(Value::Bool(true)),
        "off" => Ok(Value::Bool(false)),
        _ => Err(Failure::usage(format!("read_only: {word:?} is neither on nor off"))
            .hint("it is used as: read_only <on|off> [methods]...")),
    }
}

fn answer(answered: &Answered<'_>) -> anyhow::Result<String> {
    let ReadOnlyRequest { on, .. } = answered.request.transcode_to()?;
    let ReadOnlyResponse { index, refused } = answered.reply.transcode_to()?;
    Ok(match (on, refused.is_empty()) {
        (false, _) => format!("the cluster takes commands as of index {index}"),
        (true, true) => format!("the cluster refuses commands as of index {index}"),
        (true, false) => format!("the cluster refuses as of index {index}: {}", refused.join(", ")),
    })
}

fn json(answered: &Answered<'_>) -> anyhow::Result<String> {
    let ReadOnlyRequest { on, .. } = answered.request.transcode_to()?;
    let ReadOnlyResponse { index, refused } = answered.reply.transcode_to()?;
    Ok(serde_json::json!({ "on": on, "index": index, "refused": refused }).to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::admin;
    use crate::cli::rpcs::find;

    fn of(words: &[&str]) -> Result<ReadOnlyRequest, String> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let request = find(&admin::rpcs(), "read_only").unwrap().request(&words);
        request.map(|message| message.transcode_to().unwrap()).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn the_mode_is_on_or_off_and_may_name_methods() {
        let wanted = |on, methods: &[&str]| {
            Ok(ReadOnlyRequest { on, methods: methods.iter().map(|method| method.to_string()).collect() })
        };
        assert_eq!(of(&["on"]), wanted(true, &[]));
        assert_eq!(of(&["off"]), wanted(false, &[]));
        assert_eq!(of(&["on", "a.*/B", "c.D/*"]), wanted(true, &["a.*/B", "c.D/*"]));
        for words in [&[][..], &["maybe"], &["true"]] {
            assert!(of(words).unwrap_err().contains("read_only <on|off> [methods]..."), "{words:?}");
        }
    }
}
