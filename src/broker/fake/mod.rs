//! A broker in memory for tests: queues with their messages, and faults that a test arranges.
//!
//! The fake answers as RabbitMQ does, as far as the worker can notice: prefetch for each
//! subscription, tags for each channel, requeued messages back in their place, delivery counts and
//! limits by release, retry queues whose messages expire at the head, dead-lettering, confirms and
//! returns. A message is always in exactly one place. The fake closes a channel for the faults that
//! RabbitMQ closes it for (an ack of an unknown tag), and keeps each such fault as a
//! [violation](FakeBroker::violations).
//!
//! The fake uses tokio's time, so a test under paused time takes no time.

#[cfg(test)]
mod account;
mod arguments;
mod channel;
#[cfg(test)]
mod compare;
mod consumers;
mod dead_letters;
mod death;
#[cfg(test)]
mod letter;
mod message;
mod objects;
mod publishing;
mod queue;
mod record;
mod script;
mod session;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
mod timers;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicBool},
    time::Duration,
};

use tokio::sync::{mpsc, watch};

#[cfg(test)]
pub(crate) use arguments::{Arguments, Overflow, Policy, Type};
#[cfg(test)]
pub(crate) use letter::Letter;
pub(crate) use message::Stored;
#[cfg(test)]
pub(crate) use objects::{DEFAULT_EXCHANGE, Permission};
#[cfg(test)]
pub(crate) use record::Command;
pub(crate) use script::{Confirm, Fault};
pub(crate) use session::FakeSession;

use super::{
    BrokerError, Count, Properties, Publication, PublishError, QueueSpec, Version,
    seam::{Broker, Reading},
};
use crate::lock::lock;
use channel::{Channel, Event};
use queue::Queue;

/// The releases of RabbitMQ whose semantics differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Release {
    /// 3.10: returning a message raises its delivery count.
    V3,
    /// 4.0 to 4.2: as 3.10. Quorum queues have a delivery limit of 20 by default, and two
    /// priorities.
    V40,
    /// 4.3: returning a message does not raise its delivery count.
    #[default]
    V43,
}

/// A broker in memory, as one worker sees it. Clones are the same broker and the same worker.
#[derive(Clone)]
pub(crate) struct FakeBroker {
    model: Arc<Mutex<Model>>,
    /// The number of the worker whose connections this handle stands for.
    worker: u64,
    /// Whether the consuming connection is up.
    connected: watch::Receiver<bool>,
    /// Whether publishing is blocked.
    blocked: watch::Receiver<bool>,
    /// Changes whenever the model may have changed.
    changed: watch::Sender<()>,
}

/// The model, locked for a change. On unlock, every waiter in [`FakeBroker::until`] checks its
/// condition again.
struct Changing<'a> {
    model: MutexGuard<'a, Model>,
    broker: &'a FakeBroker,
}

impl Deref for Changing<'_> {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Model {
        &mut self.model
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.broker.arm(&mut self.model);
        self.broker.changed.send_replace(());
    }
}

/// A worker's two connections.
struct Links {
    connected: watch::Sender<bool>,
    /// Whether the publishing connection is up.
    publishing: bool,
    /// Until when the publishing connection writes the bytes that it has been given.
    writes_until: Option<tokio::time::Instant>,
}

struct Model {
    release: Release,
    queues: BTreeMap<String, Queue>,
    last_queue: u64,
    /// The open channels of consumers, by their number.
    channels: BTreeMap<u64, Channel>,
    last_channel: u64,
    workers: BTreeMap<u64, Links>,
    blocked: watch::Sender<bool>,
    policies: BTreeMap<String, arguments::Policy>,
    denied: BTreeSet<(objects::Permission, String)>,
    /// How long a delivery may wait for its ack.
    consumer_timeout: Option<Duration>,
    timers: timers::Timers,
    script: script::Script,
    violations: Vec<String>,
    record: record::Record,
    /// The properties of all messages that other clients have published.
    sent: Vec<Properties>,
    /// Messages that the broker has thrown away: with their queue, over a limit, or expired, without
    /// a target for dead letters.
    dropped: Vec<Stored>,
    untold_copies: u64,
    /// How often each queue was counted.
    counts: BTreeMap<String, u32>,
}

impl FakeBroker {
    /// A broker without queues, and a worker's handle to it. Both connections are up.
    pub(crate) fn new(release: Release) -> Self {
        let (blocked, is_blocked) = watch::channel(false);
        let (links, connected) = Links::up();
        let model = Model {
            release,
            queues: BTreeMap::new(),
            last_queue: 0,
            channels: BTreeMap::new(),
            last_channel: 0,
            workers: BTreeMap::from([(0, links)]),
            blocked,
            policies: BTreeMap::new(),
            denied: BTreeSet::new(),
            counts: BTreeMap::new(),
            consumer_timeout: None,
            timers: timers::Timers::default(),
            script: script::Script::default(),
            violations: Vec::new(),
            record: record::Record::default(),
            sent: Vec::new(),
            dropped: Vec::new(),
            untold_copies: 0,
        };
        Self {
            model: Arc::new(Mutex::new(model)),
            worker: 0,
            connected,
            blocked: is_blocked,
            changed: watch::Sender::new(()),
        }
    }

