//! Counts the messages that are ready in queues.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use lapin::{Channel, options::QueueDeclareOptions, types::FieldTable};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::{
    connection::Connection,
    error::{BrokerError, says_there_is_no},
    headers::short,
};

const STEP: &str = "counting messages";

/// What the broker says of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Its messages that are ready.
    pub(crate) ready: u32,
    /// Its consumers.
    pub(crate) consumers: u32,
}

impl Count {
    /// Whether this may be no answer at all. RabbitMQ asks the leader of a quorum queue for 250 ms. If the
    /// leader is slow or missing, it answers with no messages and no consumers, and with no error
    /// (`rabbit_quorum_queue:stat/1`, read in the source).
    pub(crate) fn may_be_none(self) -> bool {
        self.ready == 0 && self.consumers == 0
    }
}

/// The number of messages that are ready in each of these queues; `None` for a queue that does not
/// exist. Uses a channel of its own, because the broker closes the channel when a queue does not
/// exist.
pub(crate) async fn depths(
    connection: &Connection,
    queues: Vec<String>,
    limit: Duration,
) -> Result<Vec<(String, Option<u32>)>, BrokerError> {
    let until = Instant::now() + limit;
    let mut found = Vec::with_capacity(queues.len());
    let mut channel = None;
    for queue in queues {
        let open = match channel.take() {
            Some(open) => open,
            None => opened(connection, until, limit).await?,
        };
        match ask(&open, &queue, until, limit).await? {
            Some(count) => {
                found.push((queue, Some(count.ready)));
                channel = Some(open);
            }
            None => found.push((queue, None)),
        }
    }
    if let Some(open) = channel {
        // If closing the channel fails, the channel ends with its connection.
        let _ = timeout_at(until, open.close(200, "done".into())).await;
    }
    Ok(found)
}

/// The channel on which a worker counts again and again. It stays open, because opening and closing one for
/// each count costs the broker more than the count.
#[derive(Clone, Default)]
pub(super) struct Counting(Arc<Mutex<Option<Kept>>>);

/// A channel, and the connection that it belongs to.
struct Kept {
    of: Weak<Connection>,
    channel: Channel,
}

impl Kept {
    fn is_fit(&self, connection: &Arc<Connection>) -> bool {
        std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(connection)) && self.channel.status().connected()
    }
}

impl Counting {
    /// Counts a queue; `None` if it does not exist. The time limit begins once the counts before it are done.
    pub(super) async fn count(
        &self,
        connection: &Arc<Connection>,
        queue: &str,
        limit: Duration,
    ) -> Result<Option<Count>, BrokerError> {
        let mut kept = self.0.lock().await;
        let until = Instant::now() + limit;
        // Taken out: after an error, or if this future is dropped, the next count opens another channel.
        let channel = match kept.take() {
            Some(kept) if kept.is_fit(connection) => kept.channel,
            _ => opened(connection, until, limit).await?,
        };
        let found = ask(&channel, queue, until, limit).await?;
        if found.is_some() {
            let of = Arc::downgrade(connection);
            *kept = Some(Kept { of, channel });
        }
        Ok(found)
    }
}

fn late(limit: Duration) -> BrokerError {
    BrokerError::TimedOut { step: STEP, limit }
}

async fn opened(
    connection: &Connection,
    until: Instant,
    limit: Duration,
) -> Result<Channel, BrokerError> {
    let opening = timeout_at(until, connection.channel(limit));
    opening.await.map_err(|_| late(limit))?
}

/// Asks for the count of a queue; `None` if it does not exist. The broker closes the channel unless it counts
/// the queue.
async fn ask(
    channel: &Channel,
    queue: &str,
    until: Instant,
    limit: Duration,
) -> Result<Option<Count>, BrokerError> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(short(queue), passive, FieldTable::default());
    match timeout_at(until, declare).await.map_err(|_| late(limit))? {
        Ok(declared) => Ok(Some(Count {
            ready: declared.message_count(),
            consumers: declared.consumer_count(),
        })),
        Err(error) if says_there_is_no("queue", &error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
