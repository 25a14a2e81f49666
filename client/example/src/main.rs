//! Writes one key of the key-value guest and reads it back: `kv-client <addresses> <key> <value>`.
//! Flags behind the value say how it speaks and who it is: `--tls_ca FILE`, `--tls_cert FILE
//! --tls_key FILE`, `--token_file FILE`.

use std::time::Duration;

use anyhow::{Context, bail};
use lockstep_client::{Options, Outcome, Tls, Token, index, outcome};
use pb::example_client::ExampleClient;
use pb::{AddRequest, GetRequest};

#[allow(missing_docs, clippy::all)]
mod pb {
    tonic::include_proto!("_");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [addresses, key, value, flags @ ..] = &arguments[..] else {
        bail!(
            "usage: kv-client <addresses> <key> <value> [--tls_ca FILE] [--tls_cert FILE --tls_key FILE] [--token_file FILE]"
        )
    };
    let cluster = options(flags)?.connect(addresses).await?;

    // A command. When nobody knows whether it ran, the user of this program decides what to do.
    let mut client = ExampleClient::new(cluster.clone());
    let mut request = tonic::Request::new(AddRequest { key: key.clone(), val: value.clone() });
    request.set_timeout(Duration::from_secs(5));
    match client.add(request).await {
        Ok(response) => println!("written at index {}", index(response.metadata()).context("no index")?),
        Err(status) => match outcome(&status) {
            Outcome::NotApplied => bail!("not written: {}", status.message()),
            Outcome::Unknown => bail!("perhaps written: {}", status.message()),
            Outcome::Applied => bail!("refused by the guest: {}", status.message()),
        },
    }

    // A query changes nothing, so it may be sent again whatever happened to it.
    let mut reader = ExampleClient::new(cluster.repeating());
    let read = reader.get(GetRequest { key: key.clone(), linearizable: true }).await?;
    println!("read {:?}", read.into_inner().value);
    Ok(())
}

/// Reads how to speak and who to be. Without flags nothing is encrypted, and nobody is named.
fn options(flags: &[String]) -> anyhow::Result<Options> {
    let mut files = std::collections::BTreeMap::new();
    for pair in flags.chunks(2) {
        let [flag, file] = pair else { bail!("{} needs a file", pair[0]) };
        files.insert(flag.as_str(), file.as_str());
    }
    let mut options = Options::default();
    if let Some(authorities) = files.remove("--tls_ca") {
        let tls = Tls::trusting_file(authorities);
        options.tls = Some(match (files.remove("--tls_cert"), files.remove("--tls_key")) {
            (Some(certificate), Some(key)) => tls.identity_files(certificate, key),
            _ => tls,
        });
    }
    options.token = files.remove("--token_file").map(Token::file);
    match files.keys().next() {
        Some(flag) => bail!("{flag} is unknown here, or needs another flag"),
        None => Ok(options),
    }
}