    /// The same broker, as another worker sees it: with connections of its own.
    pub(crate) fn another_worker(&self) -> Self {
        let (links, connected) = Links::up();
        let mut model = self.lock();
        let worker = model
            .workers
            .last_key_value()
            .map_or(0, |(last, _)| last + 1);
        model.workers.insert(worker, links);
        drop(model);
        Self {
            worker,
            connected,
            ..self.clone()
        }
    }

    /// A session that subscribes to a queue.
    fn subscribed(
        &self,
        mut model: Changing<'_>,
        queue: &str,
        prefetch: u16,
    ) -> Result<FakeSession, BrokerError> {
        let (number, events, usable) = model.open_channel(self.worker);
        model.subscribe(number, queue, prefetch)?;
        let session = FakeSession::new(self.clone(), number, events, usable);
        model.deliver(queue);
        Ok(session)
    }

    fn lock(&self) -> Changing<'_> {
        Changing {
            model: self.read(),
            broker: self,
        }
    }

    fn read(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// Waits until `wanted` is true of the broker. Evaluates `wanted` again after each change.
    pub(crate) async fn until(&self, wanted: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        while !wanted(self) {
            // The receiver cannot fail: this handle holds the sender.
            let _ = changed.changed().await;
        }
    }

    /// Publishes to a queue, as another client would. False if the queue does not exist.
    pub(crate) fn send(&self, queue: &str, body: &[u8], properties: Properties) -> bool {
        self.lock().sent.push(properties.clone());
        self.lock().route(queue, body, properties) != publishing::Routed::Nowhere
    }

    /// Waits until these queues are empty, no message is delivered and unsettled, and no message
    /// waits for its expiration.
    pub(crate) async fn wait_until_idle(&self, queues: &[&str]) {
        self.until(|it| {
            let model = it.read();
            let is_idle = |(name, queue): (&String, &Queue)| {
                !queue.will_expire() && (queue.ready.is_empty() || !queues.contains(&name.as_str()))
            };
            let unacked = model.channels.values().any(|it| !it.unacked.is_empty());
            !unacked && model.queues.iter().all(is_idle)
        })
        .await;
    }

    /// The messages that are ready in a queue, oldest first.
    pub(crate) fn ready(&self, queue: &str) -> Vec<Stored> {
        let model = self.read();
        let queue = model.queues.get(queue);
        queue.map_or_else(Vec::new, |queue| queue.ready.iter().cloned().collect())
    }

    /// The messages that are delivered and not settled, of all queues.
    pub(crate) fn unacked(&self) -> usize {
        let model = self.read();
        model.channels.values().map(|it| it.unacked.len()).sum()
    }

    /// The worker's faults for which RabbitMQ closes a channel.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.read().violations.clone()
    }
}

impl Links {
    fn up() -> (Self, watch::Receiver<bool>) {
        let (connected, is_connected) = watch::channel(true);
        let links = Self {
            connected,
            publishing: true,
            writes_until: None,
        };
        (links, is_connected)
    }
}

impl Model {
    fn links(&mut self, worker: u64) -> &mut Links {
        self.workers.entry(worker).or_insert_with(|| Links::up().0)
    }

    /// Whether the worker's publishing connection is up.
    fn publishes(&self, worker: u64) -> bool {
        self.workers
            .get(&worker)
            .is_some_and(|links| links.publishing)
    }

    fn open_channel(
        &mut self,
        worker: u64,
    ) -> (u64, mpsc::UnboundedReceiver<Event>, Arc<AtomicBool>) {
        self.last_channel += 1;
        let number = self.last_channel;
        let (events, receiver) = mpsc::unbounded_channel();
        let usable = Arc::new(AtomicBool::new(true));
        let channel = Channel::new(worker, events, Arc::clone(&usable));
        self.channels.insert(number, channel);
        self.watch_channel(number);
        (number, receiver, usable)
    }
}

impl Broker for FakeBroker {
    type Session = FakeSession;

    fn is_up(&self) -> bool {
        *self.connected.borrow()
    }

    async fn up(&mut self) {
        // The receiver cannot fail: the model holds the sender, and this handle holds the model.
        let _ = self.connected.wait_for(|is| *is).await;
    }

    async fn open(&mut self, spec: &QueueSpec, _tag: &str) -> Result<FakeSession, BrokerError> {
        self.answer_late().await;
        let mut model = self.lock();
        if !*self.connected.borrow() {
            return Err(BrokerError::Lost("not connected".to_owned()));
        }
        if let Some(refusal) = model.script.refusals.pop_front() {
            return Err(refusal);
        }
        model.ensure(spec)?;
        let mut session = self.subscribed(model, &spec.queue, spec.prefetch)?;
        session.consumes(spec);
        Ok(session)
    }

