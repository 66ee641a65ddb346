//! The configuration of the worker under test: its consumers, their handlers, and changed settings.

use std::path::Path;

use lapwing::Settings;
use lapwing::Worker;
use lapwing::handler::IntoHandler;
use toml::{Table, Value};

use super::http::HttpHandler;
use super::running::RunningWorker;
use super::vhost::VHost;

/// The address that a worker connects to: a virtual host, a URL, or a file that holds a URL.
pub trait BrokerUrl {
    /// The setting below `broker` for this address, and its value.
    fn setting(&self) -> (&'static str, String);
}

impl BrokerUrl for VHost {
    fn setting(&self) -> (&'static str, String) {
        ("url", self.amqp_url())
    }
}

impl BrokerUrl for str {
    fn setting(&self) -> (&'static str, String) {
        ("url", self.to_owned())
    }
}

impl BrokerUrl for String {
    fn setting(&self) -> (&'static str, String) {
        ("url", self.clone())
    }
}

impl BrokerUrl for Path {
    fn setting(&self) -> (&'static str, String) {
        ("url_file", self.display().to_string())
    }
}

impl<T: BrokerUrl + ?Sized> BrokerUrl for &T {
    fn setting(&self) -> (&'static str, String) {
        (*self).setting()
    }
}

/// One consumer with the name of its queue, without a handler yet. See [`Consumers`].
pub fn consumer(broker: &(impl BrokerUrl + ?Sized), queue: &str) -> Consumers {
    consumers(broker, &[queue])
}

/// Several consumers with the names of their queues, without handlers yet. See [`Consumers`].
pub fn consumers(broker: &(impl BrokerUrl + ?Sized), queues: &[&str]) -> Consumers {
    let consumer = |queue: &&str| {
        let queue = (*queue).to_owned();
        let consumer = Table::from_iter([("queue".to_owned(), Value::String(queue.clone()))]);
        (queue, Value::from(consumer))
    };
    let (setting, value) = broker.setting();
    let broker = Table::from_iter([(setting.to_owned(), Value::String(value))]);
    let consumers = Table::from_iter(queues.iter().map(consumer));
    let config = Table::from_iter([
        ("broker".to_owned(), broker.into()),
        ("consumers".to_owned(), consumers.into()),
    ]);
    Consumers { config }
}

/// A builder for a worker's configuration.
///
/// [`Self::toml`] is the text for a worker process. [`Self::worker`] is a worker whose handlers are
/// closures of the test. [`Self::start`] starts a worker whose handlers are configured.
#[derive(Clone, Debug)]
pub struct Consumers {
    config: Table,
}

impl Consumers {
    /// Changes the configuration by TOML that is merged into it, table by table:
    /// `"[drain]\ngrace = '2s'\n[consumers.orders]\nprefetch = 4"`.
    pub fn with(mut self, changes: &str) -> Self {
        let changes = changes.parse().expect("the changes are TOML");
        lay_over(&mut self.config, changes);
        self
    }

    /// Every consumer calls this HTTP handler.
    pub fn http(self, handler: &HttpHandler) -> Self {
        self.http_at(&handler.url())
    }

    /// Every consumer calls a handler at this URL.
    pub fn http_at(self, url: &str) -> Self {
        self.each_consumer(&format!("handler = {{ kind = 'http', url = '{url}' }}"))
    }

    /// The worker reconnects within half a second.
    pub fn quick(self) -> Self {
        self.with("broker.reconnect = { base = '100ms', cap = '500ms' }")
    }

    /// Every consumer parks each retry in its only retry queue, for at least a tenth of a second.
    pub fn retry_at_broker(self) -> Self {
        self.each_consumer("retry = { base = '100ms', cap = '1s', inline_below = '0s' }")
    }

    /// Gives each consumer this prefetch, and the same concurrency.
    pub fn at_once(self, prefetch: usize) -> Self {
        self.each_consumer(&format!("prefetch = {prefetch}\nconcurrency = {prefetch}"))
    }

    /// What cannot be published counts as waiting after 0.3 s.
    pub fn soon_waiting(self) -> Self {
        self.with("publish.budget = '300ms'")
    }

    fn each_consumer(mut self, changes: &str) -> Self {
        let changes: Table = changes.parse().expect("the changes are TOML");
        let consumers = self
            .config
            .get_mut("consumers")
            .and_then(Value::as_table_mut);
        for (_, consumer) in consumers.expect("made with the consumers") {
            let consumer = consumer.as_table_mut().expect("a consumer is a table");
            lay_over(consumer, changes.clone());
        }
        self
    }

    /// The configuration file.
    pub fn toml(&self) -> String {
        self.config.to_string()
    }

    /// The same, as settings.
    pub fn settings(&self) -> Settings {
        Settings::from_toml(&self.toml()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A worker without the handlers that are not configured: the test adds them.
    pub fn worker(&self) -> Worker {
        Worker::new(self.settings())
    }

    /// Starts the worker in this process with this handler for its only consumer. See
    /// [`RunningWorker::start`].
    pub async fn start_with<M>(&self, handler: impl IntoHandler<M>) -> RunningWorker {
        let consumers = self.config["consumers"].as_table().expect("as made");
        let mut names = consumers.keys();
        let (Some(name), None) = (names.next(), names.next()) else {
            panic!("several consumers: register their handlers by `worker`")
        };
        RunningWorker::start(self.worker().handler(name, handler)).await
    }

    /// Starts the worker in this process. See [`RunningWorker::start`].
    pub async fn start(&self) -> RunningWorker {
        RunningWorker::start(self.worker()).await
    }

    /// Starts the worker in this process, and does not wait.
    pub fn begin(&self) -> RunningWorker {
        RunningWorker::begin(self.worker())
    }
}

/// Puts `changes` into `config`. Merges tables, and replaces all other values.
fn lay_over(config: &mut Table, changes: Table) {
    for (key, change) in changes {
        match (config.get_mut(&key), change) {
            (Some(Value::Table(table)), Value::Table(change)) => lay_over(table, change),
            (_, change) => {
                config.insert(key, change);
            }
        }
    }
}
