//! Batches of a co-process: one line with several messages.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Peers, failure, line, link::Broken, pool::Lease};
use crate::{
    handler::{
        Context,
        batch::{Call, late},
        json::Said,
    },
    outcome::Failure,
};

impl Call for Arc<Peers> {
    type Ready = Lease;

    async fn ready(&self) -> Result<Lease, Failure> {
        self.pool.lend().await
    }

    async fn call(
        &self,
        mut lease: Lease,
        messages: &[Context],
        limit: Option<Duration>,
    ) -> Result<Vec<Said>, Failure> {
        let count = messages.len();
        let id = self.ids(count + 1);
        let line = line::batch(id, messages);
        let consumer = messages.first().map_or("", Context::consumer);
        let asked = timeout(
            limit.unwrap_or(Duration::MAX),
            lease.ask_about(count, &line),
        )
        .await;
        let Ok(asked) = asked else {
            // No other co-process gets these messages while this one works on them.
            lease.end().await;
            return Err(late(limit.unwrap_or_default()));
        };
        let broken = match asked {
            Ok(answer) => match line::read_batch(&answer, id, count, consumer) {
                Ok(said) => {
                    lease.done(count as u64);
                    return Ok(said);
                }
                Err(error) => Broken::Protocol(error),
            },
            Err(broken) => broken,
        };
        Err(failure(lease, broken).await)
    }
}
