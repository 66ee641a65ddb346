//! Batches of a co-process: one line with several messages.

use std::sync::Arc;

use super::{Peers, failure, line, link::Broken, pool::Lease};
use crate::{
    handler::{Context, batch::Call, json::Said},
    outcome::Failure,
};

impl Call for Arc<Peers> {
    type Ready = Lease;

    async fn ready(&self) -> Result<Lease, Failure> {
        self.pool.lend().await
    }

    async fn call(&self, mut lease: Lease, messages: &[Context]) -> Result<Vec<Said>, Failure> {
        let count = messages.len();
        let id = self.ids(count + 1);
        let line = line::batch(id, messages);
        if count > 1 {
            lease.excuse();
        }
        let consumer = messages.first().map_or("", Context::consumer);
        let broken = match lease.ask(&line).await {
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
