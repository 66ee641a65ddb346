//! Acks and nacks on their way: from the client to the channel, and from the channel to its queue.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{
    Model, Release,
    arguments::Type,
    channel::{Consumer, Unacked},
    death::Reason,
    message::Stored,
    timers::Due,
};
use crate::broker::BrokerError;

use super::FakeBroker;

/// The commands of a channel that a quorum queue takes at a time. The channel keeps the rest, and
/// throws it away when it closes.
const WINDOW: usize = 32;

/// One ack or nack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settle {
    pub(super) tag: u64,
    pub(super) multiple: bool,
    pub(super) verdict: Verdict,
}

/// What becomes of the messages that a command settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are done: an ack.
    Done,
    /// They go back to their queue: a nack with requeue.
    Back,
    /// The queue dead-letters them: a nack without requeue.
    Rejected,
}

/// Settled deliveries that their queue has not applied, because it has no leader.
#[derive(Debug)]
pub(super) struct Held {
    consumer: Consumer,
    pub(super) messages: Vec<Stored>,
    verdict: Verdict,
}

impl FakeBroker {
    /// Whether a channel has all commands that were written on it, or is closed.
    pub(super) fn has_arrived(&self, number: u64) -> bool {
        let model = self.read();
        let channel = model.channels.get(&number);
        channel.is_none_or(|channel| channel.wire.is_empty())
    }

    /// Whether its queue has applied them too.
    pub(super) fn has_applied(&self, number: u64) -> bool {
        let model = self.read();
        let queue = model.consumed(number).and_then(|it| model.queues.get(it));
        let has_leader = queue.is_none_or(|queue| !queue.leaderless);
        drop(model);
        has_leader && self.has_arrived(number)
    }
}

impl Model {
    /// Takes commands that a client has written. Fails if the channel is closed.
    pub(super) fn receive(&mut self, number: u64, settle: Settle) -> Result<(), BrokerError> {
        let closed = || BrokerError::Lost("channel closed".to_owned());
        let channel = self.channels.get_mut(&number).ok_or_else(closed)?;
        if self.script.latency.is_zero() && channel.wire.is_empty() {
            self.settle(number, settle);
            return Ok(());
        }
        let at = Instant::now() + self.script.latency;
        channel.wire.push_back((at, settle));
        self.timers.at(at, Due::Apply(number));
        Ok(())
    }

    /// Applies the commands that have arrived by now.
    pub(super) fn apply_arrived(&mut self, number: u64) {
        let now = Instant::now();
        while let Some(channel) = self.channels.get_mut(&number) {
            let next = channel.wire.front();
            if next.is_none_or(|(at, _)| *at > now) {
                return;
            }
            if let Some((_, settle)) = channel.wire.pop_front() {
                self.settle(number, settle);
            }
        }
    }

