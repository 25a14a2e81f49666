//! Writes one key of the key-value guest and reads it back: `kv-client <addresses> <key> <value>`.

use std::time::Duration;

use anyhow::{Context, bail};
use lockstep_client::{Outcome, index, outcome};
use pb::example_client::ExampleClient;
use pb::{AddRequest, GetRequest};

#[allow(missing_docs, clippy::all)]
mod pb {
    tonic::include_proto!("_");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [addresses, key, value] = &arguments[..] else { bail!("usage: kv-client <addresses> <key> <value>") };
    let cluster = lockstep_client::connect(addresses).await?;

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