    async fn depths(&self, queues: Vec<String>) -> Result<Vec<(String, Option<u32>)>, BrokerError> {
        let model = self.read();
        let depth = |name: &String| {
            let queue = model.queues.get(name)?;
            Some(u32::try_from(queue.ready.len()).unwrap_or(u32::MAX))
        };
        let found = queues.into_iter().map(|name| {
            let depth = depth(&name);
            (name, depth)
        });
        Ok(found.collect())
    }

    async fn count(&self, queue: &str) -> Result<Option<Count>, BrokerError> {
        let mut model = self.lock();
        *model.counts.entry(queue.to_owned()).or_default() += 1;
        // 4.3 tells it to a user with any permission on the queue.
        let asks_for_rights = model.release >= Release::V43;
        let is_read = model.refused(objects::Permission::Read, queue).is_none();
        if let Some(text) = model.refused(objects::Permission::Configure, queue)
            && asks_for_rights
            && !is_read
        {
            return Err(BrokerError::Refused(text));
        }
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let count = model.queues.get(queue).map(|queue| Count {
            ready: number(queue.ready.len()),
            consumers: number(queue.serving.len().max(queue.entitled.len())),
        });
        let is_without_leader = model.queues.get(queue).is_some_and(|it| it.leaderless);
        Ok(count.map(|count| {
            if is_without_leader {
                Count::default()
            } else {
                count
            }
        }))
    }

    async fn publish(&self, message: &Publication<'_>) -> Result<(), PublishError> {
        self.confirmed(message).await
    }

    async fn blocked(&self) {
        let mut blocked = self.blocked.clone();
        // The receiver cannot fail: the model holds the sender, and this handle holds the model.
        let _ = blocked.wait_for(|is| *is).await;
    }

    async fn watch_publishing(self, publishing: watch::Sender<Option<String>>) {
        let mut changed = self.changed.subscribe();
        loop {
            let (is_up, is_blocked) = {
                let model = self.read();
                (model.publishes(self.worker), *model.blocked.borrow())
            };
            let reason = match (is_up, is_blocked) {
                (false, _) => Some("not connected"),
                (true, true) => Some("blocked by the broker"),
                (true, false) => None,
            };
            publishing.send_if_modified(|known| {
                let is_new = known.as_deref() != reason;
                *known = reason.map(str::to_owned);
                is_new
            });
            // The receiver cannot fail: this handle holds the sender.
            let _ = changed.changed().await;
        }
    }

    async fn restore(&self, spec: &QueueSpec, queue: &str) -> Option<Result<(), BrokerError>> {
        let mut model = self.lock();
        if !model.publishes(self.worker) {
            return None;
        }
        Some(model.restore(spec, queue))
    }
}

impl Reading for FakeBroker {
    async fn look_into(
        &mut self,
        queue: &str,
        prefetch: u16,
        _tag: &str,
    ) -> Result<FakeSession, BrokerError> {
        self.answer_late().await;
        if !*self.connected.borrow() {
            return Err(BrokerError::Lost("not connected".to_owned()));
        }
        self.subscribed(self.lock(), queue, prefetch)
    }

    /// The model does not delete the queue: tests look at what is left in it.
    async fn declare_own(&mut self, queue: &str) -> Result<(), BrokerError> {
        if !*self.connected.borrow() {
            return Err(BrokerError::Lost("not connected".to_owned()));
        }
        self.declare(queue);
        Ok(())
    }

    fn vouches(&self, user: &str) -> bool {
        user == publishing::USER
    }

    fn version(&self) -> Option<Version> {
        let (major, minor) = match self.read().release {
            Release::V3 => (3, 10),
            Release::V40 => (4, 0),
            Release::V43 => (4, 3),
        };
        Some(Version { major, minor })
    }

    async fn delivery_limit(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        let model = self.read();
        let limit = model.queues.get(queue);
        let limit = limit.and_then(|queue| queue.limits.delivery_limit);
        Ok(limit.and_then(|limit| u64::try_from(limit).ok()))
    }

    fn believed(&self, spec: &QueueSpec, properties: &Properties) -> Option<Properties> {
        Some(session::believed(spec, properties))
    }

    fn stranger(&self, properties: &Properties) -> Option<String> {
        session::trust().stranger(&properties.to_amqp())
    }

    async fn publish_in_order(
        &self,
        messages: &[Publication<'_>],
    ) -> (usize, Result<(), PublishError>) {
        for (sure, message) in messages.iter().enumerate() {
            if let Err(error) = self.confirmed(message).await {
                return (sure, Err(error));
            }
        }
        (messages.len(), Ok(()))
    }
}
