//! Who may do what on a closed node: roles, names that the guest sees, a policy and keys that
//! change, pages, and the audit.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::raft_manager_client::RaftManagerClient;
use lockstep_tests::pb::{AddVoterRequest, BarrierRequest, StatsRequest};
use lockstep_tests::statics_pb::statics_client::StaticsClient;
use lockstep_tests::statics_pb::{Request, Signature};
use lockstep_tests::{Cluster, NodeProcess, Options, PATIENCE, eventually, lockstep, statics_wasm};
use serde_json::Value;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::printed;

const POLICY: &str = r#"
[[grant]]
subject = "reader"
role = "reader"
[[grant]]
subject = "writer"
role = "writer"
[[grant]]
subject = "operator"
role = "operator"
[[grant]]
subject = "slow"
role = "writer"
methods = ["statics.Statics/Sign"]
per_second = 1
"#;

/// A closed node, with the files that decide.
struct Closed {
    cluster: Cluster,
    files: tempfile::TempDir,
}

/// Shows a token with each call.
#[derive(Clone)]
struct Shows(Option<String>);

impl Interceptor for Shows {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {token}")).expect("a token is ASCII");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

type Shown = InterceptedService<Channel, Shows>;

impl Closed {
    async fn start(more: &[&str]) -> Result<Closed> {
        let files = tempfile::tempdir()?;
        let path = |name: &str| files.path().join(name).display().to_string();
        run(&["token", "keygen", "--key", &path("key"), "--jwks", &path("jwks")])?;
        std::fs::write(files.path().join("policy"), POLICY)?;
        let (jwks, policy, audit) = (path("jwks"), path("policy"), path("audit"));
        let flags = ["--token_jwks", &jwks, "--policy", &policy, "--audit_file", &audit];
        let options = Options { fsm: Some(statics_wasm()), ..Options::bootstrap() }.with(&flags).with(more);
        let mut cluster = Cluster::new()?;
        cluster.push(options)?;
        let mut closed = Closed { cluster, files };
        closed.cluster.nodes[0].spawn()?;
        eventually("the node is ready", || async {
            let (code, text) = closed.node().http("/readyz").await?;
            ensure!(code == 200, "{code} {text}");
            Ok(())
        })
        .await?;
        Ok(closed)
    }

    fn node(&self) -> &NodeProcess {
        &self.cluster.nodes[0]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn token(&self, subject: &str, more: &[&str]) -> Result<String> {
        let key = self.path("key").display().to_string();
        let create = ["token", "create", "--key", &key, "--subject", subject, "--ttl", "1h"];
        Ok(run(&[&create[..], more].concat())?.trim().to_owned())
    }

    async fn channel(&self) -> Result<Channel> {
        Ok(Channel::from_shared(format!("http://{}", self.node().grpc_addr()))?.connect().await?)
    }

    async fn guest(&self, token: Option<String>) -> Result<StaticsClient<Shown>> {
        Ok(StaticsClient::with_interceptor(self.channel().await?, Shows(token)))
    }

    async fn manager(&self, token: Option<String>) -> Result<RaftManagerClient<Shown>> {
        Ok(RaftManagerClient::with_interceptor(self.channel().await?, Shows(token)))
    }

    /// Sends a request for a page, and returns the status and the body.
    async fn page(&self, path: &str, token: Option<&str>) -> Result<(u16, String)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.node().http_addr()).await?;
        let shown = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n{shown}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP answer")?;
        Ok((code, text))
    }

