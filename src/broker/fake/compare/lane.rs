//! A lane's session on both sides, and what it sees.

use std::{
    fmt::{self, Debug},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::broker::{
    Acks, BrokerError, Delivery, Properties, Session, fake::FakeSession, session::RabbitSession,
};

/// The longest wait for RabbitMQ to show what the model shows. The machine may be busy.
pub(super) const SOON: Duration = Duration::from_secs(15);

pub(super) type Told = Result<(), String>;

/// A lane's session on both sides.
pub(super) struct Lane {
    pub(super) model: FakeSession,
    pub(super) real: RabbitSession,
    pub(super) prefetch: u16,
    pub(super) queue: String,
    /// The tags that the worker has not settled.
    pub(super) tags: Vec<u64>,
}

/// What a lane sees.
#[derive(PartialEq)]
enum Seen {
    Delivery(u64, Value),
    Ended,
    Lost,
}

impl Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivery(tag, told) => write!(f, "delivery {tag} {told}"),
            Self::Ended => f.write_str("end"),
            Self::Lost => f.write_str("loss"),
        }
    }
}

impl Lane {
    pub(super) async fn ack(&mut self, acks: Acks) -> Told {
        let (_, ours) = self.model.ack(acks.clone()).await;
        let (_, theirs) = self.real.ack(acks).await;
        self.real.barrier(self.prefetch).await;
        same(failure(ours.err()), failure(theirs.err()))
    }

    /// Compares the events since the last time. False if the session is lost.
    pub(super) async fn compare(&mut self) -> Result<bool, String> {
        let mut was_subscribed = self.model.is_subscribed() || !self.model.ended;
        loop {
            let ours = match self.model.try_next() {
                Some(Ok(delivery)) => Seen::delivery(&delivery),
                Some(Err(_)) => Seen::Lost,
                None if self.model.ended && was_subscribed => Seen::Ended,
                None => break,
            };
            was_subscribed &= ours != Seen::Ended;
            let theirs = match timeout(SOON, self.real.next()).await {
                Ok(Some(Ok(delivery))) => Seen::delivery(&delivery),
                Ok(Some(Err(_))) => Seen::Lost,
                Ok(None) => Seen::Ended,
                Err(_) => return Err(format!("model {ours:?}, RabbitMQ nothing")),
            };
            if ours != theirs {
                return Err(format!("model {ours:?}, RabbitMQ {theirs:?}"));
            }
            match ours {
                Seen::Delivery(tag, _) => self.tags.push(tag),
                Seen::Lost => return Ok(false),
                Seen::Ended => {}
            }
        }
        match self.real.try_next() {
            Some(Ok(delivery)) => {
                let seen = Seen::delivery(&delivery);
                Err(format!("model nothing, RabbitMQ {seen:?}"))
            }
            Some(Err(error)) => Err(format!("model nothing, RabbitMQ {error}")),
            None => Ok(true),
        }
    }
}

impl Seen {
    fn delivery(delivery: &Delivery) -> Self {
        let mut told = shown(delivery.redelivered, &delivery.properties, &delivery.body);
        told["key"] = json!(delivery.routing_key);
        Self::Delivery(delivery.tag, told)
    }
}

/// What the worker reads from a message.
pub(super) fn shown(redelivered: bool, properties: &Properties, body: &[u8]) -> Value {
    let headers = properties.headers().filter(|(name, _)| {
        *name == "x-delivery-count" || *name == "x-death" || name.contains("-death-")
    });
    let mut headers: serde_json::Map<_, _> = headers
        .map(|(name, value)| (name.to_owned(), value.to_json()))
        .collect();
    // RabbitMQ 3.10 shows a count of 0 to a client that takes a single message.
    headers.retain(|name, value| name != "x-delivery-count" || value.as_i64() != Some(0));
    let deaths = headers.get_mut("x-death").and_then(Value::as_array_mut);
    for death in deaths
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        death.remove("time");
    }
    let amqp = properties.to_amqp();
    json!({
        "body": String::from_utf8_lossy(body),
        "redelivered": redelivered,
        "expiration": amqp.expiration().as_ref().map(|it| it.as_str()),
        "headers": headers,
    })
}

/// The kind of a failure, with the broker's reply code.
pub(super) fn failure(error: Option<BrokerError>) -> Option<(&'static str, Option<String>)> {
    let error = error?;
    let kind = match &error {
        BrokerError::Lost(_) => "lost",
        BrokerError::Refused(_) => "refused",
        BrokerError::TimedOut { .. } => "timed out",
        _ => "other",
    };
    let text = error.to_string();
    let code = text.rsplit_once('(').map(|(_, code)| code.to_owned());
    let is_number = |code: &String| code.starts_with(|it: char| it.is_ascii_digit());
    Some((kind, code.filter(is_number)))
}

pub(super) fn same<T: PartialEq + Debug>(model: T, real: T) -> Told {
    if model == real {
        return Ok(());
    }
    Err(format!("model {model:?}, RabbitMQ {real:?}"))
}
