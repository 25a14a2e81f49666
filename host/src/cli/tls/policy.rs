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
    #[serde(default)]
    role: String,
}

/// What became of the policy.
pub(super) struct Outcome<'a> {
    /// The clients that got a grant.
    pub(super) added: Vec<&'a ClientRole>,
    /// A line for each client whose role is not what the caller may think.
    pub(super) notes: Vec<String>,
}

/// Adds a grant for each client that has a role and that the file does not name. Without
/// any, no file is made: a node refuses a policy that grants nothing.
pub(super) fn add<'a>(files: &Files, clients: &'a [ClientRole]) -> anyhow::Result<Outcome<'a>> {
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
    if !added.is_empty() {
        let grants = added.iter().filter_map(|client| Some(grant(&client.name, client.role?)));
        let text = before.unwrap_or_else(|| HEAD.to_owned()) + &grants.collect::<String>();
        files.write_public(FILE, &text)?;
    }
    let notes = clients.iter().filter_map(|client| note(client, &policy)).collect();
    Ok(Outcome { added, notes })
}

/// Says why the role of a client is not the one that was asked for, if it is not.
fn note(client: &ClientRole, before: &Policy) -> Option<String> {
    let name = &client.name;
    let grants = before.grant.iter().filter(|grant| grant.subject == *name);
    let roles: Vec<&str> = grants.map(|grant| grant.role.as_str()).collect();
    match client.role {
        None if roles.is_empty() => Some(format!(
            "nothing in {FILE} names {name}, so only a grant with a pattern gives it a role: add a grant there, or give \
             --client {name}:ROLE"
        )),
        Some(role) if !roles.is_empty() && !roles.contains(&role) => Some(format!(
            "{name} stays {} in {FILE}, and is not made {role}: change the role there",
            roles.join(" and ")
        )),
        None | Some(_) => None,
    }
}

/// Names and roles have no character that TOML would have to escape.
fn grant(subject: &str, role: &str) -> String {
    format!("\n[[grant]]\nsubject = \"{subject}\"\nrole = \"{role}\"\n")
}
