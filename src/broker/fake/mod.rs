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
#[cfg(test)]
mod letter;
mod publishing;
mod queue;
mod record;
mod script;
mod session;
#[cfg(test)]
mod simulated;

use std::{
    collections::BTreeMap,
    iter,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

#[cfg(test)]
pub(crate) use letter::Letter;
pub(crate) use queue::Stored;
use queue::{Queue, Type};
#[cfg(test)]
pub(crate) use record::Command;
pub(crate) use script::{Confirm, Fault};
use session::Channel;
pub(crate) use session::FakeSession;

use super::{
    BrokerError, Properties, Publication, PublishError, QueueSpec, Topology,
    seam::Broker,
    topology::{Difference, QueuePlan, plan, planned},
};
use crate::lock::lock;

/// The releases of RabbitMQ whose semantics differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Release {
    /// 3.10: returning a message raises its delivery count.
    V3,
    /// 4.0 to 4.2: as 3.10.
    V40,
    /// 4.3: returning a message does not raise its delivery count.
    #[default]
    V43,
}

/// The wait before a quorum queue repeats a dead-lettering whose target is missing. The queue keeps
/// the message until then.
const DEAD_LETTERED_AGAIN: Duration = Duration::from_mins(3);

/// A broker in memory. Clones are the same broker.
#[derive(Clone)]
pub(crate) struct FakeBroker {
    model: Arc<Mutex<Model>>,
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
    changed: &'a watch::Sender<()>,
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
        self.changed.send_replace(());
    }
}

struct Model {
    release: Release,
    queues: BTreeMap<String, Queue>,
    /// The open channels of consumers, by their number.
    channels: BTreeMap<u64, Channel>,
    last_channel: u64,
    /// The number of the last message. Messages are numbered in the order of their first arrival.
    last_message: u64,
    connected: watch::Sender<bool>,
    blocked: watch::Sender<bool>,
    /// Whether the publishing connection is up.
    publishing: bool,
    script: script::Script,
    violations: Vec<String>,
    record: record::Record,
    /// The properties of all messages that other clients have published.
    sent: Vec<Properties>,
    /// Messages that were deleted with their queue, or that expired in a queue without a
    /// dead-letter target.
    dropped: Vec<Stored>,
    untold_copies: u64,
}

impl FakeBroker {
    /// A broker without queues. Both connections are up.
    pub(crate) fn new(release: Release) -> Self {
        let (connected, is_connected) = watch::channel(true);
        let (blocked, is_blocked) = watch::channel(false);
        let model = Model {
            release,
            queues: BTreeMap::new(),
            channels: BTreeMap::new(),
            last_channel: 0,
            last_message: 0,
            connected,
            blocked,
            publishing: true,
            script: script::Script::default(),
            violations: Vec::new(),
            record: record::Record::default(),
            sent: Vec::new(),
            dropped: Vec::new(),
            untold_copies: 0,
        };
        Self {
            model: Arc::new(Mutex::new(model)),
            connected: is_connected,
            blocked: is_blocked,
            changed: watch::Sender::new(()),
        }
    }

