//! A lane: one consumer with its limits, policy and handler, as an actor.
//!
//! One task owns the session, the table of unsettled deliveries and the ledger. Deliveries start
//! their path as tasks of their own; their ends come back by `mpsc`, questions and orders too,
//! answers by `oneshot`. Nothing else settles.

use std::{collections::BTreeMap, future::pending, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{
    health::{LaneHealth, LaneState},
    ledger::{End, Ledger},
    path,
    shared::{Ended, LaneShared},
    unsettled::Unsettled,
};
use crate::{
    backoff::Reconnect,
    broker::{Acks, BrokerError, Delivery, Link, Session},
    decode::decode,
    handler::{CancelReason, Outcome},
    run::{Permit, Run},
    telemetry::Counts,
};

/// What can be asked of a lane.
pub(super) enum Command {
    /// Its account.
    Report(oneshot::Sender<LaneReport>),
    /// Take nothing new, give back what has not started.
    Pause(oneshot::Sender<()>),
    /// Consume again.
    Resume(oneshot::Sender<()>),
}

/// What a lane knows about itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LaneReport {
    /// Its account.
    pub ledger: Ledger,
    /// What it counted.
    pub counts: Counts,
    /// Deliveries on their path now; after a drain, those that were left unsettled.
    pub in_flight: usize,
}

/// The lane's channels to the rest of the worker.
pub(super) struct LaneChannels {
    pub(super) ended: mpsc::UnboundedReceiver<Ended>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) health: watch::Sender<LaneHealth>,
    /// Told once how the first attempt to subscribe ended.
    pub(super) started: mpsc::UnboundedSender<(String, Result<(), BrokerError>)>,
}

type Opening = Pin<Box<dyn Future<Output = Result<(Session, u64), BrokerError>> + Send>>;
type Flushing = Pin<Box<dyn Future<Output = (Acks, Result<(), BrokerError>)> + Send>>;

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
pub(super) struct Lane {
    shared: Arc<LaneShared>,
    link: Link,
    /// Where handlers run.
    handlers: Handle,
    channels: LaneChannels,
    session: Option<Session>,
    epoch: u64,
    /// When to subscribe, while there is no session.
    open_at: Instant,
    opening: Option<Opening>,
    backoff: Reconnect,
    opened_at: Instant,
    unsettled: Unsettled,
    /// Paths under way, also of sessions that died.
    under_way: usize,
    flushing: Option<Flushing>,
    flushing_ends: Vec<End>,
    /// Deliveries whose copies could not be published; given back when the hold ends.
    held: Vec<u64>,
    hold_until: Option<Instant>,
    paused: bool,
    draining: bool,
    /// When the grace of the drain ended.
    hard_stopped: Option<Instant>,
    /// Commands that were written singly, and when the last was: what the broker may not have
    /// applied yet.
    singles: usize,
    next_flush: Instant,
    look_at: Instant,
    ledger: Ledger,
    reported_start: bool,
}

impl Lane {
    pub(super) fn new(
        shared: Arc<LaneShared>,
        link: Link,
        handlers: Handle,
        channels: LaneChannels,
        backoff: Reconnect,
    ) -> Self {
        let now = Instant::now();
        Self {
            shared,
            link,
            handlers,
            channels,
            session: None,
            epoch: 0,
            open_at: now,
            opening: None,
            backoff,
            opened_at: now,
            unsettled: Unsettled::default(),
            under_way: 0,
            flushing: None,
            flushing_ends: Vec::new(),
            held: Vec::new(),
            hold_until: None,
            paused: false,
            draining: false,
            hard_stopped: None,
            singles: 0,
            next_flush: now,
            look_at: now + LOOK,
            ledger: Ledger::default(),
            reported_start: false,
        }
    }

