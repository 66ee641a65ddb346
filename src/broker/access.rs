//! Whether the user may use queues and exchanges. Each question is a request that the broker refuses
//! for another reason if the user has the permission, so that it has no effect (measured on RabbitMQ
//! 3.10, 4.0 and 4.3).

use std::time::Duration;

use lapin::{
    BasicProperties, Channel,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions,
    },
    types::{AMQPValue, FieldTable},
};

use super::{
    connection::Connection,
    error::{BrokerError, is_refusal, says_there_is_no, within},
    headers::short,
};

/// What the broker says to a question about a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The user may do it.
    Granted,
    /// The user may not, with the broker's text.
    Refused(String),
    /// There is no such queue or exchange.
    Missing,
    /// The broker has blocked publishing: a memory or disk alarm.
    Blocked,
    /// The broker does not tell, with the reason.
    Unknown(String),
}

impl Access {
    fn of<T>(kind: &str, answer: Result<lapin::Result<T>, BrokerError>) -> Self {
        let error = match answer {
            Ok(Ok(_)) => return Self::Granted,
            Ok(Err(error)) => error,
            Err(error) => return Self::Unknown(error.to_string()),
        };
        if says_there_is_no(kind, &error) {
            return Self::Missing;
        }
        match error.kind() {
            lapin::ErrorKind::ProtocolError(refusal) if is_refusal(refusal) => {
                Self::Refused(refusal.get_message().to_string())
            }
            // 406: the request is wrong on purpose, and the broker checks the permission first.
            lapin::ErrorKind::ProtocolError(refusal) if refusal.get_id() == 406 => Self::Granted,
            _ => Self::Unknown(error.to_string()),
        }
    }
}

/// A word that is wrong wherever the broker wants a number.
const WRONG: &str = "lapwing-doctor";

/// Whether the user may consume the queue. The priority of the subscription is a text, which the broker
/// refuses after it has checked the permission.
pub(super) async fn may_consume(connection: &Connection, queue: &str, limit: Duration) -> Access {
    let mut wrong = FieldTable::default();
    wrong.insert(short("x-priority"), AMQPValue::LongString(WRONG.into()));
    let request = async |channel: &Channel| {
        // A broker that takes the subscription all the same delivers one message at most.
        channel.basic_qos(1, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let tag = short(WRONG);
        let subscribed = channel
            .basic_consume(short(queue), tag.clone(), options, wrong)
            .await;
        if subscribed.is_ok() {
            let _ = channel
                .basic_cancel(tag, BasicCancelOptions::default())
                .await;
        }
        subscribed
    };
    Access::of("queue", ask(connection, limit, request).await)
}

/// Whether the user may publish to the exchange. The expiration of the message is no number, which the
/// broker refuses after it has checked the permission.
pub(super) async fn may_publish(
    connection: &Connection,
    exchange: &str,
    limit: Duration,
) -> Access {
    let request = async |channel: &Channel| {
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let properties = BasicProperties::default().with_expiration(WRONG.into());
        let (exchange, key) = (short(exchange), short(WRONG));
        let confirm = channel
            .basic_publish(exchange, key, options, b"", properties)
            .await?;
        confirm.await
    };
    let mut blocked = connection.blocked();
    tokio::select! {
        biased;
        answer = ask(connection, limit, request) => Access::of("exchange", answer),
        Ok(_) = blocked.wait_for(|is| *is) => Access::Blocked,
    }
}

/// Whether the user may bind the queue to the exchange. Asks the broker to end a binding that does not
/// exist, which needs the same permissions.
pub(super) async fn may_bind(
    connection: &Connection,
    queue: &str,
    exchange: &str,
    limit: Duration,
) -> Access {
    let request = async |channel: &Channel| {
        let (key, none) = (short(WRONG), FieldTable::default());
        channel
            .queue_unbind(short(queue), short(exchange), key, none)
            .await
    };
    Access::of("exchange", ask(connection, limit, request).await)
}

/// Sends a request on a channel of its own: the broker closes the channel with each refusal.
async fn ask<T>(
    connection: &Connection,
    limit: Duration,
    request: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
) -> Result<lapin::Result<T>, BrokerError> {
    let channel = connection.channel(limit).await?;
    let answer = tokio::time::timeout(limit, request(&channel)).await;
    if matches!(answer, Ok(Ok(_))) {
        // If closing the channel fails, the channel ends with its connection.
        let close = channel.close(200, "done".into());
        let _ = within(limit, "closing a channel", close).await;
    }
    answer.map_err(|_| BrokerError::TimedOut {
        step: "asking for a permission",
        limit,
    })
}
