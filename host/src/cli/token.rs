//! `lockstep token`: makes a key, makes tokens with it, and shows what stands in a token. `trust`
//! does the work. It talks to no node.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::report::{Failure, print_line, print_notice};
use crate::trust::{NewToken, Role, TOKEN_BYTES_MAX, new_key, show, write_new};

/// Most bytes of a key file. A large RSA key has some thousand.
const KEY_BYTES_MAX: u64 = 64 << 10;

const AFTER_HELP: &str = "\
Examples:
  lockstep token keygen --key token.pem --jwks token.jwks
  lockstep node --raft_id=nodeA --token_jwks token.jwks --policy policy.toml
  lockstep token create --key token.pem --subject alice --role writer --ttl 1h > alice.token
  lockstep token show alice.token";

/// Make tokens for clients, without an identity provider.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make an Ed25519 key: the private one for `token create`, the public one for --token_jwks
    #[command(after_help = "Example:\n  lockstep token keygen --key token.pem --jwks token.jwks")]
    Keygen(KeygenArgs),
    /// Print a token
    #[command(after_help = "\
Example:
  lockstep token create --key token.pem --subject alice --role writer --ttl 1h > alice.token

Whoever has the token is its subject until it expires: keep it as a password, and short.")]
    Create(CreateArgs),
    /// Print what stands in a token, without checking it
    #[command(after_help = "Examples:\n  lockstep token show alice.token\n  lockstep token show - < alice.token")]
    Show(ShowArgs),
}

#[derive(Debug, Args)]
struct KeygenArgs {
    /// File for the private key. It must not be there yet; only you may read it
    #[arg(long = "key", value_name = "FILE")]
    key: PathBuf,

    /// File for the public key, as a JWKS. It must not be there yet
    #[arg(long = "jwks", value_name = "FILE")]
    jwks: PathBuf,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Private key in PEM: Ed25519, P-256 or RSA
    #[arg(long = "key", value_name = "FILE")]
    key: PathBuf,

    /// Whom the token names
    #[arg(long = "subject", value_name = "NAME")]
    subject: String,

    /// Role that the token gives; more than one with commas. Without it, the policy alone decides
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',', value_parser = role)]
    role: Vec<Role>,

    /// How long the token is good
    #[arg(long = "ttl", value_name = "DURATION", value_parser = ttl)]
    ttl: Duration,

    /// Issuer that the token names
    #[arg(long = "issuer", value_name = "TEXT")]
    issuer: Option<String>,

    /// Audience that the token names
    #[arg(long = "audience", value_name = "TEXT")]
    audience: Option<String>,

    /// Name of the key, if the JWKS has more than one
    #[arg(long = "kid", value_name = "TEXT")]
    kid: Option<String>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// File with the token, or - for stdin
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

fn role(text: &str) -> Result<Role, String> {
    Role::named(text).ok_or_else(|| "there are reader, writer, operator and admin".into())
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if ttl < Duration::from_secs(1) || ttl > crate::config::DURATION_MAX * 12 {
        return Err("a token is good for 1s to 360days".into());
    }
    Ok(ttl)
}

/// Runs one of the subcommands.
pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<()> {
    match &args.command {
        TokenCommand::Keygen(args) => keygen(args),
        TokenCommand::Create(args) => create(args),
        TokenCommand::Show(args) => shown(args),
    }
}

fn keygen(args: &KeygenArgs) -> anyhow::Result<()> {
    // Both are looked for first, so that a key without its public half is not left behind.
    for path in [&args.key, &args.jwks] {
        if path.exists() {
            return Err(not_written(path, &std::io::ErrorKind::AlreadyExists.into()).into());
        }
    }
    let key = new_key().map_err(Failure::new)?;
    write_new(&args.key, &key.pem, 0o600).map_err(|error| not_written(&args.key, &error))?;
    write_new(&args.jwks, &key.jwks, 0o644).map_err(|error| not_written(&args.jwks, &error))?;
    print_line(format!(
        "{}: the private key; keep it where tokens are made\n{}: the public key {}, for --token_jwks of every node",
        args.key.display(),
        args.jwks.display(),
        key.kid
    ))
}

fn not_written(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("{} cannot be written: {error}", path.display()));
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => failure.hint("a key is never overwritten; choose another name"),
        _ => failure,
    }
}

fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let pem = read(&args.key, KEY_BYTES_MAX)?;
    let token = NewToken {
        subject: args.subject.clone(),
        roles: args.role.clone(),
        ttl: args.ttl,
        issuer: args.issuer.clone(),
        audience: args.audience.clone(),
        kid: args.kid.clone(),
    };
    let signed = token.sign(&pem, SystemTime::now());
    print_line(signed.map_err(|problem| Failure::new(format!("{}: {problem}", args.key.display())))?)
}

fn shown(args: &ShowArgs) -> anyhow::Result<()> {
    let token = read(&args.file, 2 * TOKEN_BYTES_MAX as u64)?;
    let shown = show(token.trim()).map_err(|problem| Failure::new(format!("{}: {problem}", args.file.display())))?;
    print_line(format!("{:#}", shown.json))?;
    let expiry = match shown.expires {
        None => "it has no expiry, and no node takes it".to_owned(),
        Some(expires) => expiry(expires, SystemTime::now()),
    };
    print_notice(format_args!("{expiry}; its signature was not checked"));
    Ok(())
}

fn expiry(expires: SystemTime, now: SystemTime) -> String {
    let whole = |duration: Duration| humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    let at = humantime::format_rfc3339_seconds(expires);
    match expires.duration_since(now) {
        Ok(left) => format!("it expires at {at}, in {}", whole(left)),
        Err(ago) => format!("it expired at {at}, {} ago", whole(ago.duration())),
    }
}

fn read(path: &Path, bytes_max: u64) -> anyhow::Result<String> {
    let failed = |error: std::io::Error| Failure::new(format!("{} cannot be read: {error}", path.display()));
    let mut text = String::new();
    let from: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    from.take(bytes_max + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        return Err(Failure::new(format!("{} is larger than {bytes_max} bytes", path.display())).into());
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_is_told_in_both_directions() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let hour = Duration::from_secs(3600);
        assert_eq!(expiry(at, at - hour), "it expires at 2026-09-21T14:13:20Z, in 1h");
        assert_eq!(expiry(at, at + hour), "it expired at 2026-09-21T14:13:20Z, 1h ago");
    }

    #[test]
    fn roles_and_times_are_checked() {
        assert_eq!(role("admin"), Ok(Role::Admin));
        assert!(role("root").unwrap_err().contains("operator"));
        assert!(ttl("1h").is_ok() && ttl("0s").is_err() && ttl("400days").is_err() && ttl("long").is_err());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let args = KeygenArgs { key: place.path().join("key"), jwks: place.path().join("jwks") };
        std::fs::write(&args.jwks, "here").unwrap();
        assert!(keygen(&args).unwrap_err().to_string().contains("jwks cannot be written"));
        assert!(!args.key.exists(), "a key without its public half is of no use");
    }
}
