//! Finds the leader of a cluster through addresses of its nodes, for what only the leader does. It
//! only asks.

use std::time::Duration;

use super::client;
use super::credentials::Credentials;
use super::manager::{Manager, text_field};
use super::report::Failure;
use super::status;

/// Longest wait for a node to say who leads.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the leader: one of the nodes at the addresses, which are separated by commas, or the
/// node that one of them names. `timeout` limits each call.
pub(crate) async fn find(addrs: &str, credentials: &Credentials, timeout: Option<Duration>) -> anyhow::Result<Manager> {
    client::check(&addrs.split(',').collect::<Vec<_>>(), credentials)?;
    // Groups the addresses by answer, so that an answer that several nodes give is printed once.
    let mut answers: Vec<(String, Vec<String>)> = Vec::new();
    let mut unasked: Vec<String> = addrs.split(',').rev().map(str::to_owned).collect();
    let mut named = None;
    while let Some(addr) = unasked.pop() {
        let answer = match ask(&addr, credentials, timeout).await {
            Answer::Leads(manager) => return Ok(manager),
            Answer::Follows(state, leader) => {
                named = named.or(leader);
                state
            }
            Answer::Silent(why) => why,
        };
        match answers.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, from)) => from.push(addr),
            None => answers.push((answer, vec![addr])),
        }
        let is_asked = |leader: &String| answers.iter().any(|(_, from)| from.contains(leader));
        if unasked.is_empty() {
            unasked.extend(named.take().filter(|leader| !is_asked(leader)));
        }
    }
    let failure = Failure::new("none of these nodes leads");
    let failure =
        answers.iter().fold(failure, |failure, (answer, from)| failure.note(format!("{}: {answer}", from.join(", "))));
    Err(failure.hint("give the --grpc_addr of every node that runs; without a majority there is no leader").into())
}

/// What a node says of who leads.
enum Answer {
    /// It does.
    Leads(Manager),
    /// It does not: its state, and the client address of the leader if it knows one.
    Follows(String, Option<String>),
    /// Nothing, and why.
    Silent(String),
}

async fn ask(addr: &str, credentials: &Credentials, timeout: Option<Duration>) -> Answer {
    // Does not wait for a dead node: another one may lead.
    let server = match client::connect(addr, credentials, Duration::ZERO).await {
        Ok(server) => server,
        Err(error) => return Answer::Silent(error.to_string().replace(&format!(" to {addr}"), "")),
    };
    let manager = Manager::new(server, timeout);
    let reply = manager.run("State", &[]).await;
    match reply.map(|reply| text_field(&reply, "state").unwrap_or_default()) {
        Ok(state) if state == "Leader" => Answer::Leads(manager),
        Ok(state) => Answer::Follows(state, leader_of(&manager).await),
        Err(error) => Answer::Silent(error.to_string()),
    }
}

/// Returns the client address of the leader that the node knows.
async fn leader_of(manager: &Manager) -> Option<String> {
    let status = status::ask(manager.server(), ASK_TIMEOUT).await.ok()?;
    let address = status["leader"]["grpc_addr"].as_str().filter(|address| !address.is_empty());
    address.map(str::to_owned)
}
