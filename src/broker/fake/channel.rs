//! A consumer's channel at the fake broker: its subscriptions, and what is unsettled on it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::mpsc, time::Instant};

use super::{arguments::Type, message::Stored, wire::Settle};
use crate::broker::{BrokerError, Delivery, Moment};

/// A subscription: the numbers of its channel and of the subscription on that channel.
pub(super) type Consumer = (u64, u64);

/// An event that the broker sends on a channel.
pub(super) enum Event {
    Delivery(Box<Delivery>),
    /// The subscription has ended.
    Ended,
    /// The channel or its connection has closed.
    Lost(BrokerError),
}

/// A delivery that is not settled.
#[derive(Debug)]
pub(super) struct Unacked {
    pub(super) subscription: u64,
    /// Empty after the queue was deleted: the message goes nowhere.
    pub(super) queue: String,
    /// `None` after a consumer timeout: the queue has the message back, and only the tag remains.
    pub(super) message: Option<Stored>,
    pub(super) since: Instant,
}

/// A subscription on a channel.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) queue: String,
    /// The prefetch that was set before it; 0 is no limit.
    prefetch: u16,
    /// The number of its unsettled messages.
    held: usize,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The queue delivers to it.
    Live,
    /// The client or the broker cancelled it. Its deliveries can still be settled.
    Cancelled,
    /// The broker cancelled it after a consumer timeout, with this many deliveries too old. When
    /// they are all settled, the queue delivers to it again, although nobody takes the deliveries.
    TimedOut(usize),
    /// A subscription that came back after a consumer timeout.
    Ghost,
}

/// The broker's view of a channel.
pub(super) struct Channel {
    /// The worker whose connection the channel is on.
    pub(super) worker: u64,
    events: mpsc::UnboundedSender<Event>,
    usable: Arc<AtomicBool>,
    last_tag: u64,
    pub(super) unacked: BTreeMap<u64, Unacked>,
    pub(super) subscriptions: BTreeMap<u64, Subscription>,
    last_subscription: u64,
    /// Acks and nacks that the broker has not applied, each with the time at which it does.
    pub(super) wire: VecDeque<(Instant, Settle)>,
    /// The channel's process stands still: it keeps what the queue sends to it.
    pub(super) stands_still: bool,
}

impl Channel {
    pub(super) fn new(
        worker: u64,
        events: mpsc::UnboundedSender<Event>,
        usable: Arc<AtomicBool>,
    ) -> Self {
        Self {
            worker,
            events,
            usable,
            last_tag: 0,
            unacked: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            last_subscription: 0,
            wire: VecDeque::new(),
            stands_still: false,
        }
    }

    pub(super) fn send(&self, event: Event) {
        // The send fails only if the session was dropped, which does not matter here.
        let _ = self.events.send(event);
    }

    pub(super) fn close(&self, error: BrokerError) {
        self.usable.store(false, Ordering::Release);
        self.send(Event::Lost(error));
    }

    pub(super) fn subscribe(&mut self, queue: &str, prefetch: u16) -> u64 {
        self.last_subscription += 1;
        let subscription = Subscription {
            queue: queue.to_owned(),
            prefetch,
            held: 0,
            state: State::Live,
        };
        self.subscriptions
            .insert(self.last_subscription, subscription);
        self.last_subscription
    }

    /// The live subscription.
    pub(super) fn live(&self) -> Option<u64> {
        let mut all = self.subscriptions.iter();
        let live = all.find(|(_, it)| it.state == State::Live);
        live.map(|(number, _)| *number)
    }

    /// Whether the subscription takes one more message. The prefetch holds for each subscription.
    pub(super) fn has_room(&self, subscription: u64) -> bool {
        self.subscriptions.get(&subscription).is_some_and(|it| {
            let is_served = matches!(it.state, State::Live | State::Ghost);
            is_served && (it.prefetch == 0 || it.held < usize::from(it.prefetch))
        })
    }

    pub(super) fn deliver(&mut self, subscription: u64, queue: &str, message: Stored, kind: Type) {
        self.last_tag += 1;
        let Some(known) = self.subscriptions.get_mut(&subscription) else {
            return;
        };
        known.held += 1;
        let is_taken = known.state == State::Live && !self.stands_still;
        let delivery = is_taken.then(|| delivery(self.last_tag, &message, kind));
        let unacked = Unacked {
            subscription,
            queue: queue.to_owned(),
            message: Some(message),
            since: Instant::now(),
        };
        self.unacked.insert(self.last_tag, unacked);
        if let Some(delivery) = delivery {
            self.send(Event::Delivery(Box::new(delivery)));
        }
    }

    /// Gives a message that was asked for: it belongs to no subscription.
    pub(super) fn give(&mut self, queue: &str, message: Stored, kind: Type) -> Delivery {
        self.last_tag += 1;
        let delivery = delivery(self.last_tag, &message, kind);
        let unacked = Unacked {
            subscription: 0,
            queue: queue.to_owned(),
            message: Some(message),
            since: Instant::now(),
        };
        self.unacked.insert(self.last_tag, unacked);
        delivery
    }

    /// Takes the deliveries that a command settles, oldest first. Fails if its tag is not
    /// unsettled.
    pub(super) fn take(&mut self, tag: u64, multiple: bool) -> Result<Vec<Unacked>, String> {
        if !self.unacked.contains_key(&tag) {
            return Err(format!("unknown delivery tag {tag}"));
        }
        let later = self.unacked.split_off(&(tag + 1));
        let mut taken = std::mem::replace(&mut self.unacked, later);
        if !multiple {
            let own = taken.split_off(&tag);
            self.unacked.append(&mut taken);
            taken = own;
        }
        let taken: Vec<_> = taken.into_values().collect();
        for unacked in &taken {
            self.release(unacked);
        }
        Ok(taken)
    }

    /// Gives a subscription the room of a settled delivery back.
    fn release(&mut self, settled: &Unacked) {
        let Some(subscription) = self.subscriptions.get_mut(&settled.subscription) else {
            return;
        };
        if settled.message.is_some() {
            subscription.held -= 1;
            return;
        }
        if let State::TimedOut(left) = subscription.state {
            subscription.state = match left {
                0 | 1 => State::Ghost,
                more => State::TimedOut(more - 1),
            };
        }
    }

    /// Takes the messages of a subscription that are older than a consumer timeout allows. Their
    /// tags stay.
    pub(super) fn time_out(&mut self, subscription: u64, since: Instant) -> Vec<Stored> {
        let own = |it: &&mut Unacked| it.subscription == subscription && it.since <= since;
        let late: Vec<_> = self
            .unacked
            .values_mut()
            .filter(own)
            .filter_map(|unacked| unacked.message.take())
            .collect();
        if let Some(known) = self.subscriptions.get_mut(&subscription) {
            known.held -= late.len();
            known.state = match known.state {
                State::TimedOut(before) => State::TimedOut(before + late.len()),
                _ => State::TimedOut(late.len()),
            };
        }
        late
    }
}

/// The delivery of a message of a queue of this type.
fn delivery(tag: u64, message: &Stored, kind: Type) -> Delivery {
    Delivery {
        tag,
        received: Moment::now(),
        exchange: String::new(),
        routing_key: message.routing_key.to_string(),
        redelivered: message.redelivered,
        properties: match kind {
            Type::Quorum => message.delivered_properties(),
            Type::Classic => message.properties.clone(),
        },
        body: message.body.clone(),
    }
}
