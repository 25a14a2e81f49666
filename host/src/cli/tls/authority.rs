//! Certificate authorities of a directory: `ca`, and `ca-2` and so on for a change of authority.
//! The newest one signs. It signs for nodes and clients, and for nothing else.

use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::certificate::{TimeLeft, date};
use super::files::{Files, Found};
use super::holder::{CLUSTER_NAME, Holder, Host, Kind};
use crate::cli::report::Failure;

/// The bundle of all authorities of a directory, while there is more than one.
pub(super) const BUNDLE: &str = "ca-bundle.pem";
/// How long an authority holds.
const AUTHORITY_DAYS: u32 = 3650;
/// How far back a certificate begins, so that a machine whose clock is a little behind takes it.
const CLOCK_LEEWAY: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority that can sign.
pub(super) struct Authority {
    /// Its file without the ending.
    pub(super) name: String,
    pub(super) cluster: String,
    pub(super) not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Takes the newest authority of the directory. `None` if there is none yet.
    pub(super) fn newest(files: &Files, cluster: Option<&str>) -> anyhow::Result<Option<Authority>> {
        let Some(name) = all(files)?.pop() else { return Ok(None) };
        let certificate = files.certificate(&name)?;
        let path = files.path(&format!("{name}.pem"));
        if let TimeLeft::Expired(_) = certificate.time_left(SystemTime::now()) {
            let problem = format!("{} expired on {}", path.display(), date(certificate.not_after));
            return Err(Failure::new(problem).hint("make another authority with --new_ca").into());
        }
        let named = Some(certificate.organization.as_str()).filter(|named| !named.is_empty());
        match (named, cluster) {
            (Some(named), Some(cluster)) if named != cluster => {
                let problem =
                    format!("{} is the authority of the cluster {named:?}, not of {cluster:?}", path.display());
                return Err(Failure::usage(problem).hint("use a directory for each cluster").into());
            }
            _ => {}
        }
        let key = files.key(&name)?;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let issuer = Issuer::from_ca_cert_pem(&text, key).with_context(|| format!("{} cannot sign", path.display()))?;
        let cluster = named.or(cluster).unwrap_or(CLUSTER_NAME).to_owned();
        Ok(Some(Authority { name, cluster, not_after: certificate.not_after, issuer }))
    }

    /// Makes the first authority, or another one beside those that are there.
    pub(super) fn make(files: &Files, cluster: &str, days: u32) -> anyhow::Result<Authority> {
        let before = all(files)?;
        let name = match before.len() {
            0 => "ca".to_owned(),
            count => format!("ca-{}", count + 1),
        };
        let mut params = CertificateParams::default();
        let title = format!("Lockstep authority {} of {cluster}", before.len() + 1);
        params.distinguished_name.push(DnType::CommonName, title);
        params.distinguished_name.push(DnType::OrganizationName, cluster);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let not_after = limit(&mut params, days.max(AUTHORITY_DAYS), None);
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.self_signed(&key).context("cannot make the authority")?;
        files.write_pair(&name, &certificate.pem(), &key)?;
        if !before.is_empty() {
            let mut bundle = String::new();
            for name in before.iter().chain([&name]) {
                let path = files.path(&format!("{name}.pem"));
                bundle += &std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            }
            files.write_public(BUNDLE, &bundle)?;
        }
        Ok(Authority { name, cluster: cluster.to_owned(), not_after, issuer: Issuer::new(params, key) })
    }

    /// Makes a certificate with a key of its own, for a node or a client of the cluster. It does
    /// not outlive the authority.
    pub(super) fn sign(&self, files: &Files, kind: Kind, name: &str, hosts: &[Host], days: u32) -> anyhow::Result<()> {
        let holder = Holder { cluster: self.cluster.clone(), kind, name: name.to_owned() };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, self.cluster.as_str());
        params.subject_alt_names = vec![SanType::URI(holder.uri().try_into()?)];
        for host in hosts {
            params.subject_alt_names.push(match host {
                Host::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                Host::Ip(ip) => SanType::IpAddress(*ip),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match kind {
            Kind::Node => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Kind::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, days, Some(self.not_after));
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot make the certificate")?;
        files.write_pair(name, &certificate.pem(), &key)
    }
}

/// Returns the names of the authorities of a directory, the newest last.
fn all(files: &Files) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for number in 1_u32.. {
        let name = if number == 1 { "ca".to_owned() } else { format!("ca-{number}") };
        match files.find(&name)? {
            Found::Certificate(certificate) if certificate.is_authority => names.push(name),
            Found::Certificate(_) => {
                let path = files.path(&format!("{name}.pem"));
                return Err(Failure::new(format!("{} is not the certificate of an authority", path.display())).into());
            }
            Found::Nothing => break,
        }
    }
    Ok(names)
}

/// Sets how long a certificate holds, and returns its end.
fn limit(params: &mut CertificateParams, days: u32, end_max: Option<SystemTime>) -> SystemTime {
    let now = SystemTime::now();
    let wanted = now + DAY * days;
    let end = end_max.map_or(wanted, |max| wanted.min(max));
    let since_1970 = |moment: SystemTime| {
        // The clock of a machine is behind 1970 only when it is broken.
        let seconds = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    params.not_before = since_1970(now - CLOCK_LEEWAY);
    params.not_after = since_1970(end);
    end
}
