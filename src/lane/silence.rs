//! Silence: a consumer that gets no messages although its queue has some. The process of its channel may
//! stand still, or the queue may have forgotten the consumer. Nothing tells the worker of that, so the lane
//! counts the messages of a queue that has been silent, and takes a new channel.

use std::time::Duration;

use humantime::format_duration;
use tokio::time::Instant;
use tracing::debug;

use super::{LaneActor, Request, commands::Depths};
use crate::{
    broker::{Broker, BrokerError, QueueArgument},
    config::HOUR,
};

/// The time between two looks at a queue that has messages: those of the first look may be on their way.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest silence before a look. A new channel may help nothing, for instance if another consumer is
/// the single active one. So the lane waits twice as long after each channel that brought no message.
const LONGEST: Duration = Duration::from_millis(HOUR);

/// What a lane knows about the silence of its consumer.
pub(super) struct Silence {
    /// Since when the consumer could have got a message, and got none.
    since: Instant,
    /// The number of deliveries at that time.
    received: u64,
    /// How long the silence lasts before the lane looks at the queue. `None`: `idle_check`.
    patience: Option<Duration>,
    /// The last look has found messages.
    pub(super) is_suspect: bool,
    pub(super) looking: Option<Request<Result<Depths, BrokerError>>>,
    /// Why the lane has taken a new channel, until a message comes.
    reason: Option<String>,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            received: 0,
            patience: None,
            is_suspect: false,
            looking: None,
            reason: None,
        }
    }

    /// The silence begins now.
    fn begin(&mut self, now: Instant) {
        self.since = now;
        self.is_suspect = false;
        self.looking = None;
    }
}

impl<B: Broker> LaneActor<B> {
    /// Why the lane has taken a new channel, if no message has come since.
    pub(super) fn silent_because(&self) -> Option<&str> {
        let is_silent = self.silence.received == self.ledger.received;
        self.silence.reason.as_deref().filter(|_| is_silent)
    }

    /// Looks at the queue once its consumer has been silent for too long.
    pub(super) fn watch_silence(&mut self, now: Instant) {
        let received = self.ledger.received;
        if self.silence.received != received {
            self.silence = Silence {
                received,
                ..Silence::new(now)
            };
            return;
        }
        if !self.listens() {
            return self.silence.begin(now);
        }
        let silence = &mut self.silence;
        let patience = silence.patience.unwrap_or(self.lane.settings.idle_check);
        let again = match silence.is_suspect {
            true => AGAIN,
            false => Duration::ZERO,
        };
        if silence.looking.is_none() && now >= silence.since + patience + again {
            let (broker, queue) = (self.broker.clone(), self.lane.settings.queue.clone());
            silence.looking = Some(Box::pin(async move { broker.depths(vec![queue]).await }));
        }
    }

    /// Whether the broker should deliver a message as soon as the queue has one.
    fn listens(&self) -> bool {
        self.subscription.is_live()
            && !self.draining
            && !self.returning.is_held()
            && (self.tending.takes_all() || self.tending.awaits_probe())
            && self.unsettled.unsettled_from(self.keeping.since())
                < usize::from(self.proof.prefetch)
            && !self.is_one_of_many()
    }

    /// Whether the queue has a single active consumer, which may be another one.
    fn is_one_of_many(&self) -> bool {
        let arguments = &self.lane.settings.arguments;
        arguments.get("x-single-active-consumer") == Some(&QueueArgument::Bool(true))
    }

    /// The lane has counted the messages of its silent queue.
    pub(super) fn looked(&mut self, found: Result<Depths, BrokerError>) {
        self.silence.looking = None;
        if !self.listens() {
            return self.silence.begin(Instant::now());
        }
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                debug!(consumer = %self.lane.name, %error, "failed to look for messages in a silent queue");
                if error.needs_people() {
                    self.silence.patience = Some(LONGEST);
                }
                return self.silence.begin(Instant::now());
            }
        };
        let ready = found.first().and_then(|(_, ready)| *ready).unwrap_or(0);
        if ready == 0 {
            self.silence.reason = None;
            return self.silence.begin(Instant::now());
        }
        if !std::mem::replace(&mut self.silence.is_suspect, true) {
            return;
        }
        let idle = Duration::from_secs(self.silence.since.elapsed().as_secs());
        let why = format!(
            "no message has come for {} although the queue has {ready}",
            format_duration(idle)
        );
        let patience = self.silence.patience;
        let patience = patience.unwrap_or(self.lane.settings.idle_check);
        self.silence.patience = Some((patience * 2).min(LONGEST));
        self.silence.reason = Some(why.clone());
        self.lose_session(&BrokerError::Lost(why));
    }
}
