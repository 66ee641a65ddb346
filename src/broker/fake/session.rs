//! A consumer's channel at the fake broker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use super::{FakeBroker, Model, Release, Stored};
use crate::broker::{Acks, BrokerError, Delivery, Moment, QueueSpec, Returns, Session, Topology};

/// The broker's view of a channel.
pub(super) struct Channel {
    events: mpsc::UnboundedSender<Event>,
    usable: Arc<AtomicBool>,
    last_tag: u64,
    /// Delivered and unsettled messages by tag, each with its subscription and queue.
    pub(super) unacked: BTreeMap<u64, (u64, String, Stored)>,
    /// The live subscription: its number, queue and prefetch.
    subscription: Option<(u64, String, u16)>,
    last_subscription: u64,
}

/// An event that the broker sends on a channel.
pub(super) enum Event {
    Delivery(Box<Delivery>),
    /// The subscription has ended.
    Ended,
    /// The channel or its connection has closed.
    Lost(BrokerError),
}

impl Channel {
    /// Whether the subscription takes one more message of this queue. The prefetch holds for each
    /// subscription.
    pub(super) fn takes_from(&self, name: &str) -> bool {
        let Some((number, queue, prefetch)) = &self.subscription else {
            return false;
        };
        let unacked = self.unacked.values();
        let own = unacked.filter(|(of, ..)| of == number).count();
        queue == name && own < usize::from(*prefetch)
    }

    pub(super) fn deliver(&mut self, message: Stored, queue: &str) {
        let Some((number, ..)) = &self.subscription else {
            return;
        };
        self.last_tag += 1;
        let delivery = Delivery {
            tag: self.last_tag,
            received: Moment::now(),
            exchange: String::new(),
            routing_key: queue.to_owned(),
            redelivered: message.redelivered,
            properties: message.delivered_properties(),
            body: message.body.clone(),
        };
        self.unacked
            .insert(self.last_tag, (*number, queue.to_owned(), message));
        // A dropped session takes nothing more, and its channel is about to close.
        let _ = self.events.send(Event::Delivery(Box::new(delivery)));
    }

    /// Removes these tags from the unsettled messages. Fails if one of the tags is not unsettled.
    fn settle(&mut self, tags: &[u64], multiple: bool) -> Result<Vec<(String, Stored)>, String> {
        let mut settled = Vec::new();
        for tag in tags {
            if !self.unacked.contains_key(tag) {
                return Err(format!("unknown delivery tag {tag}"));
            }
            let later = self.unacked.split_off(&(tag + 1));
            let mut ours = std::mem::replace(&mut self.unacked, later);
            if !multiple {
                let own = ours.split_off(tag);
                self.unacked.append(&mut ours);
                ours = own;
            }
            settled.extend(
                ours.into_values()
                    .map(|(_, queue, message)| (queue, message)),
            );
        }
        Ok(settled)
    }
}

impl Model {
    pub(super) fn open_channel(
        &mut self,
    ) -> (u64, mpsc::UnboundedReceiver<Event>, Arc<AtomicBool>) {
        self.last_channel += 1;
        let (events, receiver) = mpsc::unbounded_channel();
        let usable = Arc::new(AtomicBool::new(true));
        let channel = Channel {
            events,
            usable: Arc::clone(&usable),
            last_tag: 0,
            unacked: BTreeMap::new(),
            subscription: None,
            last_subscription: 0,
        };
        self.channels.insert(self.last_channel, channel);
        (self.last_channel, receiver, usable)
    }

    pub(super) fn subscribe(
        &mut self,
        channel: u64,
        queue: &str,
        prefetch: u16,
    ) -> Result<(), BrokerError> {
        if !self.queues.contains_key(queue) {
            self.close_channel(channel, "queue not found");
            let text = format!("NOT_FOUND - no queue '{queue}' (404)");
            return Err(BrokerError::Lost(text));
        }
        let Some(channel) = self.channels.get_mut(&channel) else {
            return Err(BrokerError::Lost("channel closed".to_owned()));
        };
        channel.last_subscription += 1;
        let number = channel.last_subscription;
        channel.subscription = Some((number, queue.to_owned(), prefetch));
        Ok(())
    }

