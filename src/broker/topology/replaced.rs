//! The requests about a queue that another one replaces.

use lapin::{
    Channel,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    Bound,
    difference::{NEVER_CREATES, Refusal},
    look::{Look, durable, is_missing},
};
use crate::broker::{
    error::{BrokerError, reply_code, says_there_is_no},
    headers::short,
};

/// The reply code of AMQP 0-9-1 for a queue of another connection.
const LOCKED: u16 = 405;

impl Look<'_> {
    /// The ready messages and the consumers of a queue; `None` if there is no such queue.
    pub(in crate::broker) async fn counts(
        &mut self,
        queue: &str,
    ) -> Result<Option<(u32, u32)>, BrokerError> {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let none = FieldTable::default();
        match self.declare_as(queue, passive, none).await? {
            Ok(queue) => Ok(Some((queue.message_count(), queue.consumer_count()))),
            Err(error) if says_there_is_no("queue", &error) => Ok(None),
            // An exclusive queue of another connection.
            Err(error) if reply_code(&error) == Some(LOCKED) => {
                Err(BrokerError::Refused(error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Declares a queue for this connection alone. Returns false if another connection has it.
    pub(in crate::broker) async fn reserve(&mut self, queue: &str) -> Result<bool, BrokerError> {
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let mut table = FieldTable::default();
        // The virtual host may have another type as its default.
        let classic = AMQPValue::LongString("classic".into());
        table.insert(short("x-queue-type"), classic);
        match self.declare_as(queue, exclusive, table).await? {
            Ok(_) => Ok(true),
            Err(error) if reply_code(&error) == Some(LOCKED) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a queue that exists is a quorum queue; `None` if the broker does not let us find out.
    /// Creates nothing.
    pub(in crate::broker) async fn is_quorum(
        &mut self,
        queue: &str,
    ) -> Result<Option<bool>, BrokerError> {
        let mut table = FieldTable::default();
        let quorum = AMQPValue::LongString("quorum".into());
        table.insert(short("x-queue-type"), quorum);
        table.insert(short(NEVER_CREATES), AMQPValue::Boolean(true));
        let mut last = None;
        loop {
            let declared = self.declare_as(queue, durable(), table.clone()).await?;
            let Err(error) = declared else {
                return Ok(Some(true));
            };
            match reply_code(&error) {
                Some(403) => return Ok(None),
                Some(406) => {}
                _ => return Err(error.into()),
            }
            let text = error.to_string();
            let Some(refusal) = Refusal::parse(&text).filter(|_| !is_missing(&text)) else {
                return Ok(None);
            };
            if refusal.argument == "x-queue-type" || refusal.unfit().is_some() {
                return Ok(Some(false));
            }
            let bent = refusal.bend(&table);
            let Some(bent) = bent.filter(|_| last.as_ref() != Some(&refusal.argument)) else {
                return Ok(None);
            };
            table = bent;
            last = Some(refusal.argument);
        }
    }

    /// Unbinds the queue. A binding that does not exist is no error.
    pub(in crate::broker) async fn unbind(
        &mut self,
        queue: &str,
        bound: &Bound,
    ) -> Result<(), BrokerError> {
        let request = async |channel: &Channel| {
            let (exchange, key) = (short(&bound.exchange), short(&bound.routing_key));
            channel
                .queue_unbind(short(queue), exchange, key, bound.table())
                .await
        };
        match self.ask("unbinding a queue", request).await? {
            Ok(()) => Ok(()),
            Err(error) if says_there_is_no("exchange", &error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a classic queue that has no ready message and no consumer. The inner error is the
    /// broker's reason why the queue stays. The broker does not count deliveries that are not
    /// settled, and a quorum queue supports neither condition: RabbitMQ then ends the connection (540).
    pub(in crate::broker) async fn delete_idle(
        &mut self,
        queue: &str,
    ) -> Result<Result<(), String>, BrokerError> {
        let options = QueueDeleteOptions {
            if_unused: true,
            if_empty: true,
            ..QueueDeleteOptions::default()
        };
        let request = async |channel: &Channel| channel.queue_delete(short(queue), options).await;
        match self.ask("deleting a queue", request).await? {
            Ok(_) => Ok(Ok(())),
            Err(error) if says_there_is_no("queue", &error) => Ok(Ok(())),
            Err(error) if reply_code(&error) == Some(406) => Ok(Err(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}