    /// Applies one command. An unknown tag closes the channel.
    fn settle(&mut self, number: u64, settle: Settle) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let back = settle.verdict == Verdict::Back;
        self.record.note_settled(settle.tag, settle.multiple, back);
        match channel.take(settle.tag, settle.multiple) {
            Ok(taken) => {
                for (consumer, name, messages) in by_consumer(number, taken) {
                    self.settled(&name, consumer, messages, settle.verdict);
                }
            }
            Err(violation) => {
                self.violations.push(violation);
                self.close_channel(number, "PRECONDITION_FAILED - unknown delivery tag (406)");
            }
        }
    }

    fn settled(&mut self, name: &str, consumer: Consumer, messages: Vec<Stored>, verdict: Verdict) {
        let Some(queue) = self.queues.get_mut(name) else {
            // The queue was deleted, together with its messages.
            let is_done = verdict == Verdict::Done;
            self.dropped
                .extend(messages.into_iter().filter(|_| !is_done));
            return;
        };
        if queue.leaderless {
            queue.held.push(Held {
                consumer,
                messages,
                verdict,
            });
            return;
        }
        if verdict == Verdict::Back {
            self.returned(name, Some(consumer), messages);
            return;
        }
        if verdict == Verdict::Rejected {
            self.dead_letter(name, messages, Reason::Rejected);
        }
        self.credit(name, consumer);
        self.deliver(name);
    }

    /// A queue has a leader again: it applies what its channels have kept for it.
    pub(super) fn elect(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        queue.leaderless = false;
        let (held, late) = (
            std::mem::take(&mut queue.held),
            std::mem::take(&mut queue.late),
        );
        for held in held {
            self.settled(name, held.consumer, held.messages, held.verdict);
        }
        for message in late {
            self.store(name, message);
        }
        self.deliver(name);
    }

    /// Puts messages back, and dead-letters those over the delivery limit. `consumer` is the
    /// consumer that returned them; `None` for a channel that closed.
    fn returned(&mut self, name: &str, consumer: Option<Consumer>, messages: Vec<Stored>) {
        // RabbitMQ 4.3 counts only deliveries whose channel closed.
        let counts = self.release != Release::V43 || consumer.is_none();
        let Some(queue) = self.queues.get(name) else {
            self.dropped.extend(messages);
            return;
        };
        let (kind, limit) = (queue.kind, queue.limits.delivery_limit);
        if kind == Type::Classic
            && let Some(consumer) = consumer
        {
            self.credit(name, consumer);
        }
        let goes_last = kind == Type::Quorum
            && self.release == Release::V3
            && limit.is_none()
            && consumer.is_some();
        let mut over = Vec::new();
        for mut message in messages {
            message.redelivered = true;
            // From 4.3 on classic queues count too, for the header of a dead letter.
            if counts && (kind == Type::Quorum || self.release == Release::V43) {
                message.delivery_count += 1;
                message.failed += u64::from(consumer.is_none());
            }
            let count = i64::try_from(message.delivery_count).unwrap_or(i64::MAX);
            if limit.is_some_and(|limit| count > limit) {
                over.push(message);
                continue;
            }
            let Some(queue) = self.queues.get_mut(name) else {
                return;
            };
            if goes_last {
                queue.put_last(message);
                self.credit_and_deliver(name, consumer);
            } else {
                queue.put_back(message);
            }
        }
        self.dead_letter(name, over, Reason::DeliveryLimit);
        if kind == Type::Classic {
            self.shrink(name);
            self.drop_expired(name);
        }
        self.credit_and_deliver(name, consumer);
    }

    fn credit_and_deliver(&mut self, name: &str, consumer: Option<Consumer>) {
        if let Some(consumer) = consumer {
            self.credit(name, consumer);
        }
        self.deliver(name);
    }

    /// Closes a channel. Its unsettled messages go back to their queues, which raises their
    /// delivery count.
    pub(super) fn close_channel(&mut self, number: u64, why: &str) {
        self.end_subscriptions(number);
        let Some(mut channel) = self.channels.remove(&number) else {
            return;
        };
        channel.close(BrokerError::Lost(why.to_owned()));
        let mut back = BTreeMap::<String, Vec<Stored>>::new();
        for unacked in std::mem::take(&mut channel.unacked).into_values() {
            let messages = back.entry(unacked.queue).or_default();
            messages.extend(unacked.message);
        }
        for (name, queue) in &mut self.queues {
            let (lost, kept) = std::mem::take(&mut queue.held)
                .into_iter()
                .partition::<Vec<_>, _>(|held| held.consumer.0 == number);
            queue.held = kept;
            let lost = lost.into_iter().flat_map(|held| held.messages);
            let lost: Vec<_> = lost.collect();
            if !lost.is_empty() {
                back.entry(name.clone()).or_default().splice(0..0, lost);
            }
        }
        for (name, messages) in back {
            self.returned(&name, None, messages);
        }
        let queues: Vec<_> = channel.subscriptions.into_values().collect();
        for known in queues {
            self.deliver(&known.queue);
            self.without_consumer(&known.queue);
        }
    }

    /// Closes a channel as its client asks. The channel applies what it received before, as far as
    /// its queues take commands.
    pub(super) fn close_cleanly(&mut self, number: u64, why: &str) {
        let mut given = BTreeMap::<String, usize>::new();
        while let Some(channel) = self.channels.get_mut(&number)
            && let Some((_, settle)) = channel.wire.pop_front()
        {
            let queue = channel.unacked.get(&settle.tag).map(|it| it.queue.clone());
            let queue = queue.unwrap_or_default();
            let count = given.entry(queue.clone()).or_default();
            *count += 1;
            if self.is_quorum(&queue) && given[&queue] > WINDOW {
                continue;
            }
            self.settle(number, settle);
        }
        self.close_channel(number, why);
    }

    /// Closes the channels of one worker, because its connection died. Of the commands on their way,
    /// the broker applies as many as the script decides: the first ones of each channel, because a
    /// connection keeps their order.
    pub(super) fn cut_channels(&mut self, worker: u64, why: &str) {
        let channels = self.channels.iter();
        let ours = channels.filter(|(_, channel)| channel.worker == worker);
        let numbers: Vec<_> = ours.map(|(number, _)| *number).collect();
        for number in &numbers {
            while let Some(channel) = self.channels.get_mut(number)
                && let Some((_, settle)) = channel.wire.pop_front()
                && self.script.decide()
            {
                self.settle(*number, settle);
            }
        }
        // The client sees nothing more. The queues notice one channel after the other, and deliver
        // what the first one had to those that die after it.
        for number in &numbers {
            if let Some(channel) = self.channels.get(number) {
                channel.close(BrokerError::Lost(why.to_owned()));
            }
        }
        for number in numbers {
            self.close_channel(number, why);
        }
    }

    /// Lets the queues forget the consumers of a channel.
    fn end_subscriptions(&mut self, number: u64) {
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        for (subscription, known) in &channel.subscriptions {
            if let Some(queue) = self.queues.get_mut(&known.queue) {
                queue.forget((number, *subscription));
            }
        }
    }
}

/// Settled deliveries by consumer and queue, in the order of their first tags.
fn by_consumer(number: u64, taken: Vec<Unacked>) -> Vec<(Consumer, String, Vec<Stored>)> {
    let mut groups: Vec<(Consumer, String, Vec<Stored>)> = Vec::new();
    for unacked in taken {
        let consumer = (number, unacked.subscription);
        let known = groups
            .iter_mut()
            .find(|(of, name, _)| *of == consumer && *name == unacked.queue);
        match known {
            Some((_, _, messages)) => messages.extend(unacked.message),
            None => {
                let messages = unacked.message.into_iter().collect();
                groups.push((consumer, unacked.queue, messages));
            }
        }
    }
    groups
}