    pub(super) fn close_channels(&mut self, why: &str) {
        let numbers: Vec<_> = self.channels.keys().copied().collect();
        for number in numbers {
            self.close_channel(number, why);
        }
    }

    /// Closes a channel. Its unsettled messages go back to their queues, which raises their
    /// delivery count.
    pub(super) fn close_channel(&mut self, number: u64, why: &str) {
        let Some(channel) = self.channels.remove(&number) else {
            return;
        };
        channel.usable.store(false, Ordering::Release);
        // The send fails only if the session was dropped, which does not matter here.
        let _ = channel
            .events
            .send(Event::Lost(BrokerError::Lost(why.to_owned())));
        let unacked = channel.unacked.into_values();
        let unacked = unacked.map(|(_, queue, message)| (queue, message));
        self.requeue(unacked.collect(), true);
    }

    pub(super) fn cancel_consumers(&mut self, name: &str) {
        for channel in self.channels.values_mut() {
            if matches!(&channel.subscription, Some((_, queue, _)) if queue == name) {
                channel.subscription = None;
                // The send fails only if the session was dropped, which does not matter here.
                let _ = channel.events.send(Event::Ended);
            }
        }
    }

    /// Forgets a deleted queue for delivered messages too. Their deliveries can still be settled,
    /// but the messages go nowhere.
    pub(super) fn forget_queue(&mut self, name: &str) {
        let channels = self.channels.values_mut();
        let unacked = channels.flat_map(|channel| channel.unacked.values_mut());
        let gone = unacked.filter(|(_, queue, _)| queue == name);
        gone.for_each(|(_, queue, _)| queue.clear());
    }

    /// Settles these tags: their messages are acked, or go back. An unknown tag closes the channel.
    fn settle(
        &mut self,
        number: u64,
        tags: &[u64],
        multiple: bool,
        back: bool,
    ) -> Result<(), BrokerError> {
        let closed = || BrokerError::Lost("channel closed".to_owned());
        let channel = self.channels.get_mut(&number).ok_or_else(closed)?;
        self.record.note_settled(tags, multiple, back);
        match channel.settle(tags, multiple) {
            Ok(settled) if back => {
                let raises_count = self.release != Release::V43;
                self.requeue(settled, raises_count);
            }
            Ok(settled) => {
                let mut queues: Vec<_> = settled.into_iter().map(|(queue, _)| queue).collect();
                queues.dedup();
                queues.iter().for_each(|queue| self.deliver(queue));
            }
            Err(violation) => {
                self.violations.push(violation);
                self.close_channel(number, "PRECONDITION_FAILED - unknown delivery tag (406)");
            }
        }
        Ok(())
    }
}

/// A lane's session with the fake broker.
pub(crate) struct FakeSession {
    broker: FakeBroker,
    number: u64,
    events: mpsc::UnboundedReceiver<Event>,
    usable: Arc<AtomicBool>,
    cancelled: bool,
    ended: bool,
}

impl FakeSession {
    pub(super) fn new(
        broker: FakeBroker,
        number: u64,
        events: mpsc::UnboundedReceiver<Event>,
        usable: Arc<AtomicBool>,
    ) -> Self {
        Self {
            broker,
            number,
            events,
            usable,
            cancelled: false,
            ended: false,
        }
    }

    /// The number of its channel.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn seen(&mut self, event: Event) -> Option<Result<Delivery, BrokerError>> {
        match event {
            Event::Delivery(delivery) => Some(Ok(*delivery)),
            Event::Ended => {
                self.ended = true;
                None
            }
            Event::Lost(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }

    /// Settles these tags as soon as the socket takes the command.
    fn write(
        &self,
        tags: Vec<(Vec<u64>, bool)>,
        back: bool,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        let (broker, number) = (self.broker.clone(), self.number);
        async move {
            broker.until(|it| !it.read().script.stalled).await;
            let mut model = broker.lock();
            for (tags, multiple) in tags {
                model.settle(number, &tags, multiple, back)?;
            }
            Ok(())
        }
    }
}

/// The deadline of each request.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs a request under the deadline that a real session has.
async fn within<T>(
    step: &'static str,
    request: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    let late = |_| BrokerError::TimedOut { step, limit: LIMIT };
    tokio::time::timeout(LIMIT, request).await.map_err(late)?
}

impl Session for FakeSession {
    /// The fake's subscription holds nothing: the broker has already made it.
    type Subscription = ();

    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        if self.ended {
            return None;
        }
        let event = self.events.recv().await?;
        self.seen(event)
    }

