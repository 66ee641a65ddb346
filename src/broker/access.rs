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
    Binding,
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
        // A broker that takes the subscription all the same sends one message at most.
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

/// Whether the user may publish to the exchange, with this key if it is known. The expiration of the message
/// is no number, which the broker refuses after it has checked the permission. RabbitMQ 3 checks the topic
/// permission of the key before the expiration too, and later releases do not.
pub(super) async fn may_publish(
    connection: &Connection,
    exchange: &str,
    key: Option<&str>,
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
        let (exchange, key) = (short(exchange), short(key.unwrap_or(WRONG)));
        let confirm = channel
            .basic_publish(exchange, key, options, b"", properties)
            .await?;
        confirm.await
    };
    let asked = async {
        let access = Access::of("exchange", ask(connection, limit, request).await);
        match &access {
            Access::Granted => still_reads(connection, limit).await.unwrap_or(access),
            Access::Refused(text) if key.is_none() && is_about_a_topic(text) => {
                Access::Unknown(format!("topic permissions decide for each key: {text}"))
            }
            _ => access,
        }
    };
    let mut blocked = connection.blocked();
    tokio::select! {
        biased;
        Ok(_) = blocked.wait_for(|is| *is) => Access::Blocked,
        access = asked => access,
    }
}

/// A broker with an alarm answers the first publish of a connection, and then reads nothing more from it. So
/// only an answer to a further request shows that there is no alarm. Returns what hinders.
async fn still_reads(connection: &Connection, limit: Duration) -> Option<Access> {
    match connection.channel(limit).await {
        Ok(channel) => {
            // If closing the channel fails, the channel ends with its connection.
            let close = channel.close(200, "done".into());
            let _ = within(limit, "closing a channel", close).await;
            None
        }
        Err(error) => Some(Access::Unknown(error.to_string())),
    }
}

/// Whether a refusal is about a topic permission, which counts for some keys of an exchange.
pub(crate) fn is_about_a_topic(refusal: &str) -> bool {
    refusal.contains("access to topic ")
}

/// Whether the user may bind the queue to the exchange. Asks the broker to end a binding that does not
/// exist, which needs the same permissions. Topic permissions count for the key, so the request has the
/// key of the binding. An argument tells it apart from every real one.
pub(super) async fn may_bind(
    connection: &Connection,
    queue: &str,
    binding: &Binding,
    limit: Duration,
) -> Access {
    let request = async |channel: &Channel| {
        let mut only = FieldTable::default();
        only.insert(short(WRONG), AMQPValue::LongString(WRONG.into()));
        let (exchange, key) = (short(&binding.exchange), short(&binding.routing_key));
        channel
            .queue_unbind(short(queue), exchange, key, only)
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