    /// Runs the lane until its drain is over, and gives its account.
    pub(super) async fn run(mut self) -> LaneReport {
        let mut ends = Vec::with_capacity(256);
        while !(self.draining && self.is_finished()) {
            self.begin_flush();
            let wake = self.next_wake();
            let takes = self.takes_deliveries();
            tokio::select! {
                biased;
                () = cancelled_once(&self.shared.drain, self.draining) => self.begin_drain().await,
                () = cancelled_once(&self.shared.hard_stop, self.hard_stopped.is_some()) => {
                    self.cancel_handlers();
                }
                Some(command) = self.channels.commands.recv() => self.obey(command).await,
                count = self.channels.ended.recv_many(&mut ends, 256) => {
                    debug_assert!(count > 0, "the lane holds a sender itself");
                    for ended in ends.drain(..) {
                        self.book(&ended);
                    }
                }
                (acks, result) = settled(self.flushing.as_mut()) => self.flushed(&acks, result),
                opened = settled(self.opening.as_mut()) => self.opened(opened),
                (permit, delivery) = next_delivery(&self.shared, self.session.as_mut()), if takes => {
                    self.received(permit, delivery);
                }
                () = sleep_until(wake) => self.look().await,
            }
        }
        self.finish().await
    }

    fn takes_deliveries(&self) -> bool {
        self.session.is_some() && !self.draining && !self.paused && self.hold_until.is_none()
    }

