//! The call of `lockstep.v1.Admin` that sets the read-only mode: checks what an operator asks for,
//! and says which commands are refused now. `raft/upgrade` proposes the entry, and apply refuses.

use lockstep_contract::{Contract, Kind};
use lockstep_proto::v1::{ReadOnlyRequest, ReadOnlyResponse};
use tonic::{Request, Response, Status};

use super::gate::{caller_name, note};
use super::{Shared, status};
use crate::codec::entry::ReadOnly;
use crate::pattern::Pattern;
use crate::raft::upgrade::ModeError;

/// Most patterns of methods. Each command is compared with all of them.
const METHODS_MAX: usize = 64;

/// Most bytes of one pattern, and of the name of who set the mode.
const NAME_BYTES_MAX: usize = 256;

/// Sets the mode.
pub(super) async fn set(
    shared: &Shared,
    request: Request<ReadOnlyRequest>,
) -> Result<Response<ReadOnlyResponse>, Status> {
    let ReadOnlyRequest { on, methods } = request.get_ref();
    note(&request, "on", on);
    let patterns = read(*on, methods).map_err(Status::invalid_argument)?;
    note(&request, "methods", methods.join(","));
    let mut by = caller_name(request.extensions());
    by.truncate(by.floor_char_boundary(NAME_BYTES_MAX));
    let ReadOnlyRequest { on, methods } = request.into_inner();
    shared.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
    let refused = match shared.routes() {
        Some(routes) if on => covered(&routes, &patterns).map_err(Status::invalid_argument)?,
        _ => Vec::new(),
    };
    let upgrades = shared.parts.upgrades.clone();
    // From the proposal on, it goes on to its end whoever waits.
    let set = tokio::spawn(async move { upgrades.set_read_only(ReadOnly { on, methods, by }).await });
    let index = set.await.map_err(|error| Status::internal(error.to_string()))?.map_err(failed)?;
    tracing::warn!(index, on, refused = refused.join(","), "an operator set the read-only mode of the cluster");
    Ok(Response::new(ReadOnlyResponse { index, refused }))
}

/// Reads the patterns, within their bounds.
fn read(on: bool, methods: &[String]) -> Result<Vec<Pattern>, String> {
    if !on && !methods.is_empty() {
        return Err("off is for all methods; to refuse fewer commands, set the mode to those that stay refused".into());
    }
    if methods.len() > METHODS_MAX {
        return Err(format!("{} patterns are more than the {METHODS_MAX} that there may be", methods.len()));
    }
    if let Some(long) = methods.iter().find(|method| method.len() > NAME_BYTES_MAX) {
        return Err(format!("a pattern has at most {NAME_BYTES_MAX} bytes, and one has {}", long.len()));
    }
    let read = |method: &String| Pattern::of_methods(method).map_err(|problem| format!("{method:?}: {problem}"));
    methods.iter().map(read).collect()
}

/// Returns the commands that the patterns cover. A pattern that covers none is a slip of the pen.
pub(super) fn covered(routes: &Contract, patterns: &[Pattern]) -> Result<Vec<String>, String> {
    let methods = routes.methods();
    let commands = methods.iter().filter(|method| method.kind == Kind::Command);
    let commands: Vec<String> = commands.map(|method| method.name.to_string()).collect();
    if let Some(idle) = patterns.iter().find(|pattern| !commands.iter().any(|command| pattern.matches(command))) {
        return Err(format!(
            "no command matches {:?}; the cluster serves the commands {}",
            idle.as_str(),
            commands.join(", ")
        ));
    }
    let is_covered = |command: &String| patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(command));
    Ok(commands.into_iter().filter(is_covered).collect())
}

fn failed(error: ModeError) -> Status {
    let words = error.to_string();
    match error {
        ModeError::Unable(_) | ModeError::NotNow(_) => Status::failed_precondition(words),
        ModeError::NotProposed(_) => Status::unavailable(words),
        ModeError::Unknown => Status::unknown(words),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::example_contract;

    fn words(methods: &[&str]) -> Vec<String> {
        methods.iter().map(|method| method.to_string()).collect()
    }

    #[test]
    fn what_is_covered_is_named() {
        let covered = |methods: &[&str]| covered(&example_contract(), &read(true, &words(methods)).unwrap());
        assert_eq!(covered(&[]).unwrap(), ["Example/Add"]);
        assert_eq!(covered(&["Example/*"]).unwrap(), ["Example/Add"]);
        let refused = covered(&["Example/Add", "Example/Get"]).unwrap_err();
        assert!(refused.contains("no command matches \"Example/Get\"") && refused.contains("Example/Add"), "{refused}");
    }

    #[test]
    fn patterns_are_written_as_in_a_policy_and_bounded() {
        assert!(read(true, &words(&["/Example/Add"])).unwrap_err().contains("without a / before it"));
        assert!(read(true, &words(&[""])).is_err());
        assert!(read(false, &words(&["Example/Add"])).unwrap_err().contains("off is for all"));
        assert!(read(true, &vec!["a".to_owned(); METHODS_MAX + 1]).is_err());
        assert!(read(true, &["a".repeat(NAME_BYTES_MAX + 1)]).is_err());
    }
}
