//! Counts the messages that are ready in queues.

use std::time::Duration;

use lapin::{options::QueueDeclareOptions, types::FieldTable};
use tokio::time::{Instant, timeout_at};

use super::{
    connection::Connection,
    error::{BrokerError, says_there_is_no},
    headers::short,
};

/// The number of messages that are ready in each of these queues; `None` for a queue that does not
/// exist. Uses a channel of its own, because the broker closes the channel when a queue does not
/// exist.
pub(crate) async fn depths(
    connection: &Connection,
    queues: Vec<String>,
    limit: Duration,
) -> Result<Vec<(String, Option<u32>)>, BrokerError> {
    const STEP: &str = "counting messages";
    let late = |_| BrokerError::TimedOut { step: STEP, limit };
    let until = Instant::now() + limit;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let mut found = Vec::with_capacity(queues.len());
    let mut channel = None;
    for queue in queues {
        let open = match channel.take() {
            Some(open) => open,
            None => timeout_at(until, connection.channel(limit))
                .await
                .map_err(late)??,
        };
        let declare = open.queue_declare(short(&queue), passive, FieldTable::default());
        match timeout_at(until, declare).await.map_err(late)? {
            Ok(declared) => {
                found.push((queue, Some(declared.message_count())));
                channel = Some(open);
            }
            Err(error) if says_there_is_no("queue", &error) => found.push((queue, None)),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(open) = channel {
        // If closing the channel fails, the channel ends with its connection.
        let _ = timeout_at(until, open.close(200, "done".into())).await;
    }
    Ok(found)
}
