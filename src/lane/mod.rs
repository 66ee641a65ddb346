//! A lane: one consumer with its limits, policy and handler, as an actor.
//!
//! One task owns the session, the table of unsettled deliveries and the ledger. What arrives goes to
//! [`starts`](super::starts), its end comes back by [`ends`](super::ends); questions and orders come
//! by `mpsc`, answers go by `oneshot`. Nothing else settles.

mod commands;
mod drain;
mod pace;
mod settlement;
mod supervision;
mod unsettled;

use std::{
    future::pending,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

pub use commands::{CallError, CancelError};
pub(crate) use commands::{Command, Depths};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use pace::Pace;

use crate::{
    broker::{Acks, BrokerError, Delivery, Link, Reconnect, Session, Subscription},
    flight::Run,
    path::shared::LaneShared,
    status::{End, LaneHealth, LaneReport, LaneState, Ledger},
    telemetry::Untold,
};
use unsettled::Unsettled;

/// The lane's channels to the rest of the worker.
pub(crate) struct LaneChannels {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) health: watch::Sender<LaneHealth>,
    /// Told how each attempt to subscribe ended, up to the first that succeeded.
    pub(crate) started: mpsc::UnboundedSender<(String, Result<(), BrokerError>)>,
}

type Opening = Pin<Box<dyn Future<Output = Result<Opened, BrokerError>> + Send>>;
type Flushing = Pin<Box<dyn Future<Output = (Acks, Result<(), BrokerError>)> + Send>>;

/// What a lane gets when it subscribes.
enum Opened {
    /// A new session.
    Session(Box<Session>),
    /// A new subscription of the session that it has.
    Subscription(Subscription),
}

/// How often a lane looks at what no event tells: stuck handlers, a channel that died while all
/// handlers were busy.
const LOOK: Duration = Duration::from_millis(250);
/// A finished message behind one that is still open waits this many times the ack delay before it
/// gets an ack of its own.
const PATIENCE: u32 = 5;
/// Acks of single messages that go out together, and the pause after them. A quorum queue takes
/// about 32 commands of a channel at a time (measured).
const SINGLES: usize = 64;
const DRAIN_SINGLES: usize = 16;
const DRAIN_PACE: Duration = Duration::from_millis(5);
/// What a handler that blocks its thread gets beyond its timeout and cancellation grace.
const STUCK_SLACK: Duration = Duration::from_millis(500);
/// How long after the end of the grace, and of its handlers' cancellation, a lane still settles.
const LAST_CHANCE: Duration = Duration::from_millis(1500);

/// See the module.
pub(crate) struct Lane {
    shared: Arc<LaneShared>,
    link: Link,
    channels: LaneChannels,
    session: Option<Session>,
    epoch: u64,
    /// When to subscribe, while there is no subscription.
    open_at: Instant,
    /// There was no connection, and subscribing is for when there is one.
    awaits_link: bool,
    opening: Option<Opening>,
    backoff: Reconnect,
    opened_at: Instant,
    unsettled: Unsettled,
    /// Deliveries to be started at the end of this turn.
    starting: Vec<Arc<Run>>,
    pace: Pace,
    /// Paths under way whose session died. The broker has their deliveries back, but their handlers
    /// hold slots.
    orphans: Vec<Arc<Run>>,
    /// Paths that have not ended, also of sessions that died, and those that wait for a slot.
    under_way: usize,
    flushing: Option<Flushing>,
    flushing_ends: Vec<End>,
    flush_began: Instant,
    /// Traced attempts of which the broker has yet to be told.
    untold: Untold,
    /// Deliveries whose copies could not be published; given back when the hold ends.
    held: Vec<u64>,
    hold_until: Option<Instant>,
    paused: bool,
    draining: bool,
    /// Deliveries that the broker had taken back when the drain began.
    stale_before_drain: u64,
    /// When the grace of the drain ended.
    hard_stopped: Option<Instant>,
    /// When the broker has surely applied the commands that were written singly.
    applied_by: Instant,
    next_flush: Instant,
    look_at: Instant,
    ledger: Ledger,
    has_subscribed: bool,
}

