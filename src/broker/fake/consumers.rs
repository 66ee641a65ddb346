//! Which consumer of a queue gets the next message.

use tokio::time::Instant;

use super::{
    Model,
    arguments::Type,
    channel::{Consumer, Event, State},
    queue::Queue,
    timers::Due,
};
use crate::broker::{BrokerError, Delivery, QueueSpec, topology::DeliveryLimit};

impl Queue {
    /// Puts a consumer at the end of those that the queue serves, unless it waits there already or
    /// is not the active one.
    fn serve(&mut self, consumer: Consumer) {
        let is_active = !self.limits.single_active || self.entitled.front() == Some(&consumer);
        if is_active && !self.serving.contains(&consumer) {
            self.serving.push_back(consumer);
        }
    }

    /// Removes a consumer. With a single active consumer, the next one becomes active.
    pub(super) fn forget(&mut self, consumer: Consumer) {
        self.serving.retain(|it| *it != consumer);
        self.entitled.retain(|it| *it != consumer);
        if self.limits.single_active
            && let Some(active) = self.entitled.front()
        {
            self.serve(*active);
        }
    }
}

impl Model {
    /// Subscribes to a queue. A refusal closes the channel.
    pub(super) fn subscribe(
        &mut self,
        number: u64,
        name: &str,
        prefetch: u16,
    ) -> Result<(), BrokerError> {
        let closed = || BrokerError::Lost("channel closed".to_owned());
        self.channels.get(&number).ok_or_else(closed)?;
        if let Err(error) = self.may_read(name) {
            self.close_channel(number, &error.to_string());
            return Err(error);
        }
        let channel = self.channels.get_mut(&number).ok_or_else(closed)?;
        let consumer = (number, channel.subscribe(name, prefetch));
        if let Some(queue) = self.queues.get_mut(name) {
            queue.entitled.push_back(consumer);
            queue.serve(consumer);
        }
        Ok(())
    }

    /// Delivers the messages of a queue to its consumers, as far as their prefetch allows.
    pub(super) fn deliver(&mut self, name: &str) {
        loop {
            if self.is_quorum(name) {
                // A quorum queue looks at the next message's time before each delivery. A classic
                // queue does not: it delivers a message with a time of 0 if a consumer waits.
                self.drop_expired(name);
            }
            let Some(queue) = self.queues.get_mut(name) else {
                return;
            };
            if queue.leaderless || queue.ready.is_empty() {
                break;
            }
            let Some(consumer) = queue.serving.pop_front() else {
                break;
            };
            let Some(channel) = self.channels.get_mut(&consumer.0) else {
                continue;
            };
            if !channel.has_room(consumer.1) {
                continue;
            }
            if let Some(message) = queue.ready.pop() {
                channel.deliver(consumer.1, name, message, queue.kind);
            }
            // A classic queue notices only at the consumer's next turn that it has no room left.
            let is_classic = queue.kind == Type::Classic;
            if is_classic || channel.has_room(consumer.1) {
                queue.serving.push_back(consumer);
            }
            self.record.note_unacked(&self.channels);
            if is_classic {
                self.drop_expired(name);
            }
        }
        self.shrink(name);
        self.watch_expiry(name);
    }

    /// Lets a queue serve a consumer that has room again.
    pub(super) fn credit(&mut self, name: &str, consumer: Consumer) {
        let channel = self.channels.get(&consumer.0);
        let has_room = channel.is_some_and(|channel| channel.has_room(consumer.1));
        if let Some(queue) = self.queues.get_mut(name).filter(|_| has_room) {
            queue.serve(consumer);
        }
    }

    /// Cancels the live subscription of a channel.
    pub(super) fn cancel(&mut self, number: u64) -> Result<(), BrokerError> {
        let closed = || BrokerError::Lost("channel closed".to_owned());
        let channel = self.channels.get_mut(&number).ok_or_else(closed)?;
        let Some(live) = channel.live() else {
            return Ok(());
        };
        self.end_subscription((number, live));
        Ok(())
    }

    /// Gives the next message of the queue that a channel consumes, as the answer to `basic.get`. A
    /// quorum queue with a single active consumer closes the channel.
    pub(super) fn get(&mut self, number: u64) -> Result<Option<Delivery>, BrokerError> {
        self.is_open(number)?;
        let Some(name) = self.consumed(number).map(str::to_owned) else {
            return Ok(None);
        };
        if self.is_quorum(&name) {
            self.drop_expired(&name);
        }
        let Some(queue) = self.queues.get_mut(&name) else {
            self.close_channel(number, "NOT_FOUND - no queue (404)");
            return Ok(None);
        };
        if queue.kind == Type::Quorum && queue.limits.single_active {
            self.close_channel(number, "RESOURCE_LOCKED (405)");
            return Ok(None);
        }
        let (kind, message) = (queue.kind, queue.ready.pop());
        let channel = self.channels.get_mut(&number);
        Ok(message.and_then(|message| Some(channel?.give(&name, message, kind))))
    }

