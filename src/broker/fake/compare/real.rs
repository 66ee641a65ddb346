//! RabbitMQ for the comparison: the worker's connections, and those of another client.

use std::{env, sync::Arc, time::Duration};

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions,
        QueuePurgeOptions,
    },
    types::FieldTable,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::broker::{
    BrokerSettings, BrokerUrls, Link, Properties, Publisher, Purpose, Rabbit, ReconnectSettings,
    Scouting, TimeoutSettings,
    error::reply_code,
    fake::{Arguments, Release},
    headers::short,
};

/// The running RabbitMQ.
#[derive(Clone)]
pub(super) struct Node {
    url: String,
    pub(super) release: Release,
}

/// A worker at RabbitMQ, and another client. Their connections close when this is dropped.
pub(super) struct Real {
    pub(super) broker: Rabbit,
    other: Connection,
    _stop: DropGuard,
}

/// A message that another client took.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) redelivered: bool,
    pub(super) properties: Properties,
    pub(super) body: Vec<u8>,
}

impl Node {
    pub(super) fn find() -> Self {
        let url = env::var("AMQP_URL").expect("AMQP_URL names RabbitMQ: see `make compare`");
        let release = match env::var("LAPWING_TEST_RELEASE").as_deref() {
            Ok("4.0") => Release::V40,
            Ok("4.3") => Release::V43,
            _ => Release::V3,
        };
        Self { url, release }
    }

    pub(super) async fn worker(&self) -> Real {
        let properties = ConnectionProperties::default();
        let other = Connection::connect(&self.url, properties).await;
        let settings = BrokerSettings {
            url: BrokerUrls::parse(&self.url),
            reconnect: ReconnectSettings {
                base: Duration::from_millis(20),
                cap: Duration::from_millis(50),
            },
            ..BrokerSettings::default()
        };
        let (settings, timeouts) = (Arc::new(settings), Arc::new(TimeoutSettings::default()));
        let (scouting, stop) = (Scouting::default(), CancellationToken::new());
        let link = |purpose| {
            let (settings, timeouts) = (Arc::clone(&settings), Arc::clone(&timeouts));
            let (scouting, told) = (scouting.clone(), Arc::default());
            let (name, stop) = ("compare".to_owned(), stop.clone());
            Link::start(purpose, settings, timeouts, name, scouting, told, stop).0
        };
        let mut publishing = link(Purpose::Publish);
        let consuming = link(Purpose::Consume);
        publishing.up().await;
        // One channel: a quorum queue tells each publishing channel apart whether it is full.
        let publisher = Publisher::new(publishing, 1, Arc::clone(&timeouts));
        Real {
            broker: Rabbit::new(consuming, publisher, timeouts),
            other: other.expect("RabbitMQ answers"),
            _stop: stop.drop_guard(),
        }
    }
}

/// RabbitMQ did not do what it always does. Now and then it closes a connection with an internal
/// error, because a new quorum queue has crashed.
fn broken(error: &lapin::Error) -> String {
    format!("{BROKEN}{error}")
}

/// The beginning of a text that tells of no difference.
pub(super) const BROKEN: &str = "RabbitMQ is broken: ";

impl Real {
    async fn channel(&self) -> Result<Channel, String> {
        let channel = self.other.create_channel().await;
        channel.map_err(|error| broken(&error))
    }

    /// Declares a queue. `Some` is the broker's refusal.
    pub(super) async fn declare(
        &self,
        name: &str,
        arguments: &Arguments,
    ) -> Result<Option<String>, String> {
        let mut table = FieldTable::default();
        for (key, value) in arguments.all() {
            table.insert(short(key), value.into());
        }
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let channel = self.channel().await?;
        let declared = channel.queue_declare(short(name), options, table).await;
        close(&channel).await;
        match declared {
            Ok(_) => Ok(None),
            Err(error) if reply_code(&error) == Some(406) => Ok(Some(error.to_string())),
            Err(error) => Err(broken(&error)),
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), String> {
        let channel = self.channel().await?;
        let options = QueueDeleteOptions::default();
        let deleted = channel.queue_delete(short(name), options).await;
        deleted.map_err(|error| broken(&error))?;
        close(&channel).await;
        Ok(())
    }

    pub(super) async fn purge(&self, name: &str) -> Result<Option<usize>, String> {
        let channel = self.channel().await?;
        let options = QueuePurgeOptions::default();
        let purged = channel.queue_purge(short(name), options).await;
        close(&channel).await;
        Ok(purged.ok().map(|count| count as usize))
    }

    #[expect(clippy::disallowed_methods, reason = "this is not the worker")]
    pub(super) async fn take(&self, name: &str) -> Result<Option<Taken>, String> {
        let channel = self.channel().await?;
        let options = BasicGetOptions::default();
        let taken = channel.basic_get(short(name), options).await.ok().flatten();
        if let Some(taken) = &taken {
            let ack = channel.basic_ack(taken.delivery_tag, BasicAckOptions::default());
            ack.await.map_err(|error| broken(&error))?;
        }
        close(&channel).await;
        Ok(taken.map(|taken| Taken {
            redelivered: taken.delivery.redelivered,
            properties: taken.delivery.properties.into(),
            body: taken.delivery.data,
        }))
    }
}

async fn close(channel: &Channel) {
    // A channel that the broker has closed does not close again.
    let _ = channel.close(200, "done".into()).await;
}
