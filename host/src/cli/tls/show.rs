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
    told.push(("sha256", certificate.fingerprint()));
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::cli::tls::holder::{ClientRole, NodeNames};
    use crate::cli::tls::init::{Wanted, make};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// Makes an authority, a node and a client.
    fn made() -> TempDir {
        let place = tempfile::tempdir().unwrap();
        let wanted = Wanted {
            directory: place.path().to_owned(),
            nodes: vec![NodeNames::parse("nodeA=db1.example,10.0.0.1").unwrap()],
            clients: vec![ClientRole::parse("alice:admin").unwrap()],
            cluster_name: None,
            days: 30,
            localhost: false,
            renew: false,
            new_authority: false,
        };
        make(&wanted).unwrap();
        place
    }

    /// Returns what is told of a file ten days before the end of its certificate.
    fn told_of(file: &Path) -> Told {
        let contents = pem::read(file).unwrap();
        let now = contents.certificates.first().map_or_else(SystemTime::now, |it| it.not_after - 10 * DAY);
        told(file, &contents, &authorities(&[file.to_owned()]), now)
    }

    /// Returns the texts with this title.
    fn under<'a>(told: &'a [(&'static str, String)], title: &str) -> Vec<&'a str> {
        told.iter().filter(|(it, _)| *it == title).map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn a_nodes_certificate_is_told_with_its_names_its_issuer_and_its_key() {
        let place = made();
        let told = told_of(&place.path().join("nodeA.pem"));
        assert_eq!(under(&told, "certificate"), ["node nodeA of the cluster \"lockstep\""]);
        assert_eq!(under(&told, "names"), ["lockstep://lockstep/node/nodeA, nodeA, db1.example, 10.0.0.1"]);
        assert_eq!(under(&told, "proves"), ["a server and a client, as nodes need it at both ports"]);
        let issuer = under(&told, "issuer")[0];
        assert!(issuer.ends_with(&format!("which is in {}", place.path().join("ca.pem").display())), "{issuer}");
        assert_eq!((under(&told, "key").len(), under(&told, "sha256")[0].is_empty()), (1, false));
        let pair = under(&told, "pair")[0];
        assert!(pair.starts_with("key and certificate belong together") && pair.ends_with("nodeA.key"), "{pair}");
        assert!(under(&told, "valid")[0].ends_with("10 days left: renew it soon"), "{told:?}");
        assert!(under(&told, PROBLEM).is_empty(), "{told:?}");
    }

    #[test]
    fn a_client_and_an_authority_are_told_as_such() {
        let place = made();
        let client = told_of(&place.path().join("alice.pem"));
        assert_eq!(under(&client, "certificate"), ["client alice of the cluster \"lockstep\""]);
        assert_eq!(under(&client, "proves"), ["a client only; a node cannot use it"]);
        let authority = told_of(&place.path().join("ca.pem"));
        let expected = "an authority, of the cluster \"lockstep\" if `lockstep tls init` made it";
        assert_eq!(under(&authority, "certificate"), [expected]);
        assert_eq!((under(&authority, "issuer"), under(&authority, "proves")), (vec!["itself"], vec![]));
        // Away from its authority and its key.
        let elsewhere = tempfile::tempdir().unwrap();
        let alone = elsewhere.path().join("alice.pem");
        std::fs::copy(place.path().join("alice.pem"), &alone).unwrap();
        let told = told_of(&alone);
        let issuer = under(&told, "issuer")[0];
        assert!(issuer.ends_with("which is not among these files"), "{issuer}");
        assert!(under(&told, "pair").is_empty() && under(&told, PROBLEM).is_empty(), "{told:?}");
    }

    #[test]
    fn the_time_left_is_told_in_days_and_one_that_does_not_hold_is_a_problem() {
        let place = made();
        let contents = pem::read(&place.path().join("nodeA.pem")).unwrap();
        let certificate = &contents.certificates[0];
        let second = Duration::from_secs(1);
        let rows = [
            (certificate.not_before - second, PROBLEM, "it does not hold yet; is the clock of this machine right?"),
            (certificate.not_after - 14 * DAY, "valid", ", 14 days left"),
            (certificate.not_after - 14 * DAY + second, "valid", ", 13 days left: renew it soon"),
            (certificate.not_after - DAY, "valid", ", 1 day left: renew it soon"),
            (certificate.not_after + second, PROBLEM, "it expired 0 days ago; every TLS library refuses it"),
            (certificate.not_after + DAY, PROBLEM, "it expired 1 day ago; every TLS library refuses it"),
        ];
        for (now, title, expected) in rows {
            let told = about(certificate, &[], now);
            let text = under(&told, title);
            assert!(text.len() == 1 && text[0].ends_with(expected), "{expected}: {told:?}");
            let dates = format!("{} to {}, ", date(certificate.not_before), date(certificate.not_after));
            assert!(text[0].starts_with(&dates), "{told:?}");
        }
    }

    #[test]
    fn a_key_is_told_without_its_content_and_what_is_wrong_with_it_is_a_problem() {
        let place = made();
        let key = place.path().join("alice.key");
        let told = told_of(&key);
        assert_eq!(under(&told, "key"), ["a private key; only its owner should be able to read this file"]);
        assert!(under(&told, "pair")[0].ends_with("alice.pem") && under(&told, PROBLEM).is_empty(), "{told:?}");
        let secret = std::fs::read_to_string(&key).unwrap();
        let secret = secret.lines().nth(1).unwrap();
        assert!(!format!("{told:?}").contains(secret), "{told:?}");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let told = told_of(&key);
        let problem = under(&told, PROBLEM)[0];
        assert!(problem.starts_with("others can read or change it (mode 644): chmod 600 "), "{problem}");
        // Another one's key.
        std::fs::copy(&key, place.path().join("nodeA.key")).unwrap();
        let told = told_of(&place.path().join("nodeA.pem"));
        let problem = under(&told, PROBLEM)[0];
        assert!(problem.starts_with("key and certificate do not belong together: the key is in "), "{problem}");
    }

    #[test]
    fn a_problem_of_any_file_is_the_end_of_the_command() {
        let place = made();
        let show =
            |names: &[&str]| run(&ShowArgs { files: names.iter().map(|name| place.path().join(name)).collect() });
        show(&["ca.pem", "nodeA.pem", "nodeA.key"]).unwrap();
        let error = show(&["nodeA.pem", "nothing.pem"]).unwrap_err().to_string();
        assert!(error.starts_with("cannot read ") && error.contains("nothing.pem"), "{error}");
        std::fs::write(place.path().join("empty.pem"), "").unwrap();
        let error = show(&["nothing.pem", "empty.pem"]).unwrap_err().to_string();
        assert_eq!(error, "2 problems, which are shown above");
    }
}
