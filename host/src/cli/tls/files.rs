//! The files of `lockstep tls init`: where they lie, and how they are written. A private key is for
//! its owner alone. Nothing is overwritten unless the caller renews it, and then in one step.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::KeyPair;

use super::certificate::Certificate;
use super::pem;
use crate::cli::report::Failure;

const FOR_ALL: u32 = 0o644;
const FOR_ITS_OWNER: u32 = 0o600;

/// A directory with certificates.
#[derive(Clone, Debug)]
pub(super) struct Files {
    directory: PathBuf,
}

/// What is there under a name.
pub(super) enum Found {
    Nothing,
    Certificate(Box<Certificate>),
}

impl Files {
    /// Opens the directory, and makes it if it is not there.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Files> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        Ok(Files { directory: directory.to_owned() })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Looks for the certificate of this name. A certificate without its key, and a key without its
    /// certificate, are refused: somebody lost the other half, or moved it away.
    pub(super) fn find(&self, name: &str) -> anyhow::Result<Found> {
        let (certificate, key) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        let lost = |there: &Path, missing: &Path| {
            Failure::new(format!("{} is there without {}", there.display(), missing.display()))
                .hint("bring the other file back, or move this one away: then both are made anew")
        };
        match (certificate.exists(), key.exists()) {
            (false, false) => Ok(Found::Nothing),
            (true, false) => Err(lost(&certificate, &key).into()),
            (false, true) => Err(lost(&key, &certificate).into()),
            (true, true) => Ok(Found::Certificate(Box::new(self.certificate(name)?))),
        }
    }

    /// Reads the first certificate of this name.
    pub(super) fn certificate(&self, name: &str) -> anyhow::Result<Certificate> {
        let path = self.path(&format!("{name}.pem"));
        let certificate = pem::read(&path)?.certificates.into_iter().next();
        Ok(certificate.ok_or_else(|| Failure::new(format!("{} holds no certificate", path.display())))?)
    }

    /// Reads the private key of this name.
    pub(super) fn key(&self, name: &str) -> anyhow::Result<KeyPair> {
        let path = self.path(&format!("{name}.key"));
        let key = pem::read(&path)?.keys.into_iter().next();
        Ok(key.ok_or_else(|| Failure::new(format!("{} holds no private key", path.display())))?)
    }

    /// Returns the names of all certificates that have a key beside them, sorted.
    pub(super) fn names(&self) -> anyhow::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.directory)
            .with_context(|| format!("cannot look into {}", self.directory.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.context("cannot look into the directory")?.path();
            let is_pair = path.extension().is_some_and(|it| it == "pem") && path.with_extension("key").exists();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            names.extend(stem.filter(|_| is_pair).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Writes a certificate and its key. The key comes first, so that a certificate never lies
    /// there without it.
    pub(super) fn write_pair(&self, name: &str, certificate: &str, key: &KeyPair) -> anyhow::Result<()> {
        self.write(&format!("{name}.key"), &key.serialize_pem(), FOR_ITS_OWNER)?;
        self.write(&format!("{name}.pem"), certificate, FOR_ALL)
    }

    /// Writes a file that everybody may read.
    pub(super) fn write_public(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.write(name, text, FOR_ALL)
    }

    /// Writes the whole file beside its place and then moves it there. A node that watches the file
    /// never sees half of it.
    fn write(&self, name: &str, text: &str, mode: u32) -> anyhow::Result<()> {
        let (beside, path) = (self.path(&format!(".{name}.new")), self.path(name));
        let written = || -> std::io::Result<()> {
            // What an interrupted run left may have another mode.
            match std::fs::remove_file(&beside) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }
}
