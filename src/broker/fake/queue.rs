//! A queue of the fake broker, and the order of its messages.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Release,
    arguments::{Arguments, Limits, Policy, Type},
    channel::Consumer,
    death::Reason,
    message::Stored,
    wire::Held,
};

/// A queue: its arguments, its messages and its consumers.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) arguments: Arguments,
    pub(super) limits: Limits,
    pub(super) kind: Type,
    release: Release,
    /// The messages that are ready.
    pub(super) ready: Ready,
    last_position: u64,
    /// The consumers that the queue serves in turn.
    pub(super) serving: VecDeque<Consumer>,
    /// All consumers of a queue with a single active consumer. The first one is active.
    pub(super) entitled: VecDeque<Consumer>,
    /// Messages that the queue keeps until the target of a dead-lettering confirms them.
    pub(super) dying: VecDeque<Dying>,
    /// A quorum queue refuses messages from the moment at which it is too long until it has shrunk
    /// to four fifths.
    pub(super) refusing: bool,
    /// A queue without a leader applies nothing.
    pub(super) leaderless: bool,
    /// Settled deliveries that wait for a leader.
    pub(super) held: Vec<Held>,
    /// Messages that wait for a leader.
    pub(super) late: Vec<Stored>,
    /// When the next check for expired messages is due.
    pub(super) check_at: Option<Instant>,
    /// The number of the declaration, so that a timer does not delete a later queue of the name.
    pub(super) born: u64,
}

/// A message that a quorum queue dead-letters with confirms.
#[derive(Debug)]
pub(super) struct Dying {
    pub(super) message: Stored,
    pub(super) reason: Reason,
    /// When the queue publishes the message again.
    pub(super) again_at: Option<Instant>,
}

impl Queue {
    pub(super) fn new(
        arguments: Arguments,
        policy: Option<&Policy>,
        release: Release,
        born: u64,
    ) -> Self {
        Self {
            limits: Limits::new(&arguments, policy, release),
            kind: arguments.kind(),
            ready: Ready::new(arguments.kind(), release),
            arguments,
            release,
            last_position: 0,
            serving: VecDeque::new(),
            entitled: VecDeque::new(),
            dying: VecDeque::new(),
            refusing: false,
            leaderless: false,
            held: Vec::new(),
            late: Vec::new(),
            check_at: None,
            born,
        }
    }

    /// Adds a message at the end.
    pub(super) fn push(&mut self, mut message: Stored, now: Instant) {
        self.last_position += 1;
        message.position = self.last_position;
        // A quorum queue gives a message a millisecond to find a consumer.
        let shortest = match self.kind {
            Type::Quorum => Duration::from_millis(1),
            Type::Classic => Duration::ZERO,
        };
        if self.kind == Type::Classic {
            // It keeps the count for a later dead-lettering, but shows none.
            message.redelivered = message.delivery_count > 0;
            message.carried = 0;
        }
        let stay = [self.limits.ttl, message.expiration()];
        let stay = stay.into_iter().flatten().min();
        message.expires_at = stay.map(|stay| now + stay.max(shortest));
        let priority = *message.properties.to_amqp().priority();
        let level = self.level(priority);
        self.ready.push(level, message);
    }

    /// The level of a priority; the queue serves lower levels first.
    fn level(&self, priority: Option<u8>) -> u8 {
        match (self.kind, self.release) {
            (Type::Quorum, Release::V3) => 0,
            (Type::Quorum, Release::V40) => u8::from(priority.unwrap_or(0) <= 4),
            (Type::Quorum, Release::V43) => 31 - priority.unwrap_or(4).min(31),
            (Type::Classic, _) => {
                let highest = self.limits.max_priority;
                highest - priority.unwrap_or(0).min(highest)
            }
        }
    }

    /// Puts a message back. A classic queue puts it in its old place. A quorum queue delivers
    /// returned messages first, in the order of their return.
    pub(super) fn put_back(&mut self, message: Stored) {
        match self.kind {
            Type::Quorum => self.ready.returned.push_back(message),
            Type::Classic => {
                let level = self.level(*message.properties.to_amqp().priority());
                self.ready.insert(level, message);
            }
        }
    }

    /// Puts a message of a quorum queue without a delivery limit at the end, as RabbitMQ 3.10 does.
    pub(super) fn put_last(&mut self, mut message: Stored) {
        self.last_position += 1;
        message.position = self.last_position;
        self.ready.push(0, message);
    }