    fn try_next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        if self.ended {
            return None;
        }
        // As in lapin, `try_next` does not report the end of the stream; the next `next` does.
        let event = self.events.try_recv().ok()?;
        self.seen(event)
    }

    fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    fn is_subscribed(&self) -> bool {
        !self.ended && !self.cancelled
    }

    fn ack(
        &self,
        acks: Acks,
    ) -> impl Future<Output = (Acks, Result<(), BrokerError>)> + Send + 'static {
        let through = (acks.through.into_iter().collect(), true);
        let write = self.write(vec![through, (acks.singles.clone(), false)], false);
        async move {
            let result = within("writing acks", write).await;
            (acks, result)
        }
    }

    fn give_back(
        &self,
        returns: Returns,
    ) -> impl Future<Output = (Returns, Result<(), BrokerError>)> + Send + 'static {
        let tags = match &returns {
            Returns::Single(tags) => (tags.clone(), false),
            Returns::Through(tags) => (tags.last().copied().into_iter().collect(), true),
        };
        let write = self.write(vec![tags], true);
        async move {
            let result = within("returning messages", write).await;
            (returns, result)
        }
    }

    fn cancel(&mut self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        self.cancelled = true;
        let (broker, number) = (self.broker.clone(), self.number);
        let cancel = async move {
            broker.answer_late().await;
            let mut model = broker.lock();
            let closed = || BrokerError::Lost("channel closed".to_owned());
            let channel = model.channels.get_mut(&number).ok_or_else(closed)?;
            if channel.subscription.take().is_some() {
                let _ = channel.events.send(Event::Ended);
            }
            Ok(())
        };
        within("cancelling the consumer", cancel)
    }

    fn subscribe_again(
        &mut self,
        spec: &QueueSpec,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        let (broker, number, spec) = (self.broker.clone(), self.number, spec.clone());
        let subscribe = async move {
            let abandoned = CloseWhenDropped(Some((broker.clone(), number)));
            broker.answer_late().await;
            abandoned.keep();
            let mut model = broker.lock();
            if let Some(refusal) = model.script.refusals.pop_front() {
                return Err(refusal);
            }
            if spec.topology != Topology::None {
                model.ensure(&spec)?;
            }
            model.subscribe(number, &spec.queue, spec.prefetch)?;
            model.deliver(&spec.queue);
            Ok(())
        };
        within("subscribing", subscribe)
    }

    fn resume(&mut self, (): ()) {
        self.cancelled = false;
        self.ended = false;
    }

    async fn close(self) {
        self.broker.lock().close_channel(self.number, "closed");
    }

    fn kill(&self) {
        self.broker.lock().close_channel(self.number, "killed");
    }

    fn server(&self) -> (&str, u16) {
        ("fake", 5672)
    }

    fn request_limit(&self) -> Duration {
        LIMIT
    }
}

/// Closes the channel of a subscription request that was dropped before its answer. Otherwise the
/// broker would make the subscription all the same.
struct CloseWhenDropped(Option<(FakeBroker, u64)>);

impl CloseWhenDropped {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseWhenDropped {
    fn drop(&mut self) {
        if let Some((broker, number)) = self.0.take() {
            broker
                .lock()
                .close_channel(number, "subscription abandoned");
        }
    }
}

impl Drop for FakeSession {
    /// Closes the channel, as lapin does when a live consumer is dropped. Like lapin, leaves the
    /// channel open while a cancellation has not been answered.
    fn drop(&mut self) {
        if !self.cancelled {
            self.broker.lock().close_channel(self.number, "dropped");
        }
    }
}
