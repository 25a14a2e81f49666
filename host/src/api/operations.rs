//! Long-running admin operations behind tokens. A client starts, awaits and forgets them. This file
//! owns the limit on their number and the time for which a finished one is remembered. It does not
//! know what an operation does.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Most operations that may be running or remembered at a time.
pub const OPERATIONS_MAX: usize = 1024;

/// How long a finished operation is remembered if no client forgets it.
pub const REMEMBERED: Duration = Duration::from_secs(600);

/// How an operation ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Log index at which the operation took effect. 0 when it has none.
    pub index: u64,
    /// Error text. Empty when the operation succeeded.
    pub error: String,
}

impl From<Result<u64, String>> for Done {
    fn from(result: Result<u64, String>) -> Self {
        match result {
            Ok(index) => Done { index, error: String::new() },
            Err(error) => Done { index: 0, error },
        }
    }
}

/// Why a token cannot be given or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// All of [`OPERATIONS_MAX`] operations are still running.
    #[error("{OPERATIONS_MAX} operations are running on this node; await or forget some first")]
    TooMany,
    /// The token was never given, was forgotten, or its operation finished longer ago than
    /// [`REMEMBERED`].
    #[error("no such operation: never started on this node, forgotten, or finished more than 10 minutes ago")]
    Unknown,
}

/// All operations of this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Operations(Arc<Mutex<HashMap<String, Operation>>>);

#[derive(Debug)]
struct Operation {
    done: watch::Receiver<Option<(Instant, Done)>>,
    forgotten: watch::Sender<bool>,
}

/// Tells an operation that its token was forgotten.
pub struct Forgotten(watch::Receiver<bool>);

impl Forgotten {
    /// Waits until the token is forgotten.
    pub async fn wait(mut self) {
        // An error means that the entry was dropped, which also means forgotten.
        drop(self.0.wait_for(|forgotten| *forgotten).await);
    }
}

impl Operations {
    /// Runs `work` in the background, whether or not a client waits for it, and returns its token.
    pub fn start(&self, work: impl Future<Output = Done> + Send + 'static) -> Result<String, OperationError> {
        self.start_with(|_| work)
    }

    /// Like [`Operations::start`], but `work` also learns when its own token is forgotten.
    pub fn start_with<F>(&self, work: impl FnOnce(Forgotten) -> F) -> Result<String, OperationError>
    where
        F: Future<Output = Done> + Send + 'static,
    {
        let (done_sender, done) = watch::channel(None);
        let (forgotten, forgotten_receiver) = watch::channel(false);
        let token = mint_token();
        {
            let mut operations = self.0.lock();
            make_room(&mut operations)?;
            operations.insert(token.clone(), Operation { done, forgotten });
        }
        let work = work(Forgotten(forgotten_receiver));
        tokio::spawn(async move {
            let done = work.await;
            done_sender.send_replace(Some((Instant::now(), done)));
            // Keeps the sender alive as long as a client can ask.
            done_sender.closed().await;
        });
        Ok(token)
    }

    /// Waits for the operation to end. It may be called often and by many clients.
    pub async fn wait(&self, token: &str) -> Result<Done, OperationError> {
        let mut receiver = {
            let mut operations = self.0.lock();
            expire(&mut operations, Instant::now());
            operations.get(token).ok_or(OperationError::Unknown)?.done.clone()
        };
        // The sender is dropped early only when the operation panicked.
        match receiver.wait_for(Option::is_some).await {
            Ok(done) => Ok(done.as_ref().expect("waited for Some").1.clone()),
            Err(_) => Ok(Done { index: 0, error: "the operation ended without a result; see this node's log".into() }),
        }
    }

    /// Drops the token. The operation itself goes on. Fails for an unknown token.
    pub fn forget(&self, token: &str) -> Result<(), OperationError> {
        let operation = self.0.lock().remove(token).ok_or(OperationError::Unknown)?;
        operation.forgotten.send_replace(true);
        Ok(())
    }
}

/// Drops the operations whose time is over, and the oldest finished one if there is still no room.
fn make_room(operations: &mut HashMap<String, Operation>) -> Result<(), OperationError> {
    expire(operations, Instant::now());
    if operations.len() < OPERATIONS_MAX {
        return Ok(());
    }
    let oldest =
        operations.iter().filter_map(|(token, operation)| Some((finished_at(operation)?, token.clone()))).min();
    let (_, token) = oldest.ok_or(OperationError::TooMany)?;
    operations.remove(&token);
    Ok(())
}

fn expire(operations: &mut HashMap<String, Operation>, now: Instant) {
    operations.retain(|_, operation| finished_at(operation).is_none_or(|at| now < at + REMEMBERED));
}

fn finished_at(operation: &Operation) -> Option<Instant> {
    operation.done.borrow().as_ref().map(|(at, _)| *at)
}

fn mint_token() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    crate::types::hex(&bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_can_be_awaited_often_until_it_is_forgotten() {
        let operations = Operations::default();
        let token = operations.start(async { Ok(7).into() }).unwrap();
        for _ in 0..2 {
            assert_eq!(operations.wait(&token).await.unwrap(), Done { index: 7, error: String::new() });
        }
        operations.forget(&token).unwrap();
        assert_eq!(operations.wait(&token).await, Err(OperationError::Unknown));
        assert_eq!(operations.forget(&token), Err(OperationError::Unknown));
    }

    #[tokio::test]
    async fn errors_travel_in_the_result() {
        let operations = Operations::default();
        let token = operations.start(async { Err("no".to_owned()).into() }).unwrap();
        assert_eq!(operations.wait(&token).await.unwrap().error, "no");
    }

    #[tokio::test]
    async fn an_operation_learns_that_its_token_was_forgotten() {
        let operations = Operations::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let token = operations
            .start_with(|forgotten| async move {
                tokio::spawn(async move {
                    forgotten.wait().await;
                    sender.send(()).unwrap();
                });
                Ok(0).into()
            })
            .unwrap();
        operations.wait(&token).await.unwrap();
        operations.forget(&token).unwrap();
        receiver.await.unwrap();
    }

    #[tokio::test]
    async fn a_finished_operation_is_remembered_for_ten_minutes() {
        let operations = Operations::default();
        let token = operations.start(async { Ok(1).into() }).unwrap();
        let running = operations.start(std::future::pending()).unwrap();
        operations.wait(&token).await.unwrap();
        let finished = Instant::now();
        expire(&mut operations.0.lock(), finished + REMEMBERED - Duration::from_secs(60));
        assert!(operations.wait(&token).await.is_ok());
        expire(&mut operations.0.lock(), finished + REMEMBERED);
        assert_eq!(operations.wait(&token).await, Err(OperationError::Unknown));
        operations.forget(&running).unwrap();
    }

    #[tokio::test]
    async fn running_operations_are_bounded_and_finished_ones_make_room() {
        let operations = Operations::default();
        let first = operations.start(async { Ok(1).into() }).unwrap();
        operations.wait(&first).await.unwrap();
        for _ in 0..OPERATIONS_MAX {
            operations.start(std::future::pending()).unwrap();
        }
        assert_eq!(operations.wait(&first).await, Err(OperationError::Unknown));
        assert_eq!(operations.start(std::future::pending()), Err(OperationError::TooMany));
    }

    #[tokio::test]
    async fn an_operation_that_panicked_says_so() {
        let operations = Operations::default();
        let token = operations.start(async { panic!("a bug") }).unwrap();
        assert!(operations.wait(&token).await.unwrap().error.contains("without a result"));
    }
}