    /// The delivery limit of a consumer's queue, as a client can see it.
    pub(super) fn limit_seen(&self, spec: &QueueSpec) -> DeliveryLimit {
        if let Some(known) = DeliveryLimit::of(spec) {
            return known;
        }
        let Some(queue) = self.queues.get(&spec.queue) else {
            return DeliveryLimit::OfTheRelease;
        };
        match (queue.kind, queue.arguments.int_of("x-delivery-limit")) {
            (Type::Classic, _) => DeliveryLimit::None,
            (Type::Quorum, None) => DeliveryLimit::OfTheRelease,
            (Type::Quorum, Some(limit)) => {
                u64::try_from(limit).map_or(DeliveryLimit::None, DeliveryLimit::Own)
            }
        }
    }

    /// Fails if the channel is closed.
    pub(super) fn is_open(&self, number: u64) -> Result<(), BrokerError> {
        let closed = || BrokerError::Lost("channel closed".to_owned());
        self.channels.get(&number).map(drop).ok_or_else(closed)
    }

    /// The queue that a channel consumed last.
    pub(super) fn consumed(&self, number: u64) -> Option<&str> {
        let subscriptions = &self.channels.get(&number)?.subscriptions;
        let (_, last) = subscriptions.last_key_value()?;
        Some(&last.queue)
    }

    /// Ends a subscription; its deliveries can still be settled.
    pub(super) fn end_subscription(&mut self, consumer: Consumer) {
        let Some(channel) = self.channels.get_mut(&consumer.0) else {
            return;
        };
        let Some(subscription) = channel.subscriptions.get_mut(&consumer.1) else {
            return;
        };
        subscription.state = State::Cancelled;
        let name = subscription.queue.clone();
        channel.send(Event::Ended);
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.forget(consumer);
        }
        self.deliver(&name);
        self.without_consumer(&name);
    }

    /// Cancels all consumers of a queue.
    pub(super) fn cancel_consumers(&mut self, name: &str) {
        let mut consumers = Vec::new();
        for (number, channel) in &self.channels {
            let live = channel.live();
            let live = live.filter(|it| channel.subscriptions[it].queue == name);
            consumers.extend(live.map(|it| (*number, it)));
        }
        for consumer in consumers {
            self.end_subscription(consumer);
        }
    }

    /// Ends what has waited too long for its ack. RabbitMQ closes the channel. From 4.3 on it only
    /// knows the timeout for quorum queues, and only cancels the consumer.
    pub(super) fn time_out(&mut self, number: u64) {
        let Some(timeout) = self.consumer_timeout else {
            return;
        };
        let now = Instant::now();
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        let is_late = |since: Instant| since + timeout <= now;
        let counts = |queue: &str| self.release < super::Release::V43 || self.is_quorum(queue);
        let late = channel.unacked.values().find(|unacked| {
            unacked.message.is_some() && is_late(unacked.since) && counts(&unacked.queue)
        });
        let late = late.map(|unacked| (unacked.subscription, unacked.queue.clone()));
        match late {
            Some((subscription, queue)) if self.release >= super::Release::V43 => {
                self.cancel_late((number, subscription), &queue, now - timeout);
            }
            Some(_) => {
                let text = format!(
                    "PRECONDITION_FAILED - delivery acknowledgement on channel {number} timed out. \
                     Timeout value used: {} ms. (406)",
                    timeout.as_millis()
                );
                self.close_channel(number, &text);
            }
            None => {}
        }
        self.watch_channel(number);
    }

    fn cancel_late(&mut self, consumer: Consumer, name: &str, since: Instant) {
        let Some(channel) = self.channels.get_mut(&consumer.0) else {
            return;
        };
        let was_live = channel.live() == Some(consumer.1);
        let late = channel.time_out(consumer.1, since);
        if was_live {
            channel.send(Event::Ended);
        }
        let Some(queue) = self.queues.get_mut(name) else {
            self.dropped.extend(late);
            return;
        };
        queue.serving.retain(|it| *it != consumer);
        for mut message in late {
            message.redelivered = true;
            queue.put_back(message);
        }
        self.deliver(name);
    }

    /// Looks at a channel again when its oldest delivery may have waited too long.
    pub(super) fn watch_channel(&mut self, number: u64) {
        let Some(timeout) = self.consumer_timeout else {
            return;
        };
        let oldest = self.channels.get(&number).and_then(|channel| {
            let unacked = channel.unacked.values();
            let held = unacked.filter(|it| it.message.is_some());
            held.map(|it| it.since).min()
        });
        let now = Instant::now();
        let at = oldest.map_or(now + timeout, |since| (since + timeout).max(now + TICK));
        if self.channels.contains_key(&number) {
            self.timers.at(at, Due::TimeOut(number));
        }
    }
}

/// The shortest time between two looks at a channel.
const TICK: std::time::Duration = std::time::Duration::from_secs(1);
