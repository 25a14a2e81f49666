//! Runs a query: waits until this node may show its state, and for the read index if the request
//! asks for a linearizable read. `machine/query` runs the guest.

use tokio::time::timeout_at;

use super::{Call, CallError, Calls};
use crate::guest::StatusSource;
use crate::machine::{Answer, QueryCall};
use lockstep_contract::Consistency;

impl Calls {
    /// Runs the query. `status` answers the guest's `node.status`.
    pub async fn query(&self, call: Call, status: StatusSource) -> Result<Answer, CallError> {
        let deadline = call.deadline();
        if self.ready_to_read(&call, deadline).await? == Consistency::Linearizable {
            self.read_barrier(deadline).await?;
        }
        let query = QueryCall {
            method: call.method.name.to_string(),
            request: call.request,
            party: call.share.party(&call.caller),
            caller: call.caller,
            deadline: deadline.into_std(),
            status,
        };
        let answered = timeout_at(deadline, self.0.parts.machine.query(query)).await;
        Ok(answered.map_err(|_| CallError::QueryDeadline)??)
    }
}
