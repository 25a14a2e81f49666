//! The policy file of `lockstep tls init`: a grant for each client. What a role may do is up to the
//! node. A file that is there is only added to, and never for a subject that it names.

use anyhow::Context;
use serde::Deserialize;

use super::files::Files;
use super::holder::ClientRole;
use crate::cli::report::Failure;

/// Name of the file.
pub(crate) const FILE: &str = "policy.toml";

const HEAD: &str = "\
# Who may do what. A node that is started with --policy reads this file, and reads it again when it
# changes. Who is not named here may do nothing.
";

/// The part of a policy that matters here.
#[derive(Default, Deserialize)]
struct Policy {
    #[serde(default)]
    grant: Vec<Grant>,
}

#[derive(Deserialize)]
struct Grant {
    #[serde(default)]
    subject: String,
}

/// Adds a grant for each client that has a role and that the file does not name. Returns those that
/// were added. The file is made even when there are none.
pub(super) fn add<'a>(files: &Files, clients: &'a [ClientRole]) -> anyhow::Result<Vec<&'a ClientRole>> {
    let path = files.path(FILE);
    let before = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let policy: Policy = toml::from_str(before.as_deref().unwrap_or_default()).map_err(|error| {
        Failure::new(format!("{} is no policy: {error}", path.display())).hint("mend it, or move it away")
    })?;
    let is_named = |client: &ClientRole| policy.grant.iter().any(|grant| grant.subject == client.name);
    let added: Vec<&ClientRole> = clients.iter().filter(|client| client.role.is_some() && !is_named(client)).collect();
    if before.is_none() || !added.is_empty() {
        let grants = added.iter().filter_map(|client| Some(grant(&client.name, client.role?)));
        let text = before.unwrap_or_else(|| HEAD.to_owned()) + &grants.collect::<String>();
        files.write_public(FILE, &text)?;
    }
    Ok(added)
}

/// Names and roles have no character that TOML would have to escape.
fn grant(subject: &str, role: &str) -> String {
    format!("\n[[grant]]\nsubject = \"{subject}\"\nrole = \"{role}\"\n")
}