impl Lane {
    pub(crate) fn new(
        shared: Arc<LaneShared>,
        link: Link,
        channels: LaneChannels,
        backoff: Reconnect,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            link,
            channels,
            session: None,
            epoch: 0,
            open_at: now,
            awaits_link: false,
            opening: None,
            backoff,
            opened_at: now,
            unsettled: Unsettled::default(),
            starting: Vec::new(),
            pace: Pace::new(now),
            orphans: Vec::new(),
            under_way: 0,
            flushing: None,
            flushing_ends: Vec::new(),
            flush_began: now,
            untold: Untold::default(),
            held: Vec::new(),
            hold_until: None,
            paused: false,
            draining: false,
            stale_before_drain: 0,
            hard_stopped: None,
            applied_by: now,
            next_flush: now,
            look_at: now + LOOK,
            ledger: Ledger::default(),
            has_subscribed: false,
        }
    }

    /// Runs the lane until its drain is over, and gives its account.
    pub(crate) async fn run(mut self) -> LaneReport {
        let mut ends = Vec::new();
        // Made once and not each turn: registering with a token or the timer costs more than a
        // small message does.
        let mut drain = pin!(self.shared.drain.clone().cancelled_owned());
        let mut hard_stop = pin!(self.shared.hard_stop.clone().cancelled_owned());
        let mut timer = pin!(sleep_until(Instant::now()));
        while !(self.draining && self.is_finished()) {
            // With much to do it never waits, and would let no other lane have the thread.
            tokio::task::coop::consume_budget().await;
            self.shared.vitals.beat();
            let now = Instant::now();
            self.begin_flush(now);
            let wanted = self.ends_wanted(now);
            let takes = self.takes_deliveries() && !self.is_resting(now);
            self.publish_stats();
            let wake = self.next_wake();
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                () = &mut drain, if !self.draining => self.begin_drain().await,
                () = &mut hard_stop, if self.hard_stopped.is_none() => self.cancel_handlers(),
                Some(command) = self.channels.commands.recv() => self.obey(command).await,
                () = self.shared.ends.gathered(wanted) => {}
                (acks, result) = settled(self.flushing.as_mut()) => self.flushed(&acks, result),
                opened = settled(self.opening.as_mut()) => self.opened(opened).await,
                () = self.link.up(), if self.awaits_link => self.link_is_up(),
                delivery = arrival(self.session.as_mut()), if takes => {
                    self.received(delivery);
                }
                () = &mut timer => self.look().await,
            }
            // Whatever woke it: what has come meanwhile need not wake it again.
            self.send_off();
            self.book_ends(&mut ends);
        }
        self.finish().await
    }

    fn takes_deliveries(&self) -> bool {
        let subscribed = self
            .session
            .as_ref()
            .is_some_and(|session| !session.has_ended());
        subscribed && !self.draining && self.hold_until.is_none()
    }

    fn wants_session(&self) -> bool {
        let subscribed = self
            .session
            .as_ref()
            .is_some_and(|session| !session.has_ended());
        !subscribed && self.opening.is_none() && !self.draining && !self.paused
    }

    /// Whether nothing is left to do, or what is left will never be done.
    fn is_finished(&self) -> bool {
        let settled = self.unsettled.is_empty() && self.flushing.is_none() && self.held.is_empty();
        let given_up = self
            .hard_stopped
            .is_some_and(|at| at.elapsed() > self.shared.limits.cancel_grace + LAST_CHANCE);
        (settled && self.under_way == 0) || given_up
    }

    fn next_wake(&self) -> Instant {
        let mut wake = self.look_at;
        wake = wake.min(self.pace.next_wake().unwrap_or(wake));
        if self.flushing.is_none()
            && let Some(since) = self.unsettled.oldest_finished()
        {
            wake = wake.min(self.next_flush.max(since + self.shared.settings.ack.delay));
        }
        if self.wants_session() {
            wake = wake.min(self.open_at);
        }
        if !self.held.is_empty() && self.hold_until.is_none() {
            wake = Instant::now();
        }
        wake.min(self.hold_until.unwrap_or(wake))
    }

    async fn look(&mut self) {
        let now = Instant::now();
        if !self.held.is_empty() && self.hold_until.is_none_or(|until| until <= now) {
            let held = std::mem::take(&mut self.held);
            self.give_back(held).await;
        }
        if self.hold_until.is_some_and(|until| until <= now) {
            self.end_hold();
            if self.takes_deliveries() {
                self.tell(LaneState::Consuming, None);
            }
        }
        if self.wants_session() && now >= self.open_at {
            self.open();
        }
        if now >= self.look_at {
            self.look_at = now + LOOK;
            // There may be more slots than before.
            self.pace.start_at(now);
            self.look_for_stuck_handlers();
            if self
                .session
                .as_ref()
                .is_some_and(|session| !session.is_usable())
            {
                self.lose_session(&BrokerError::Lost("channel lost".to_owned()));
            }
        }
    }

    /// Deliveries on their path that do not wait for a slot.
    fn started(&self) -> usize {
        self.under_way - self.shared.starts.waiting()
    }

    /// What this turn of the loop has changed, for whoever measures.
    fn publish_stats(&self) {
        let stats = &self.shared.stats;
        stats.book(&self.ledger);
        stats.in_flight.set(self.started() as u64);
        stats.buffered.set(self.shared.starts.waiting() as u64);
        stats.waiting.set(self.shared.waiting_inline() as u64);
    }

    fn tell(&self, state: LaneState, reason: Option<String>) {
        self.channels
            .health
            .send_replace(LaneHealth::new(state, reason));
    }
}

/// Numbers sessions, over all lanes; 0 is none.
fn next_epoch() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static EPOCH: AtomicU64 = AtomicU64::new(1);
    EPOCH.fetch_add(1, Ordering::Relaxed)
}

/// The session's next delivery, or its end.
async fn arrival(session: Option<&mut Session>) -> Option<Result<Delivery, BrokerError>> {
    match session {
        Some(session) => session.next().await,
        None => pending().await,
    }
}

/// The future's end, or never where there is none.
async fn settled<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