    /// Takes a message that has expired. As in RabbitMQ, a message behind one that stays longer
    /// waits for that one.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Stored> {
        self.ready.pop_expired(now)
    }

    /// When the next message expires.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.ready.heads().filter_map(|head| head.expires_at).min()
    }

    /// The number of messages that count for the maximum length.
    fn length(&self) -> u64 {
        (self.ready.len() + self.dying.len()) as u64
    }

    /// Whether the queue is too long.
    pub(super) fn is_too_long(&self) -> bool {
        self.limits
            .max_length
            .is_some_and(|max| self.length() > max)
    }

    /// Whether one more message would be too many.
    pub(super) fn is_full(&self) -> bool {
        self.limits
            .max_length
            .is_some_and(|max| self.length() >= max)
    }

    /// Whether a queue that refuses messages takes them again.
    pub(super) fn has_shrunk(&self) -> bool {
        let is_below = |max: u64| self.length() <= max * 4 / 5;
        self.limits.max_length.is_none_or(is_below)
    }

    /// Whether a message waits for its expiration, or for its dead-lettering.
    pub(super) fn will_expire(&self) -> bool {
        let mut ready = self.ready.iter();
        !self.dying.is_empty() || ready.any(|message| message.expires_at.is_some())
    }

    /// Every message of the queue, the next one first.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Stored> {
        let dying = self.dying.iter().map(|dying| &dying.message);
        let held = self.held.iter().flat_map(|held| &held.messages);
        self.ready.iter().chain(dying).chain(held).chain(&self.late)
    }

    pub(super) fn into_messages(self) -> impl Iterator<Item = Stored> {
        let dying = self.dying.into_iter().map(|dying| dying.message);
        let held = self.held.into_iter().flat_map(|held| held.messages);
        let waiting = dying.chain(held).chain(self.late);
        self.ready.into_iter().chain(waiting)
    }
}

/// The messages that are ready, in the order in which a queue delivers them.
#[derive(Debug)]
pub(super) struct Ready {
    /// Messages that consumers returned to a quorum queue. They come first.
    returned: VecDeque<Stored>,
    levels: BTreeMap<u8, VecDeque<Stored>>,
    /// Whether the queue lets a message of low priority pass after two of high priority, as quorum
    /// queues of 4.0 do.
    is_fair: bool,
    /// Whether the first message of each priority expires, as in quorum queues of 4.3.
    each_expires: bool,
    /// Where the queue stands between two messages of low priority.
    turn: u8,
    len: usize,
}

impl Ready {
    /// The number of messages of high priority that pass before one of low priority.
    const WEIGHT: u8 = 2;

    fn new(kind: Type, release: Release) -> Self {
        Self {
            returned: VecDeque::new(),
            levels: BTreeMap::new(),
            is_fair: kind == Type::Quorum && release == Release::V40,
            each_expires: kind == Type::Quorum && release == Release::V43,
            turn: 0,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len + self.returned.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push(&mut self, level: u8, message: Stored) {
        self.levels.entry(level).or_default().push_back(message);
        self.len += 1;
    }

    fn insert(&mut self, level: u8, message: Stored) {
        let level = self.levels.entry(level).or_default();
        let place = level.partition_point(|other| other.position < message.position);
        level.insert(place, message);
        self.len += 1;
    }

    /// The level of the next message that was not returned.
    fn next_level(&self) -> Option<u8> {
        let (first, high) = self.levels.first_key_value()?;
        let first = *first;
        let (last, low) = self.levels.last_key_value()?;
        if !self.is_fair || first == *last || self.turn != Self::WEIGHT {
            return Some(first);
        }
        let older = high.front().map(|it| it.position) < low.front().map(|it| it.position);
        Some(if older { first } else { *last })
    }

    pub(super) fn next(&self) -> Option<&Stored> {
        let returned = self.returned.front();
        returned.or_else(|| self.levels.get(&self.next_level()?)?.front())
    }

    pub(super) fn pop(&mut self) -> Option<Stored> {
        if let Some(message) = self.returned.pop_front() {
            return Some(message);
        }
        let next = self.next_level()?;
        let level = self.levels.get_mut(&next)?;
        let message = level.pop_front();
        if level.is_empty() {
            self.levels.remove(&next);
        }
        self.turn = (self.turn + 1) % (Self::WEIGHT + 1);
        self.len -= 1;
        message
    }

    /// The messages that can expire: the next one, and from 4.3 on the next one of each priority.
    fn heads(&self) -> impl Iterator<Item = &Stored> {
        let next = self.next().filter(|_| !self.each_expires);
        let returned = self.returned.front();
        let levels = self.levels.values().filter_map(VecDeque::front);
        let each = returned.into_iter().chain(levels);
        next.into_iter().chain(each.filter(|_| self.each_expires))
    }

    fn pop_expired(&mut self, now: Instant) -> Option<Stored> {
        let expired = |head: &Stored| head.expires_at.is_some_and(|at| at <= now);
        if self.next().is_some_and(expired) {
            return self.pop();
        }
        if !self.each_expires {
            return None;
        }
        let of_level = |level: &VecDeque<Stored>| level.front().is_some_and(expired);
        let mut levels = self.levels.iter();
        let level = *levels.find(|(_, level)| of_level(level))?.0;
        self.len -= 1;
        let messages = self.levels.get_mut(&level)?;
        let message = messages.pop_front();
        if messages.is_empty() {
            self.levels.remove(&level);
        }
        message
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.returned.iter().chain(self.levels.values().flatten())
    }

    fn into_iter(self) -> impl Iterator<Item = Stored> {
        self.returned
            .into_iter()
            .chain(self.levels.into_values().flatten())
    }

    /// Removes all messages.
    pub(super) fn clear(&mut self) -> Vec<Stored> {
        let returned = mem::take(&mut self.returned);
        let levels = mem::take(&mut self.levels);
        self.len = 0;
        returned
            .into_iter()
            .chain(levels.into_values().flatten())
            .collect()
    }
}
