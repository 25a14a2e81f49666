//! Runs openraft's own test suite on our log and state machine. The suite applies entries that it
//! never appends, so nothing here waits for the log.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::super::StateMachine;
use super::harness::{Open, start_in};
use crate::store::{DataDir, Log};
use crate::types::TypeConfig;

struct Builder;

impl StoreBuilder<TypeConfig, Log, StateMachine, (DataDir, TempDir)> for Builder {
    async fn build(&self) -> Result<((DataDir, TempDir), Log, StateMachine), StorageError<TypeConfig>> {
        let node = start_in(tempfile::tempdir().unwrap(), Arc::new(Open));
        Ok((node.directory, node.options.log, node.state_machine))
    }
}

#[test]
fn openraft_suite_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
