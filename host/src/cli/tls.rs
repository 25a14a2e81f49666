//! `lockstep tls`: makes the certificates of a cluster, and says what is in such files. It starts
//! no node and asks none. A node reads and checks its files itself (`tls/`).

mod authority;
mod certificate;
mod files;
mod holder;
mod init;
mod pem;
mod policy;
mod show;

use clap::Subcommand;

pub(crate) use holder::{ClientRole, NodeNames};
pub(crate) use init::{Wanted, make};
pub(crate) use policy::FILE as POLICY;

const AFTER_HELP: &str = "\
Examples:
  lockstep tls init certs --node nodeA=db1.example,10.0.0.1 --node nodeB=db2.example --client alice:admin
  lockstep tls show certs/nodeA.pem";

/// Make the certificates of a cluster, and look at them.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct TlsArgs {
    #[command(subcommand)]
    command: TlsCommand,
}

#[derive(Debug, Subcommand)]
enum TlsCommand {
    /// Make a certificate authority, certificates for nodes and clients, and a policy
    Init(init::InitArgs),
    /// Say in words what certificates and keys are and whether they fit together
    Show(show::ShowArgs),
}

/// Runs one of the tools.
pub(crate) fn run(args: &TlsArgs) -> anyhow::Result<()> {
    match &args.command {
        TlsCommand::Init(args) => init::run(args),
        TlsCommand::Show(args) => show::run(args),
    }
}
