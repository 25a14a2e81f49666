//! The certificates of `lockstep dev --tls`: made by the code of `lockstep tls init`, in the
//! directory of the run, for the nodes and for one client, who may do everything.

use std::path::{Path, PathBuf};

use lockstep_processes::Plan;

use crate::cli::credentials::Credentials;
use crate::cli::tls::{ClientRole, NodeNames, POLICY, Wanted, make};

/// Name of the directory within that of the run.
const DIRECTORY: &str = "certificates";
/// The client whose certificate is made.
const CLIENT: &str = "dev";
/// The run ends long before its certificates.
const DAYS: u32 = 365;

/// Where they lie.
pub(crate) struct Certificates {
    pub(crate) directory: PathBuf,
    pub(crate) policy: PathBuf,
}

impl Certificates {
    /// Makes those of a cluster.
    pub(crate) fn make(place: &Path, plan: &Plan) -> anyhow::Result<Certificates> {
        let directory = place.join(DIRECTORY);
        let nodes = plan.nodes.iter().map(|node| NodeNames { name: node.name.clone(), hosts: Vec::new() });
        make(&Wanted {
            directory: directory.clone(),
            nodes: nodes.collect(),
            clients: vec![ClientRole { name: CLIENT.into(), role: Some("admin") }],
            cluster_name: None,
            days: DAYS,
            localhost: true,
            renew: false,
            new_authority: false,
        })?;
        Ok(Certificates { policy: directory.join(POLICY), directory })
    }

    /// Returns what the client shows to nodes.
    pub(crate) fn credentials(&self) -> Credentials {
        let [ca, certificate, key] = self.of_client();
        Credentials::of_files(&ca, &certificate, &key)
    }

    /// Returns the variables that stand for the flags of the client, with their values.
    pub(crate) fn variables(&self) -> [(&'static str, String); 3] {
        let [ca, certificate, key] = self.of_client().map(|path| path.display().to_string());
        [("LOCKSTEP_CLIENT_TLS_CA", ca), ("LOCKSTEP_CLIENT_TLS_CERT", certificate), ("LOCKSTEP_CLIENT_TLS_KEY", key)]
    }

    /// The authorities, the certificate and the key of the client.
    fn of_client(&self) -> [PathBuf; 3] {
        ["ca.pem".into(), format!("{CLIENT}.pem"), format!("{CLIENT}.key")]
            .map(|name: String| self.directory.join(name))
    }
}
