//! `lockstep token`: makes a key, makes tokens with it, and shows what stands in a token. `trust`
//! does the work. It talks to no node.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};

use super::report::{Failure, print_line, print_notice};
use crate::trust::{
    KEYS_BYTES_MAX, NewKey, NewToken, Role, TOKEN_BYTES_MAX, new_key, show, with_key, write_new, write_over,
};

/// Most bytes of a key file. A large RSA key has some thousand.
const KEY_BYTES_MAX: u64 = 64 << 10;

const AFTER_HELP: &str = "\
Examples:
  lockstep token keygen --key token.pem --jwks token.jwks
  lockstep node --raft_id=nodeA --token_jwks token.jwks --policy policy.toml
  lockstep token create --key token.pem --subject alice --role writer --ttl 1h --out alice.token
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
    #[command(after_help = "\
Examples:
  lockstep token keygen --key token.pem --jwks token.jwks
  lockstep token keygen --key token-2.pem --add_to token.jwks")]
    Keygen(KeygenArgs),
    /// Make a token, and print it or write it to a file
    #[command(after_help = "\
Example:
  lockstep token create --key token.pem --subject alice --role writer --ttl 1h --out alice.token

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
    #[arg(long = "jwks", value_name = "FILE", required_unless_present = "add_to", conflicts_with = "add_to")]
    jwks: Option<PathBuf>,

    /// JWKS to which the public key is added, beside those that it has, so that nodes take tokens
    /// of both
    #[arg(long = "add_to", value_name = "FILE")]
    add_to: Option<PathBuf>,
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

    /// File for the token in place of stdout; only you may read it. It replaces one that is there
    #[arg(long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
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
    // All is looked for first, so that a key without its public half is not left behind.
    for path in [Some(&args.key), args.jwks.as_ref()].into_iter().flatten() {
        if path.exists() {
            return Err(not_written(path, &std::io::ErrorKind::AlreadyExists.into()).into());
        }
    }
    let key = new_key().map_err(Failure::new)?;
    let added = args.add_to.as_deref().map(|path| added(path, &key).map(|text| (path, text))).transpose()?;
    write_new(&args.key, &key.pem, 0o600).map_err(|error| not_written(&args.key, &error))?;
    if let Some(jwks) = &args.jwks {
        write_new(jwks, &key.jwks, 0o644).map_err(|error| not_written(jwks, &error))?;
    }
    if let Some((path, text)) = &added {
        write_over(path, text, 0o644).map_err(|error| not_written(path, &error))?;
    }
    let public = args.jwks.as_deref().or(args.add_to.as_deref()).unwrap_or(Path::new("-")).display();
    let also = if args.add_to.is_some() { "beside those that it had, " } else { "" };
    print_line(format!(
        "{}: the private key; keep it where tokens are made\n{public}: the public key {}, {also}for --token_jwks of every node",
        args.key.display(),
        key.kid
    ))
}

/// Returns the JWKS of the file with the new key.
fn added(path: &Path, key: &NewKey) -> anyhow::Result<String> {
    let jwks = read(path, KEYS_BYTES_MAX as u64)?;
    let refused = |problem: String| {
        Failure::new(format!("{}: {problem}", path.display())).hint("name the JWKS that nodes have as --token_jwks")
    };
    Ok(with_key(&jwks, key).map_err(refused)?)
}

fn not_written(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("{} cannot be written: {error}", path.display()));
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => failure.hint("a key is never overwritten; choose another name"),
        _ => failure,
    }
}

fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let is_same = |out: &PathBuf| std::fs::canonicalize(out).ok() == std::fs::canonicalize(&args.key).ok();
    if args.out.as_ref().is_some_and(|out| out.exists() && is_same(out)) {
        return Err(Failure::usage("--out names the file of the private key, which the token would replace").into());
    }
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
    let signed = signed.map_err(|problem| Failure::new(format!("{}: {problem}", args.key.display())))?;
    match &args.out {
        None => print_line(signed),
        Some(path) => Ok(write_over(path, &format!("{signed}\n"), 0o600).map_err(|error| not_written(path, &error))?),
    }
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
        let jwks = place.path().join("jwks");
        let args = KeygenArgs { key: place.path().join("key"), jwks: Some(jwks.clone()), add_to: None };
        std::fs::write(&jwks, "here").unwrap();
        assert!(keygen(&args).unwrap_err().to_string().contains("jwks cannot be written"));
        assert!(!args.key.exists(), "a key without its public half is of no use");
        let args = KeygenArgs { jwks: None, add_to: Some(jwks.clone()), ..args };
        assert!(keygen(&args).unwrap_err().to_string().contains("it is neither JSON nor PEM"));
        assert!(!args.key.exists(), "a key without its public half is of no use");
    }

    #[test]
    fn a_token_in_a_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let (key, out) = (place.path().join("key"), place.path().join("token"));
        keygen(&KeygenArgs { key: key.clone(), jwks: Some(place.path().join("jwks")), add_to: None }).unwrap();
        std::fs::write(&out, "an older one").unwrap();
        let args = CreateArgs {
            key,
            subject: "alice".into(),
            role: Vec::new(),
            ttl: Duration::from_secs(60),
            issuer: None,
            audience: None,
            kid: None,
            out: Some(out.clone()),
        };
        create(&args).unwrap();
        assert!(show(std::fs::read_to_string(&out).unwrap().trim()).is_ok());
        assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let over_the_key = CreateArgs { out: Some(args.key.clone()), ..args };
        assert!(create(&over_the_key).unwrap_err().to_string().contains("private key"));
        assert!(read(&over_the_key.key, KEY_BYTES_MAX).unwrap().contains("PRIVATE KEY"));
    }

    #[test]
    fn a_second_key_is_added_to_the_first() {
        let place = tempfile::tempdir().unwrap();
        let (key, jwks) = (place.path().join("key"), place.path().join("jwks"));
        keygen(&KeygenArgs { key, jwks: Some(jwks.clone()), add_to: None }).unwrap();
        keygen(&KeygenArgs { key: place.path().join("key-2"), jwks: None, add_to: Some(jwks.clone()) }).unwrap();
        let set: serde_json::Value = serde_json::from_slice(&std::fs::read(&jwks).unwrap()).unwrap();
        assert_eq!(set["keys"].as_array().unwrap().len(), 2);
    }
}