    fn wants_session(&self) -> bool {
        self.session.is_none() && self.opening.is_none() && !self.draining && !self.paused
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

    // Taking deliveries.

    /// One delivery, and whatever else has arrived and finds a handler slot.
    fn received(&mut self, permit: Permit, delivery: Option<Result<Delivery, BrokerError>>) {
        let mut next = Some((permit, delivery));
        while let Some((permit, delivery)) = next.take() {
            match delivery {
                Some(Ok(delivery)) => self.start(permit, delivery),
                Some(Err(error)) => return self.lose_session(Some(error)),
                // The broker has cancelled the consumer, for instance because the queue was
                // deleted. Nothing says so but the end of the stream.
                None => return self.lose_session(None),
            }
            let Some(session) = self.session.as_mut() else {
                return;
            };
            let Ok(taken) = self.shared.handlers.try_acquire() else {
                return;
            };
            // A delivery that is not here yet gives the slot back.
            if let Some(delivery) = session.try_next() {
                taken.forget();
                let permit = Permit::taken(Arc::clone(&self.shared.handlers));
                next = Some((permit, Some(delivery)));
            }
        }
    }

    /// Starts the path of a delivery.
    fn start(&mut self, permit: Permit, delivery: Delivery) {
        // lapin hands over what it had buffered when the channel died; the broker has it back.
        let usable = self.session.as_ref().is_some_and(Session::is_usable);
        self.ledger.received += 1;
        if !usable {
            self.ledger.unsettled(End::Stale);
            return;
        }
        let tag = delivery.tag;
        let shared = &self.shared;
        let message = decode(delivery, &shared.queue, shared.settings.decode);
        let run = Arc::new(Run::new(
            Arc::clone(&shared.name),
            message,
            Arc::clone(&shared.by_handlers),
            (self.epoch, tag),
            permit,
        ));
        if !self.unsettled.push(tag, Arc::clone(&run)) {
            error!(lane = %shared.name, tag, "delivery tag out of order, replacing the session");
            self.ledger.unsettled(End::Stale);
            return self.lose_session(None);
        }
        self.under_way += 1;
        self.handlers.spawn(path::carry(Arc::clone(shared), run));
    }

    // Settling.

    /// Books the end of a path.
    fn book(&mut self, ended: &Ended) {
        self.under_way -= 1;
        let (tag, end) = (ended.run.tag, ended.end);
        if ended.run.epoch != self.epoch {
            // Its session died, and it was booked then.
            self.shared.counters.stale_settles.add_one();
            if !matches!(end, End::Return | End::Hold | End::Stale) {
                self.ledger.duplicates += 1;
            }
            return;
        }
        match end {
            End::Hold => self.hold(tag),
            End::Return => self.held.push(tag),
            End::Stale => debug!(lane = %self.shared.name, tag, "session is gone"),
            _ => {
                let open = self.unsettled.finish(tag, end, Instant::now());
                debug_assert!(open, "a path reports once");
            }
        }
    }

    /// Writes acks, where enough have gathered or waited long enough, and none are being written.
    fn begin_flush(&mut self) {
        let Some(session) = &self.session else { return };
        let Some(since) = self.unsettled.oldest_finished() else {
            return;
        };
        let now = Instant::now();
        if self.flushing.is_some() || (self.draining && now < self.next_flush) {
            return;
        }
        let settings = &self.shared.settings;
        // A small prefetch must not fill with finished messages that wait for company.
        let batch = usize::from(settings.ack.batch.min(settings.prefetch / 4).max(1));
        let idle = self.unsettled.open() == 0;
        let due = now.duration_since(since) >= settings.ack.delay;
        if !idle && !due && self.unsettled.finished() < batch {
            return;
        }
        let (patience, singles) = match self.draining {
            true => (settings.ack.delay, DRAIN_SINGLES),
            false if self.unsettled.finished() >= batch => (Duration::ZERO, SINGLES),
            false => (settings.ack.delay * PATIENCE, SINGLES),
        };
        let flush = self.unsettled.flush(now, patience, singles);
        self.next_flush = now + settings.ack.delay;
        if flush.acks.is_empty() {
            return;
        }
        if self.draining {
            self.next_flush = now + DRAIN_PACE;
        }
        self.singles += flush.acks.singles.len();
        self.flushing_ends = flush.ends;
        self.flushing = Some(Box::pin(session.ack(flush.acks)));
    }

    /// Books what was written, or what could not be.
    fn flushed(&mut self, acks: &Acks, result: Result<(), BrokerError>) {
        self.flushing = None;
        let ends = std::mem::take(&mut self.flushing_ends);
        match result {
            Ok(()) => ends.into_iter().for_each(|end| self.ledger.settled(end)),
            Err(error) => {
                warn!(lane = %self.shared.name, %error, through = acks.through, singles = acks.singles.len(), "acks not written, the broker redelivers");
                ends.into_iter().for_each(|end| self.ledger.unsettled(end));
                if let (BrokerError::TimedOut { .. }, Some(session)) = (&error, &self.session) {
                    session.kill();
                }
                self.lose_session(Some(error));
            }
        }
    }

    /// A delivery's copy cannot be published: nothing new is taken for a while, and it goes back.
    fn hold(&mut self, tag: u64) {
        self.held.push(tag);
        if self.hold_until.is_none() {
            self.hold_until = Some(Instant::now() + self.shared.publish.hold);
            let reason = "retries and dead letters are not confirmed by the broker";
            self.tell(LaneState::Held, Some(reason.to_owned()));
        }
    }

    /// Gives deliveries back to the queue.
    async fn give_back(&mut self, tags: Vec<u64>) {
        let tags: Vec<_> = tags
            .into_iter()
            .filter(|tag| self.unsettled.settle(*tag))
            .collect();
        let Some(session) = &self.session else { return };
        if tags.is_empty() {
            return;
        }
        self.singles += tags.len();
        let result = session.give_back(&tags).await;
        self.gave_back(tags.len(), result);
    }

    fn gave_back(&mut self, count: usize, result: Result<(), BrokerError>) {
        match result {
            Ok(()) => self.ledger.returned += count as u64,
            Err(error) => {
                // Not told, but the broker takes them back with the channel.
                self.ledger.stale += count as u64;
                self.lose_session(Some(error));
            }
        }
    }

    /// Stops the subscription and gives back what has arrived but not started: at once, so that
    /// other workers can run it.
    async fn stop_consuming(&mut self) {
        let Some(session) = self.session.as_mut() else {
            return;
        };
        if let Err(error) = session.cancel().await {
            return self.lose_session(Some(error));
        }
        // Cancel-ok comes after the last delivery, and lapin ends the stream there.
        let mut arrived = Vec::new();
        let limit = Instant::now() + session.request_limit();
        while let Ok(Some(Ok(delivery))) = tokio::time::timeout_at(limit, session.next()).await {
            arrived.push(delivery.tag);
        }
        self.ledger.received += arrived.len() as u64;
        let Some(last) = arrived.last().copied() else {
            return;
        };
        if self.unsettled.is_empty() && self.flushing.is_none() {
            // One command for all: see `finish`.
            let result = session.give_back_through(last).await;
            self.unsettled.skip_to(last);
            return self.gave_back(arrived.len(), result);
        }
        self.unsettled.skip_to(last);
        self.singles += arrived.len();
        let result = session.give_back(&arrived).await;
        self.gave_back(arrived.len(), result);
    }

    // The session.

    fn opened(&mut self, opened: Result<(Session, u64), BrokerError>) {
        self.opening = None;
        if !self.reported_start {
            self.reported_start = true;
            let result = opened.as_ref().map(drop).map_err(Clone::clone);
            // Nobody listens once the worker has started.
            let _ = self.channels.started.send((self.shared.name.to_string(), result));
        }
        match opened {
            Ok((session, epoch)) => {
                info!(lane = %self.shared.name, queue = %self.shared.queue, "consuming");
                self.shared.counters.sessions.add_one();
                self.opened_at = Instant::now();
                self.epoch = epoch;
                self.shared.set_epoch(epoch);
                self.session = Some(session);
                self.unsettled = Unsettled::default();
                self.tell(LaneState::Consuming, None);
            }
            Err(error) => self.reopen_later(&error.to_string(), error.needs_people()),
        }
    }

    fn reopen_later(&mut self, reason: &str, loud: bool) {
        let wait = self.backoff.next();
        self.open_at = Instant::now() + wait;
        if loud {
            error!(lane = %self.shared.name, reason, retry_in = ?wait, "not consuming");
        } else {
            warn!(lane = %self.shared.name, reason, retry_in = ?wait, "not consuming");
        }
        if !self.draining && !self.paused {
            self.tell(LaneState::Connecting, Some(reason.to_owned()));
        }
    }

    /// The session has ended without our wish: whatever it had delivered, the broker has back.
    fn lose_session(&mut self, error: Option<BrokerError>) {
        let Some(session) = self.session.take() else {
            return;
        };
        self.epoch = 0;
        self.shared.set_epoch(0);
        let (ends, open) = self.unsettled.abandon();
        ends.into_iter().for_each(|end| self.ledger.unsettled(end));
        self.ledger.stale += open as u64;
        // Acks that were being written and whose fate is not known count as lost.
        self.flushing = None;
        std::mem::take(&mut self.flushing_ends)
            .into_iter()
            .for_each(|end| self.ledger.unsettled(end));
        self.held.clear();
        self.hold_until = None;
        const STABLE: Duration = Duration::from_secs(30);
        if self.opened_at.elapsed() > STABLE {
            self.backoff.reset();
        }
        let reason = match error {
            Some(error) => error.to_string(),
            None => "the broker cancelled the consumer".to_owned(),
        };
        self.reopen_later(&reason, false);
        // The broker cancelled only the consumer: the channel, and what is unsettled on it, has
        // to be closed by us, or it would stay there.
        if session.is_usable() {
            tokio::spawn(session.close());
        }
    }

    fn open(&mut self) {
        let (shared, mut link) = (Arc::clone(&self.shared), self.link.clone());
        self.opening = Some(Box::pin(async move {
            let connection = match link.connected().await {
                Some(connected) => connected?,
                None => pending().await,
            };
            let timeouts = Arc::clone(&shared.timeouts);
            let session = Session::open(connection, &shared.settings, timeouts, &shared.worker);
            Ok((session.await?, next_epoch()))
        }));
    }

    // Looking after things.

    async fn look(&mut self) {
        let now = Instant::now();
        if !self.held.is_empty() && self.hold_until.is_none_or(|until| until <= now) {
            let held = std::mem::take(&mut self.held);
            self.give_back(held).await;
        }
        if self.hold_until.is_some_and(|until| until <= now) {
            self.hold_until = None;
            if self.session.is_some() && !self.draining && !self.paused {
                self.tell(LaneState::Consuming, None);
            }
        }
        if self.wants_session() && now >= self.open_at {
            self.open();
        }
        if now >= self.look_at {
            self.look_at = now + LOOK;
            self.look_for_stuck_handlers();
            if self.session.as_ref().is_some_and(|session| !session.is_usable()) {
                self.lose_session(Some(BrokerError::Lost("channel lost".to_owned())));
            }
            self.singles = 0;
        }
    }

    /// A handler that blocks its thread sees no timeout: the lane settles its delivery, and gives
    /// its slot to others.
    fn look_for_stuck_handlers(&mut self) {
        let limits = self.shared.limits;
        let most = limits.timeout + limits.cancel_grace + STUCK_SLACK;
        let after_stop = self
            .hard_stopped
            .is_some_and(|at| at.elapsed() > limits.cancel_grace + STUCK_SLACK);
        let stuck = |run: &&Arc<Run>| {
            run.handling_for()
                .is_some_and(|time| time > most || after_stop)
                && run.claim()
        };
        let stuck: Vec<_> = self.unsettled.runs().filter(stuck).map(Arc::clone).collect();
        for run in stuck {
            error!(lane = %self.shared.name, id = run.message.id(), "handler blocks its thread: its message is settled without it");
            self.shared.counters.handler_stuck.add_one();
            run.permit().release();
            let outcome = match after_stop {
                true => Outcome::Interrupted,
                false => Outcome::TimedOut {
                    after: limits.timeout,
                },
            };
            tokio::spawn(path::settle_stuck(Arc::clone(&self.shared), run, outcome));
        }
    }

    async fn obey(&mut self, command: Command) {
        // An asker that has gone away does not matter.
        match command {
            Command::Report(answer) => {
                let _ = answer.send(self.report());
            }
            Command::Pause(answer) => {
                self.paused = true;
                self.stop_consuming().await;
                self.tell(LaneState::Paused, Some("paused by an operator".to_owned()));
                let _ = answer.send(());
            }
            Command::Resume(answer) => {
                self.resume().await;
                let _ = answer.send(());
            }
        }
    }

    async fn resume(&mut self) {
        if !std::mem::take(&mut self.paused) || self.draining {
            return;
        }
        let Some(session) = self.session.as_mut() else {
            return self.tell(LaneState::Connecting, None);
        };
        match session.consume_again().await {
            Ok(()) => self.tell(LaneState::Consuming, None),
            Err(error) => self.lose_session(Some(error)),
        }
    }

    // Graceful shutdown.

    async fn begin_drain(&mut self) {
        self.draining = true;
        self.opening = None;
        self.hold_until = None;
        self.tell(LaneState::Draining, None);
        self.stop_consuming().await;
        info!(lane = %self.shared.name, running = self.under_way, "draining");
    }

    /// The grace has ended: handlers are told to end, and their messages go back.
    fn cancel_handlers(&mut self) {
        self.hard_stopped = Some(Instant::now());
        for run in self.unsettled.runs() {
            run.cancel.request(CancelReason::Drain);
        }
    }

    /// Ends the session in order. Everything has been written; what remains is to give the broker
    /// time to apply it. A quorum queue takes about 32 commands of a channel at a time and keeps
    /// the rest in the channel's process, and closing the channel throws those away: finished
    /// messages would run again (measured on 3.10, 4.0 and 4.3 alike).
    async fn finish(mut self) -> LaneReport {
        if let Some(session) = self.session.take() {
            let singles = u32::try_from(self.singles).unwrap_or(u32::MAX);
            let wait = Duration::from_millis(50) + Duration::from_millis(2).saturating_mul(singles);
            tokio::time::sleep(wait.min(self.shared.drain_settle)).await;
            session.close().await;
        }
        self.shared.set_epoch(0);
        self.tell(LaneState::Stopped, None);
        self.report()
    }

    fn report(&self) -> LaneReport {
        LaneReport {
            ledger: self.ledger,
            counts: self.shared.counters.counts(),
            in_flight: self.under_way,
        }
    }

    fn tell(&self, state: LaneState, reason: Option<String>) {
        self.channels.health.send_replace(LaneHealth::new(state, reason));
    }
}

/// The reports of a worker's lanes, by name.
pub type LaneReports = BTreeMap<String, LaneReport>;

/// Numbers sessions, over all lanes; 0 is none.
fn next_epoch() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static EPOCH: AtomicU64 = AtomicU64::new(1);
    EPOCH.fetch_add(1, Ordering::Relaxed)
}

/// A handler slot, then a delivery for it.
async fn next_delivery(
    shared: &LaneShared,
    session: Option<&mut Session>,
) -> (Permit, Option<Result<Delivery, BrokerError>>) {
    let (Some(session), Ok(taken)) = (session, shared.handlers.acquire().await) else {
        return pending().await;
    };
    let delivery = session.next().await;
    taken.forget();
    (Permit::taken(Arc::clone(&shared.handlers)), delivery)
}

/// The future's end, or never where there is none.
async fn settled<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// The token's cancellation, once.
async fn cancelled_once(token: &tokio_util::sync::CancellationToken, seen: bool) {
    match seen {
        true => pending().await,
        false => token.cancelled().await,
    }
}
