//! Looks at a broker for the doctor. Creates, consumes and stores nothing.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Binding, BrokerError, BrokerSettings, BrokerUrls, Link, Purpose, QueueSpec, Scouting,
    TimeoutSettings, Version,
    access::{self, Access},
    connection::Connection,
    dial,
    management::{ManagementError, QueueShown},
    topology::{self, Survey},
    wire::Offers,
};

/// One of the broker's URLs, for people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) vhost: String,
    pub(crate) is_tls: bool,
    /// The settings with this URL only.
    settings: BrokerSettings,
}

impl Place {
    /// Host and port.
    pub(crate) fn at(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The places that the settings name.
///
/// # Errors
/// When a file or a URL cannot be read.
pub(crate) async fn places(broker: &BrokerSettings) -> Result<Vec<Place>, BrokerError> {
    let mut places = Vec::new();
    for url in dial::urls(broker).await? {
        let target = dial::amqp_uri(&url, broker, &Offers::default()).await?;
        let only = BrokerSettings {
            url: BrokerUrls::parse(&url),
            url_file: None,
            ..broker.clone()
        };
        places.push(Place {
            is_tls: target.is_tls(),
            user: match &broker.user {
                Some(user) => user.clone(),
                None => target.amqp.authority.userinfo.username.clone(),
            },
            vhost: target.amqp.vhost.clone(),
            host: target.host,
            port: target.port,
            settings: only,
        });
    }
    Ok(places)
}

/// A connection that only looks.
pub(crate) struct Examiner {
    connection: Arc<Connection>,
    limit: Duration,
    close: Duration,
    stop: CancellationToken,
    closed: JoinHandle<()>,
}

impl Examiner {
    /// Connects to this place, in one attempt.
    pub(crate) async fn connect(
        place: &Place,
        timeouts: &TimeoutSettings,
    ) -> Result<Self, BrokerError> {
        let settings = &place.settings;
        let timeouts = Arc::new(timeouts.clone());
        let stop = CancellationToken::new();
        let (mut link, closed) = Link::start(
            Purpose::Consume,
            Arc::new(settings.clone()),
            Arc::clone(&timeouts),
            format!("{} doctor", settings.name),
            Scouting::default(),
            Arc::default(),
            stop.clone(),
        );
        let first = link.connected().await;
        let first = first.unwrap_or_else(|| Err(BrokerError::Lost("closed".to_owned())));
        match first {
            Ok(connection) => Ok(Self {
                connection,
                limit: timeouts.declare,
                close: timeouts.close,
                stop,
                closed,
            }),
            Err(error) => {
                stop.cancel();
                Err(error)
            }
        }
    }

    /// The broker's version, if the broker has named one.
    pub(crate) fn version(&self) -> Option<Version> {
        self.connection.version()
    }

    /// The queues and exchanges of a consumer.
    pub(crate) async fn survey(&self, spec: &QueueSpec) -> Survey {
        topology::examine(&self.connection, spec, self.limit).await
    }

    /// Whether the exchange exists; `None` if the broker does not tell.
    pub(crate) async fn exchange_exists(&self, exchange: &str) -> Option<bool> {
        topology::exchange_exists(&self.connection, exchange, self.limit).await
    }

    /// Whether the queue exists; `None` if the broker does not tell.
    pub(crate) async fn queue_exists(&self, queue: &str) -> Option<bool> {
        topology::queue_exists(&self.connection, queue, self.limit).await
    }

    /// Whether the user may consume the queue.
    pub(crate) async fn may_consume(&self, queue: &str) -> Access {
        access::may_consume(&self.connection, queue, self.limit).await
    }

    /// Whether the user may publish to the exchange, with this key if it is known. On a broker that has
    /// blocked publishing no other question follows this one.
    pub(crate) async fn may_publish(&self, exchange: &str, key: Option<&str>) -> Access {
        access::may_publish(&self.connection, exchange, key, self.limit).await
    }

    /// Whether the user may bind the queue to the exchange.
    pub(crate) async fn may_bind(&self, queue: &str, binding: &Binding) -> Access {
        access::may_bind(&self.connection, queue, binding, self.limit).await
    }

    /// What the management API shows of a queue; `None`: the settings name no API, or there is no such
    /// queue.
    ///
    /// # Errors
    /// When the API does not answer, or refuses the user.
    pub(crate) async fn shown(&self, queue: &str) -> Result<Option<QueueShown>, ManagementError> {
        match self.connection.management() {
            Some(management) => management.queue(queue).await,
            None => Ok(None),
        }
    }

    /// Whether the exchange routes to anything, as the management API shows it; `None`: nobody knows.
    ///
    /// # Errors
    /// As [`shown`](Self::shown).
    pub(crate) async fn routes(&self, exchange: &str) -> Result<Option<bool>, ManagementError> {
        match self.connection.management() {
            Some(management) => management.routes(exchange).await,
            None => Ok(None),
        }
    }

    /// Asks whether there is a management API at the URL of the settings, if they name one.
    ///
    /// # Errors
    /// When it does not answer, or refuses the user.
    pub(crate) async fn greet_management(&self) -> Result<(), ManagementError> {
        match self.connection.management() {
            Some(management) => management.greet().await,
            None => Ok(()),
        }
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        let _ = timeout(self.close * 2, self.closed).await;
    }
}
