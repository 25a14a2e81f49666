//! `lockstep tls show`: explains certificates and keys in words, and says what is wrong with them.
//! It prints nothing of a private key but whether it fits.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::KeyPair;

use super::certificate::{Certificate, TimeLeft, date};
use super::pem::{self, Contents};
use crate::cli::report::{Failure, print_line};

/// Days before the end of a certificate at which a node begins to warn.
const SOON_DAYS: u64 = 14;

const AFTER_HELP: &str = "\
A key is looked for beside a certificate, and a certificate beside a key: nodeA.pem and nodeA.key. Authorities are looked for in
the named files and in ca*.pem beside them. It exits with code 1 if something is wrong: expired, no pair, unreadable.

Examples:
  lockstep tls show certs/nodeA.pem
  lockstep tls show certs/*.pem";

/// Say in words what certificates and keys are and whether they fit together.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct ShowArgs {
    /// PEM files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Explains each file.
pub(super) fn run(args: &ShowArgs) -> anyhow::Result<()> {
    let authorities = authorities(&args.files);
    let mut problems = Vec::new();
    for (count, file) in args.files.iter().enumerate() {
        if count > 0 {
            print_line("")?;
        }
        print_line(file.display())?;
        let contents = match pem::read(file) {
            Ok(contents) => contents,
            Err(failure) => {
                print_line(format!("  problem      {failure}"))?;
                problems.push(failure.to_string());
                continue;
            }
        };
        let told = told(file, &contents, &authorities, SystemTime::now());
        for (title, text) in &told {
            print_line(format!("  {title:<12} {text}"))?;
            if *title == PROBLEM {
                problems.push(format!("{}: {text}", file.display()));
            }
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(Failure::new(problems.remove(0)).into()),
        count => Err(Failure::new(format!("{count} problems, which are shown above")).into()),
    }
}

const PROBLEM: &str = "problem";

/// The lines about one file: a title and a text each.
type Told = Vec<(&'static str, String)>;

/// Returns all authorities in the files and beside them, each with the file that holds it.
fn authorities(files: &[PathBuf]) -> Vec<(PathBuf, Certificate)> {
    let mut places: Vec<PathBuf> = files.to_vec();
    for file in files {
        let beside = file.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
        let Some(Ok(entries)) = beside.map(std::fs::read_dir) else { continue };
        let is_authority = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ca") && name.ends_with(".pem")
        };
        let mut found: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| is_authority(path)).collect();
        found.sort();
        places.extend(found);
    }
    let mut authorities = Vec::new();
    for place in places {
        // What is wrong with a named file is said when it is its turn.
        let certificates = pem::read(&place).map(|contents| contents.certificates).unwrap_or_default();
        authorities.extend(certificates.into_iter().filter(|it| it.is_authority).map(|it| (place.clone(), it)));
    }
    authorities
}

fn told(file: &Path, contents: &Contents, authorities: &[(PathBuf, Certificate)], now: SystemTime) -> Told {
    let mut told = Told::new();
    for certificate in &contents.certificates {
        told.extend(about(certificate, authorities, now));
    }
    let key = contents.keys.first();
    let leaf = contents.certificates.iter().find(|certificate| !certificate.is_authority);
    match (leaf.or(contents.certificates.first()), key) {
        (Some(certificate), Some(key)) => told.push(fit(certificate, key, "both are in this file")),
        (Some(certificate), None) => told.extend(beside(file, "key", |there| {
            let key = there.keys.first()?;
            Some(fit(certificate, key, &format!("the key is in {}", file.with_extension("key").display())))
        })),
        (None, Some(key)) => {
            told.push(("key", "a private key; only its owner should be able to read this file".into()));
            told.extend(beside(file, "pem", |there| {
                let certificate = there.certificates.first()?;
                Some(fit(certificate, key, &format!("the certificate is in {}", file.with_extension("pem").display())))
            }));
            told.extend(open_to_others(file));
        }
        (None, None) => {}
    }
    told.extend(contents.others.iter().map(|other| ("also", format!("{other}, which nodes ignore"))));
    told
}

fn beside<T>(file: &Path, extension: &str, then: impl FnOnce(Contents) -> Option<T>) -> Option<T> {
    let there = file.with_extension(extension);
    if there == file {
        return None;
    }
    pem::read(&there).ok().and_then(then)
}

fn fit(certificate: &Certificate, key: &KeyPair, named: &str) -> (&'static str, String) {
    match key.public_key_raw() == certificate.public_key {
        true => ("pair", format!("key and certificate belong together: {named}")),
        false => (PROBLEM, format!("key and certificate do not belong together: {named}; nodes refuse the two")),
    }
}

fn open_to_others(file: &Path) -> Option<(&'static str, String)> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata().ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0)
        .then(|| (PROBLEM, format!("others can read or change it (mode {mode:o}): chmod 600 {}", file.display())))
}

/// Returns the lines about one certificate.
fn about(certificate: &Certificate, authorities: &[(PathBuf, Certificate)], now: SystemTime) -> Told {
    let mut told = vec![("certificate", meaning(certificate)), ("subject", certificate.subject.clone())];
    let names: Vec<String> =
        certificate.uris.iter().cloned().chain(certificate.hosts().iter().map(ToString::to_string)).collect();
    if !names.is_empty() {
        told.push(("names", names.join(", ")));
    }
    if !certificate.is_authority {
        told.push(("proves", proves(certificate.uses).into()));
    }
    told.push(("issuer", issuer(certificate, authorities)));
    told.push(("key", certificate.key.clone()));
    let (from, to) = (date(certificate.not_before), date(certificate.not_after));
    let (title, left) = match certificate.time_left(now) {
        TimeLeft::NotYet => (PROBLEM, "it does not hold yet; is the clock of this machine right?".to_owned()),
        TimeLeft::Expired(days) => (PROBLEM, format!("it expired {} ago; every TLS library refuses it", count(days))),
        TimeLeft::Days(days) if days < SOON_DAYS => ("valid", format!("{} left: renew it soon", count(days))),
        TimeLeft::Days(days) => ("valid", format!("{} left", count(days))),
    };
    told.push((title, format!("{from} to {to}, {left}")));
    told
}

fn count(days: u64) -> String {
    if days == 1 { "1 day".into() } else { format!("{days} days") }
}

/// Says what a certificate means to a cluster.
fn meaning(certificate: &Certificate) -> String {
    if certificate.is_authority {
        return match certificate.organization.as_str() {
            "" => "an authority; what it signed is trusted wherever this file is given as a CA".into(),
            cluster => format!("an authority, of the cluster {cluster:?} if `lockstep tls init` made it"),
        };
    }
    if let Some(holder) = certificate.holder() {
        return holder.to_string();
    }
    match (certificate.uses.0, certificate.common_name.as_str()) {
        (true, _) => match certificate.dns_names.first() {
            Some(name) => format!("of a server; at the peer port it is a node with the --raft_id {name}"),
            None => "of a server; it names no node, so peers refuse it".into(),
        },
        (false, "") => "of a client without a common name; nodes do not know whom it stands for".into(),
        (false, name) => format!("client {name}, by its common name"),
    }
}

fn proves((server, client): (bool, bool)) -> &'static str {
    match (server, client) {
        (true, true) => "a server and a client, as nodes need it at both ports",
        (true, false) => "a server only; a node cannot use it at the peer port",
        (false, true) => "a client only; a node cannot use it",
        (false, false) => "neither a server nor a client: nothing here can use it",
    }
}

fn issuer(certificate: &Certificate, authorities: &[(PathBuf, Certificate)]) -> String {
    match authorities.iter().find(|(_, authority)| certificate.is_signed_by(authority)) {
        _ if certificate.is_signed_by(certificate) => "itself".into(),
        Some((path, _)) => format!("{}, which is in {}", certificate.issuer, path.display()),
        None => format!("{}, which is not among these files", certificate.issuer),
    }
}
