//! The requests about queues and exchanges. The broker closes the channel with each refusal, so
//! each request after a refusal has a new channel.

use std::time::Duration;

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    Bound, Connection, Difference, QueuePlan, Unfit,
    difference::{NEVER_CREATES, Refusal},
};
use crate::broker::{
    error::{BrokerError, reply_code, says_there_is_no},
    headers::short,
};

/// What a comparison of a queue with its plan found.
pub(super) enum Found {
    /// The queue does not exist.
    Missing,
    /// The queue is as planned.
    Same,
    /// The queue differs in this.
    Differs(Vec<Difference>),
}

/// Sends requests, one at a time.
pub(in crate::broker) struct Look<'a> {
    connection: &'a Connection,
    limit: Duration,
    /// The channel of the last request that was not refused.
    channel: Option<Channel>,
}

/// The options of a declaration that creates.
pub(super) fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    }
}

impl<'a> Look<'a> {
    pub(in crate::broker) fn new(connection: &'a Connection, limit: Duration) -> Self {
        Self {
            connection,
            limit,
            channel: None,
        }
    }

    /// Sends a request under a deadline. Returns a refusal by the broker apart from other errors.
    pub(super) async fn ask<T>(
        &mut self,
        step: &'static str,
        request: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<lapin::Result<T>, BrokerError> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.connection.channel(self.limit).await?,
        };
        let limit = self.limit;
        let late = |_| BrokerError::TimedOut { step, limit };
        let answer = tokio::time::timeout(limit, request(&channel))
            .await
            .map_err(late)?;
        if answer.is_ok() {
            self.channel = Some(channel);
        }
        Ok(answer)
    }

    /// Ends the requests.
    pub(in crate::broker) async fn close(self) {
        if let Some(channel) = self.channel {
            // If closing the channel fails, the channel ends with its connection.
            let _ = tokio::time::timeout(self.limit, channel.close(200, "done".into())).await;
        }
    }

    pub(super) async fn declare_as(
        &mut self,
        queue: &str,
        options: QueueDeclareOptions,
        table: FieldTable,
    ) -> Result<lapin::Result<lapin::Queue>, BrokerError> {
        let request =
            async |channel: &Channel| channel.queue_declare(short(queue), options, table).await;
        self.ask("declaring a queue", request).await
    }

    /// Creates the queue.
    pub(super) async fn declare(&mut self, plan: &QueuePlan) -> Result<(), BrokerError> {
        let declared = self.declare_as(&plan.name, durable(), plan.table()).await?;
        let Err(error) = declared else { return Ok(()) };
        if reply_code(&error) != Some(406) {
            return Err(error.into());
        }
        let (queue, text) = (plan.name.clone(), error.to_string());
        Err(BrokerError::Topology(vec![Difference::Refused {
            queue,
            text,
        }]))
    }

    /// Compares the queue with its plan. Creates nothing.
    ///
    /// AMQP has no request for a queue's arguments, but the broker refuses a declaration that
    /// differs and names the first difference. So this function changes the plan to the value found
    /// and tries again until the declaration fits.
    pub(super) async fn compare(&mut self, plan: &QueuePlan) -> Result<Found, BrokerError> {
        let queue = || plan.name.clone();
        let mut found = Vec::new();
        let mut last = None;
        let mut table = plan.table();
        table.insert(short(NEVER_CREATES), AMQPValue::Boolean(true));
        loop {
            let declared = self
                .declare_as(&plan.name, durable(), table.clone())
                .await?;
            let error = match declared {
                Ok(_) if found.is_empty() => return Ok(Found::Same),
                Ok(_) => return Ok(Found::Differs(found)),
                Err(error) => error,
            };
            if reply_code(&error) != Some(406) {
                return Err(error.into());
            }
            let text = error.to_string();
            if is_missing(&text) {
                return Ok(Found::Missing);
            }
            let Some(refusal) = Refusal::parse(&text) else {
                let queue = queue();
                found.push(Difference::Refused { queue, text });
                return Ok(Found::Differs(found));
            };
            if let Some(why) = refusal.unfit() {
                let queue = queue();
                return Ok(Found::Differs(vec![Difference::Unfit { queue, why }]));
            }
            // When both sides have a value, the broker leaves out the type. It gives the type when
            // the next try leaves the argument out. If the value is still not known then, the plan
            // cannot be changed to it.
            if last.as_ref() != Some(&refusal.argument) {
                found.push(Difference::Argument {
                    queue: queue(),
                    argument: refusal.argument.clone(),
                    values: refusal.values.clone(),
                });
            } else if refusal.value.is_none() {
                return Ok(Found::Differs(found));
            }
            let Some(bent) = refusal.bend(&table) else {
                return Ok(Found::Differs(found));
            };
            table = bent;
            last = Some(refusal.argument);
        }
    }

    /// The reason why no consumer can have this queue, whatever its arguments are; the outer `None`
    /// if the broker does not let us find out. Creates nothing.
    pub(super) async fn unfit(
        &mut self,
        queue: &str,
    ) -> Result<Option<Option<Unfit>>, BrokerError> {
        let mut table = FieldTable::default();
        table.insert(
            short("x-queue-type"),
            AMQPValue::LongString("stream".into()),
        );
        table.insert(short(NEVER_CREATES), AMQPValue::Boolean(true));
        let mut last = None;
        loop {
            let declared = self.declare_as(queue, durable(), table.clone()).await?;
            let Err(error) = declared else {
                return Ok(Some(None));
            };
            match reply_code(&error) {
                Some(403) => return Ok(None),
                Some(406) => {}
                _ => return Err(error.into()),
            }
            let Some(refusal) = Refusal::parse(&error.to_string()) else {
                return Ok(Some(None));
            };
            if let Some(why) = refusal.unfit() {
                return Ok(Some(Some(why)));
            }
            // Not a stream. Durability and auto-deletion have been compared before.
            if refusal.argument == "x-queue-type" || last.as_ref() == Some(&refusal.argument) {
                return Ok(Some(None));
            }
            let Some(bent) = refusal.bend(&table) else {
                return Ok(Some(None));
            };
            table = bent;
            last = Some(refusal.argument);
        }
    }

    /// Whether the queue exists; `None` if the broker does not let us look.
    pub(super) async fn queue_exists(&mut self, queue: &str) -> Result<Option<bool>, BrokerError> {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let none = FieldTable::default();
        exists("queue", self.declare_as(queue, passive, none).await?)
    }

    /// Whether the exchange exists; `None` if the broker does not let us look.
    pub(super) async fn exchange_exists(
        &mut self,
        exchange: &str,
    ) -> Result<Option<bool>, BrokerError> {
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let request = async |channel: &Channel| {
            // For a passive declaration the broker checks the name only.
            let (kind, none) = (ExchangeKind::Direct, FieldTable::default());
            let exchange = short(exchange);
            channel
                .exchange_declare(exchange, kind, passive, none)
                .await
        };
        exists(
            "exchange",
            self.ask("looking for an exchange", request).await?,
        )
    }

    /// Binds the queue.
    pub(in crate::broker) async fn bind(
        &mut self,
        queue: &str,
        bound: &Bound,
    ) -> Result<(), BrokerError> {
        let request = async |channel: &Channel| {
            let (exchange, key) = (short(&bound.exchange), short(&bound.routing_key));
            let options = QueueBindOptions::default();
            channel
                .queue_bind(short(queue), exchange, key, options, bound.table())
                .await
        };
        let Err(error) = self.ask("binding a queue", request).await? else {
            return Ok(());
        };
        if says_there_is_no("exchange", &error) {
            let exchange = bound.exchange.clone();
            return Err(BrokerError::Topology(vec![Difference::NoExchange {
                exchange,
            }]));
        }
        Err(error.into())
    }

    /// Deletes `queue` if it is empty and `work` has no consumer. Quorum queues do not support
    /// `if-empty` and `if-unused` (RabbitMQ 3.10: 540).
    pub(super) async fn delete_unused(
        &mut self,
        work: &str,
        queue: &str,
    ) -> Result<(), BrokerError> {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let consumed = self
            .declare_as(work, passive, FieldTable::default())
            .await?;
        if consumed.is_ok_and(|it| it.consumer_count() > 0) {
            return Ok(());
        }
        let holds = self
            .declare_as(queue, passive, FieldTable::default())
            .await?;
        if holds?.message_count() > 0 {
            return Ok(());
        }
        let request = async |channel: &Channel| {
            channel
                .queue_delete(short(queue), QueueDeleteOptions::default())
                .await
        };
        self.ask("deleting a queue", request).await??;
        Ok(())
    }
}

/// Whether the broker would have to create the queue: it refuses [`NEVER_CREATES`].
pub(super) fn is_missing(text: &str) -> bool {
    text.contains(&format!("invalid arg '{NEVER_CREATES}'"))
}

/// Reads the answer to a passive declaration of this kind of object.
fn exists<T>(kind: &str, answer: lapin::Result<T>) -> Result<Option<bool>, BrokerError> {
    let Err(error) = answer else {
        return Ok(Some(true));
    };
    match reply_code(&error) {
        _ if says_there_is_no(kind, &error) => Ok(Some(false)),
        Some(403) => Ok(None),
        _ => Err(error.into()),
    }
}