    fn lock(&self) -> Changing<'_> {
        Changing {
            model: self.read(),
            changed: &self.changed,
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

    /// Declares a queue without arguments.
    pub(crate) fn declare(&self, queue: &str) {
        let mut model = self.lock();
        let missing = Queue::new(Type::Quorum);
        model.queues.entry(queue.to_owned()).or_insert(missing);
    }

    /// Publishes to a queue, as another client would. False if the queue does not exist.
    pub(crate) fn send(&self, queue: &str, body: &[u8], properties: Properties) -> bool {
        self.lock().sent.push(properties.clone());
        self.route(queue, body, properties).is_some()
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

    /// Stores a message in the queue and in the queues of its `CC` and `BCC` headers, and delivers
    /// it to consumers that have room. `None` if none of these queues exists.
    fn route(&self, queue: &str, body: &[u8], properties: Properties) -> Option<()> {
        let (others, properties) = publishing::carbon_copies(properties);
        let mut stored = None;
        for queue in [queue].into_iter().chain(others.iter().map(String::as_str)) {
            let mut model = self.lock();
            model.last_message += 1;
            let message = Stored::new(model.last_message, body.to_vec(), properties.clone());
            let Some(expires_at) = model.store(queue, message) else {
                continue;
            };
            stored = Some(());
            if let Some(time) = expires_at {
                self.expire_at(time, queue);
            }
        }
        stored
    }

    /// Expires messages of the queue at this time.
    fn expire_at(&self, time: Instant, queue: &str) {
        let (broker, queue) = (self.clone(), queue.to_owned());
        tokio::spawn(async move {
            sleep_until(time).await;
            let targets = broker.lock().expire(&queue, Instant::now());
            for (time, queue) in targets {
                broker.expire_at(time, &queue);
            }
        });
    }
}

impl Model {
    /// Puts a message at the end of a queue. `None` if the queue does not exist, otherwise the time
    /// at which the message expires there.
    fn store(&mut self, name: &str, message: Stored) -> Option<Option<Instant>> {
        let now = Instant::now();
        let expires_at = self.queues.get_mut(name)?.push(message, now);
        self.deliver(name);
        Some(expires_at)
    }

    /// Dead-letters the expired messages at the head of a queue. Returns each queue that received a
    /// message which will expire in its turn, with the time.
    fn expire(&mut self, name: &str, now: Instant) -> Vec<(Instant, String)> {
        let Some(queue) = self.queues.get(name) else {
            return Vec::new();
        };
        let target = queue.dead_letters_to.clone();
        let target_exists = target
            .as_ref()
            .is_some_and(|it| self.queues.contains_key(it));
        if target.is_some() && !target_exists && queue.kind == Type::Quorum {
            return vec![(now + DEAD_LETTERED_AGAIN, name.to_owned())];
        }
        let queue = self.queues.get_mut(name);
        let pop = |queue: &mut Queue| iter::from_fn(|| queue.pop_expired(now)).collect();
        let expired: Vec<_> = queue.map(pop).unwrap_or_default();
        let mut later = Vec::new();
        for message in expired {
            let Some(target) = target.as_ref().filter(|_| target_exists) else {
                self.dropped.push(message);
                continue;
            };
            let message = message.dead_lettered(name, "expired");
            if let Some(Some(time)) = self.store(target, message) {
                later.push((time, target.clone()));
            }
        }
        later
    }

    /// Delivers the messages of a queue to its consumers, as far as their prefetch allows.
    fn deliver(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        while !queue.ready.is_empty() {
            let mut channels = self.channels.values_mut();
            let Some(channel) = channels.find(|channel| channel.takes_from(name)) else {
                return;
            };
            if let Some(message) = queue.ready.pop_front() {
                channel.deliver(message, name);
            }
            self.record.note_unacked(&self.channels);
        }
    }

    /// Puts messages back in their place, and dead-letters messages over the delivery limit.
    fn requeue(&mut self, messages: Vec<(String, Stored)>, raises_count: bool) {
        let mut touched = Vec::new();
        for (name, mut message) in messages {
            let Some(queue) = self.queues.get_mut(&name) else {
                // The queue was deleted, together with its messages.
                self.dropped.push(message);
                continue;
            };
            message.redelivered = true;
            if raises_count && queue.kind == Type::Quorum {
                message.delivery_count += 1;
            }
            let is_over = |limit: u64| message.delivery_count > limit;
            if queue.delivery_limit.is_some_and(is_over) {
                let target = queue.dead_letters_to.clone();
                match target.filter(|it| self.queues.contains_key(it)) {
                    Some(target) => {
                        self.store(&target, message.dead_lettered(&name, "delivery_limit"));
                    }
                    None => self.dropped.push(message),
                }
                continue;
            }
            queue.put_back(message);
            touched.push(name);
        }
        for name in touched {
            self.deliver(&name);
        }
    }

    /// Declares the queues that the consumer needs, or checks that they exist.
    fn ensure(&mut self, spec: &QueueSpec) -> Result<(), BrokerError> {
        let is_missing = |plan: &QueuePlan| !self.queues.contains_key(&plan.name);
        let missing: Vec<_> = plan(spec).into_iter().filter(is_missing).collect();
        let is_made = |plan: &QueuePlan| match spec.topology {
            Topology::Declare => true,
            Topology::Attach => plan.name != spec.queue,
            Topology::Verify | Topology::None => false,
        };
        if missing.iter().any(|plan| !is_made(plan)) {
            let refused = missing.into_iter().filter(|plan| !is_made(plan));
            let named = refused.map(|plan| Difference::NoQueue { queue: plan.name });
            return Err(BrokerError::Topology(named.collect()));
        }
        for plan in missing {
            self.queues.insert(plan.name.clone(), Queue::planned(&plan));
        }
        Ok(())
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
        if !*model.connected.borrow() {
            return Err(BrokerError::Lost("not connected".to_owned()));
        }
        if let Some(refusal) = model.script.refusals.pop_front() {
            return Err(refusal);
        }
        model.ensure(spec)?;
        let (number, events, usable) = model.open_channel();
        model.subscribe(number, &spec.queue, spec.prefetch)?;
        let session = FakeSession::new(self.clone(), number, events, usable);
        model.deliver(&spec.queue);
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
                (model.publishing, *model.blocked.borrow())
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
        if !model.publishing {
            return None;
        }
        if let Some(plan) = planned(spec, queue) {
            let made = Queue::planned(&plan);
            model.queues.entry(plan.name).or_insert(made);
        }
        Some(Ok(()))
    }
}
