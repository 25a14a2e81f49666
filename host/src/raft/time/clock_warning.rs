//! Warns the operator while this node's clock is far from log time. `own_clock` compares the two.

use std::time::{Duration, Instant};

use super::log_time::LogTime;
use crate::raft::liveness::leader::LeaderWatch;

/// Time between two comparisons. A difference is reported when two comparisons in a row find it,
/// because a new leader has heard no other clock for a moment.
const LOOK: Duration = Duration::from_secs(2);
/// Time before a difference is reported again.
const TELL_AGAIN: Duration = Duration::from_secs(3600);

/// Warns the operator while the own clock is wrong: after two comparisons in a row, then every
/// hour. Never ends by itself.
pub async fn watch(log_time: LogTime, leader: LeaderWatch) {
    let (mut told, mut was_off): (Option<Instant>, bool) = (None, false);
    loop {
        tokio::time::sleep(LOOK).await;
        let leads = leader.current().is_some_and(|leader| leader.is_me);
        let Some(compared) = log_time.own_clock(leads) else { continue };
        let problem = compared.problem();
        match &problem {
            Some(problem) if was_off && told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) => {
                tracing::warn!("{problem}");
                told = Some(Instant::now());
            }
            None if !was_off && told.take().is_some() => {
                tracing::info!("this node's clock is within a minute of log time again");
            }
            Some(_) | None => {}
        }
        was_off = problem.is_some();
    }
}