    fn audit(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.path("audit"))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn run(arguments: &[&str]) -> Result<String> {
    let output = lockstep(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", printed::all(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// Writes a file as a careful person does: it is never seen half written.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, path)?)
}

fn code_of<T>(result: &Result<T, Status>) -> Code {
    result.as_ref().err().map_or(Code::Ok, Status::code)
}

/// What each role may do, in a table that the host's own tests compare with its page for users.
const RIGHTS: &str = include_str!("../../host/src/api/rights.txt");

/// Makes one call of a method, with an empty message, and returns what it is told first.
async fn told(closed: &Closed, method: &str, token: &str) -> Result<Status> {
    if let Some(page) = method.strip_prefix("http") {
        let (code, text) = closed.page(page, Some(token)).await?;
        return Ok(match code {
            200 => Status::ok(text),
            403 => Status::permission_denied(text),
            _ => Status::unknown(format!("{code} {text}")),
        });
    }
    let channel = InterceptedService::new(closed.channel().await?, Shows(Some(token.into())));
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let request = tonic::Request::new(tokio_stream::iter([()]));
    let path = PathAndQuery::try_from(format!("/{method}"))?;
    // A reply is not read, so whatever message it is will do.
    let answered = async {
        let mut answers = client.streaming(request, path, ProstCodec::<(), ()>::default()).await?.into_inner();
        answers.message().await
    };
    let first = tokio::time::timeout(PATIENCE, answered).await.with_context(|| format!("{method} is not answered"))?;
    Ok(first.err().unwrap_or_else(|| Status::ok("")))
}

/// Each method with each role, on one node. An administrator comes last, and with `Shutdown` at the
/// end, because its calls are carried out as far as an empty message asks for something.
#[tokio::test]
async fn every_method_is_for_the_roles_of_the_table() -> Result<()> {
    const SHUTDOWN: [&str; 2] = ["RaftManager/Shutdown", "RaftAdmin/Shutdown"];
    let closed = Closed::start(&[]).await?;
    let mut lines = RIGHTS.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = lines.next().context("no table")?;
    let mut rows: Vec<Vec<&str>> = lines.collect();
    rows.sort_by_key(|row| SHUTDOWN.contains(&row[0]));
    let mut found = vec![Vec::new(); rows.len()];
    for (n, role) in head.iter().enumerate().skip(1) {
        let token = match *role {
            "admin" => closed.token("root", &["--role", "admin"])?,
            role => closed.token(role, &[])?,
        };
        for (row, found) in rows.iter().zip(&mut found) {
            // The first shutdown that is carried out leaves nobody who could judge the second.
            if *role == "admin" && row[0] == SHUTDOWN[1] {
                found.push("(yes)");
                continue;
            }
            let method = match row[0] {
                "guest/query" => "statics.Statics/Ask",
                "guest/watch" => "statics.Statics/Look",
                "guest/command" => "statics.Statics/Sign",
                method => method,
            };
            let status = told(&closed, method, &token).await.with_context(|| format!("{role} calls {method}"))?;
            let is_denied = status.code() == Code::PermissionDenied;
            ensure!(status.code() != Code::Unauthenticated, "{role} is nobody to {method}: {status:?}");
            ensure!(is_denied == (row[n] == "-"), "{role} calls {method}, and is told {status:?}");
            let refusal = format!("{role} may not call {method}: that needs the role");
            ensure!(!is_denied || status.message().starts_with(&refusal), "{status:?}");
            found.push(if is_denied { "-" } else { "yes" });
        }
    }
    println!("{:<62}{:>8}{:>8}{:>10}{:>7}", head[0], head[1], head[2], head[3], head[4]);
    for (row, found) in rows.iter().zip(&found) {
        println!("{:<62}{:>8}{:>8}{:>10}{:>7}", row[0], found[0], found[1], found[2], found[3]);
    }
    Ok(())
}

/// What each kind of call comes to for this token: query, command, operator's call, change.
async fn what_comes_of_it(closed: &Closed, token: Option<String>) -> Result<[Code; 4]> {
    let mut guest = closed.guest(token.clone()).await?;
    let mut manager = closed.manager(token).await?;
    Ok([
        code_of(&guest.ask(Request::default()).await),
        code_of(&guest.sign(Request::default()).await),
        code_of(&manager.stats(StatsRequest {}).await),
        code_of(&manager.barrier(BarrierRequest {}).await),
    ])
}

#[tokio::test]
async fn each_role_may_do_its_part_and_no_more() -> Result<()> {
    let closed = Closed::start(&[]).await?;
    let (ok, no) = (Code::Ok, Code::PermissionDenied);
    let rows = [
        ("reader", closed.token("reader", &[])?, [ok, no, no, no]),
        ("writer", closed.token("writer", &[])?, [ok, ok, no, no]),
        ("operator", closed.token("operator", &[])?, [no, no, ok, no]),
        ("admin", closed.token("root", &["--role", "admin"])?, [ok, ok, ok, ok]),
        ("reader and operator", closed.token("reader", &["--role", "operator"])?, [ok, no, ok, no]),
        ("nobody known", closed.token("stranger", &[])?, [no, no, no, no]),
    ];
    println!("{:<22}query / command / Stats / Barrier", "role");
    for (role, token, expected) in rows {
        let found = what_comes_of_it(&closed, Some(token)).await?;
        println!("{role:<22}{found:?}");
        ensure!(found == expected, "{role}: {found:?}");
    }
    let found = what_comes_of_it(&closed, None).await?;
    ensure!(found == [Code::Unauthenticated; 4], "no token: {found:?}");
    let refused = closed.guest(None).await?.ask(Request::default()).await.unwrap_err();
    ensure!(refused.message().contains("show a token"), "{refused:?}");
    ensure!(refused.metadata().get("lockstep-outcome").is_some_and(|fate| fate == "not-applied"), "{refused:?}");
    let stranger = closed.token("stranger", &[])?;
    let refused = closed.guest(Some(stranger)).await?.sign(Request::default()).await.unwrap_err();
    let text = "stranger may not call statics.Statics/Sign: that needs the role writer or admin, and nothing grants it";
    ensure!(refused.message() == text, "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn the_guest_sees_who_calls() -> Result<()> {
    let closed = Closed::start(&[]).await?;
    let mut writer = closed.guest(Some(closed.token("writer", &[])?)).await?;
    let mut reader = closed.guest(Some(closed.token("reader", &[])?)).await?;
    let of = |caller: &str, signed_by: &str| Signature { caller: caller.into(), signed_by: signed_by.into() };
    let mut watch = reader.look(Request::default()).await?.into_inner();
    ensure!(watch.message().await? == Some(of("reader", "")), "the watch");
    ensure!(writer.sign(Request::default()).await?.into_inner() == of("writer", "writer"), "the command");
    ensure!(watch.message().await? == Some(of("reader", "writer")), "the watch, once more");
    ensure!(reader.ask(Request::default()).await?.into_inner() == of("reader", "writer"), "the query");
    Ok(())
}

#[tokio::test]
async fn a_quota_is_refused_with_the_time_until_there_is_room() -> Result<()> {
    let closed = Closed::start(&[]).await?;
    let mut slow = closed.guest(Some(closed.token("slow", &[])?)).await?;
    let mut refused = None;
    for _ in 0..100 {
        if let Err(status) = slow.sign(Request::default()).await {
            refused = Some(status);
            break;
        }
    }
    let status = refused.context("a hundred calls in less than a hundred seconds are too many")?;
    ensure!(
        status.code() == Code::ResourceExhausted && status.message().contains("quota of 1 calls a second"),
        "{status:?}"
    );
    let wait: u64 = status.metadata().get("grpc-retry-pushback-ms").context("no hint")?.to_str()?.parse()?;
    ensure!((1..=1_001).contains(&wait), "{wait}");
    Ok(())
}

#[tokio::test]
async fn a_new_policy_is_in_force_without_a_restart_and_ends_what_it_forbids() -> Result<()> {
    let closed = Closed::start(&[]).await?;
    let token = closed.token("reader", &[])?;
    let mut reader = closed.guest(Some(token.clone())).await?;
    let mut watch = reader.look(Request::default()).await?.into_inner();
    ensure!(watch.message().await?.is_some(), "it began");
    replace(&closed.path("policy"), "[[grant]]\nsubjekt = 1\n")?;
    eventually("the bad file was refused", || async {
        let log = closed.node().log();
        ensure!(log.contains("line 2, column 1: unknown field `subjekt`"), "{log}");
        Ok(())
    })
    .await?;
    ensure!(reader.ask(Request::default()).await.is_ok(), "the old policy stays in force");
    replace(&closed.path("policy"), &POLICY.replace("\"reader\"\nrole", "\"somebody\"\nrole"))?;
    let ended = tokio::time::timeout(PATIENCE, watch.message()).await.context("the watch goes on")?.unwrap_err();
    ensure!(ended.code() == Code::PermissionDenied, "{ended:?}");
    ensure!(ended.message().contains("reader may not call statics.Statics/Look"), "{ended:?}");
    ensure!(code_of(&reader.ask(Request::default()).await) == Code::PermissionDenied, "so do new calls");
    let other = closed.path("other").display().to_string();
    let jwks = closed.path("new-jwks").display().to_string();
    run(&["token", "keygen", "--key", &other, "--jwks", &jwks])?;
    replace(&closed.path("jwks"), &std::fs::read_to_string(&jwks)?)?;
    eventually("the old key is not trusted any more", || async {
        let code = code_of(&closed.guest(Some(token.clone())).await?.ask(Request::default()).await);
        ensure!(code == Code::Unauthenticated, "{code:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pages_of_figures_want_a_reader_and_probes_want_nothing() -> Result<()> {
    let closed = Closed::start(&[]).await?;
    let (reader, stranger) = (closed.token("reader", &[])?, closed.token("stranger", &[])?);
    for (path, token, expected) in [
        ("/livez", None, 200),
        ("/readyz", None, 200),
        ("/metrics", None, 401),
        ("/status", None, 401),
        ("/metrics", Some(&stranger), 403),
        ("/metrics", Some(&"no.to.ken".to_owned()), 401),
        ("/status", Some(&reader), 200),
        ("/metrics", Some(&reader), 200),
    ] {
        let (code, text) = closed.page(path, token.map(String::as_str)).await?;
        ensure!(code == expected, "{path} {token:?}: {code}\n{text}");
        ensure!(code != 401 || text.to_lowercase().contains("www-authenticate: bearer"), "{text}");
    }
    let (_, metrics) = closed.page("/metrics", Some(&reader)).await?;
    for line in [
        r#"lockstep_calls_refused_total{reason="unauthenticated"} 3"#,
        r#"lockstep_calls_refused_total{reason="denied"} 1"#,
    ] {
        ensure!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
    let open = Closed::start(&["--http_open"]).await?;
    ensure!(open.page("/metrics", None).await?.0 == 200, "--http_open");
    Ok(())
}

#[tokio::test]
async fn calls_of_operators_and_refused_ones_are_audited_and_no_token_is_written() -> Result<()> {
    let mut closed = Closed::start(&["--log_level=trace"]).await?;
    let (root, reader) = (closed.token("root", &["--role", "admin"])?, closed.token("reader", &[])?);
    let mut manager = closed.manager(Some(root.clone())).await?;
    let request = AddVoterRequest { id: "nodeZ".into(), address: "localhost:1".into(), previous_index: 0 };
    let operation = manager.add_voter(request).await?.into_inner();
    manager.stats(StatsRequest {}).await?;
    let forged = format!("{}x", reader);
    let mut guest = closed.guest(Some(forged.clone())).await?;
    ensure!(code_of(&guest.ask(Request::default()).await) == Code::Unauthenticated, "a forged token");
    ensure!(
        code_of(&closed.manager(Some(reader.clone())).await?.stats(StatsRequest {}).await) == Code::PermissionDenied
    );
    closed.guest(Some(reader.clone())).await?.ask(Request::default()).await?;
    drop(operation);
    closed.cluster.nodes[0].stop().await?;
    let lines = closed.audit()?;
    let of = |who: &str, method: &str, code: &str| {
        let found = lines.iter().find(|line| line["who"] == who && line["method"] == method && line["code"] == code);
        found.with_context(|| format!("no line of {who} {method} {code}: {lines:?}"))
    };
    let added = of("root", "RaftManager/AddVoter", "OK")?;
    ensure!(added["arguments"]["raft_id"] == "nodeZ" && added["proof"] == "token", "{added}");
    ensure!(added["from"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{added}");
    of("root", "RaftManager/Stats", "OK")?;
    of("reader", "RaftManager/Stats", "PERMISSION_DENIED")?;
    let bad = of("anonymous", "statics.Statics/Ask", "UNAUTHENTICATED")?;
    ensure!(bad["text"].as_str().is_some_and(|text| text.contains("not signed by a key")), "{bad}");
    ensure!(!lines.iter().any(|line| line["code"] == "OK" && line["who"] == "reader"), "a query is no line: {lines:?}");
    let written = closed.node().log() + &std::fs::read_to_string(closed.path("audit"))?;
    ensure!(written.contains("audit: call who=root"), "the log has the lines, too:\n{written}");
    for token in [&root, &reader, &forged] {
        for part in token.split('.').skip(1) {
            ensure!(!written.contains(part), "a part of a token is in the log or the audit");
        }
    }
    Ok(())
}

#[test]
fn a_file_that_cannot_be_used_is_an_error_of_the_command_line() -> Result<()> {
    let place = tempfile::tempdir()?;
    let policy = place.path().join("policy");
    std::fs::write(&policy, "[[grant]]\nsubject = \"a\"\nrole = \"root\"\n")?;
    let policy = policy.display().to_string();
    let directory = place.path().display().to_string();
    let refused = |more: &[&str]| {
        let node = [
            "node",
            "--raft_id=a",
            "--raft_data_dir",
            &directory,
            "--grpc_addr=localhost:0",
            "--raft_addr=localhost:0",
        ];
        let output = lockstep(&[&node[..], more].concat())?;
        ensure!(output.status.code() == Some(2), "{}", printed::all(&output));
        Ok(printed::stderr(&output))
    };
    let text = refused(&["--policy", &policy])?;
    ensure!(text.contains("--policy") && text.contains("line 3, column 8: \"root\" is no role"), "{text}");
    let text = refused(&["--token_jwks", "/nowhere/jwks"])?;
    ensure!(text.contains("--token_jwks: there is no file /nowhere/jwks"), "{text}");
    let text = refused(&["--token_audience", "x"])?;
    ensure!(text.contains("--token_audience: without keys no token is taken"), "{text}");
    Ok(())
}
