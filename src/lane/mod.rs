//! A lane: the actor that runs one consumer.
//!
//! One task owns the subscription, the table of unsettled deliveries and the ledger, and only this
//! task settles deliveries. Deliveries go to the start queue of the [path](crate::path), and the
//! ends of their paths come back from there. Commands come by `mpsc`, and answers go back by
//! `oneshot`.
//!
//! The loop never waits for the broker: each request (subscribing, cancelling the consumer, writing
//! acks, returning messages) is a future among the other events of [`LaneActor::run`].

mod acks;
mod arrivals;
mod cancelled;
mod commands;
mod copies;
mod drain;
mod keeping;
mod pace;
mod proof;
mod returns;
mod service;
mod silence;
mod sizes;
mod stuck;
mod subscription;
mod unsettled;

use std::{
    future::pending,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

pub use commands::{CallError, CancelError};
pub(crate) use commands::{Command, Depths};

use crate::{
    broker::{Broker, BrokerError, Delivery, Redial, Session},
    clock,
    flight::{Flight, SessionId},
    path::Lane,
    status::{ConsumerHealth, ConsumerReport, ConsumerState, Ledger, Standing},
};
use acks::Acking;
use keeping::Keeping;
use pace::Pace;
use proof::Proof;
use returns::Returning;
use service::Tending;
use silence::Silence;
use sizes::Sizes;
use subscription::Subscription;
use unsettled::Unsettled;

/// The lane's channels to the rest of the worker.
pub(crate) struct LaneChannels {
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) health: watch::Sender<ConsumerHealth>,
    /// Receives the result of each attempt to subscribe, up to the first that succeeds.
    pub(crate) started: mpsc::UnboundedSender<(String, Result<(), BrokerError>)>,
}

/// A request to the broker that the loop waits for among other events.
type Request<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How often a lane looks for changes that no event announces: a stuck handler, or a channel that
/// died while the lane took no deliveries.
const TICK: Duration = Duration::from_millis(250);

/// The actor of one consumer: the state that only its loop may touch.
pub(crate) struct LaneActor<B: Broker> {
    lane: Arc<Lane<B>>,
    broker: B,
    channels: LaneChannels,
    subscription: Subscription<B::Session>,
    unsettled: Unsettled,
    /// Deliveries to be started at the end of this turn.
    starting: Vec<Arc<Flight>>,
    /// Deliveries that are still on their path although their session died. The broker has them
    /// back, but their handlers hold slots.
    orphans: Vec<Arc<Flight>>,
    /// Paths that have not ended, including those of sessions that died and those that wait for a
    /// slot.
    under_way: usize,
    acking: Acking,
    proof: Proof,
    returning: Returning,
    tending: Tending,
    keeping: Keeping,
    sizes: Sizes,
    silence: Silence,
    /// The next message that arrives shows how long the queue's messages wait. True again at each tick.
    samples_wait: bool,
    pace: Pace,
    paused: bool,
    /// Callers that wait until the pause is complete.
    pausing: Vec<oneshot::Sender<()>>,
    draining: bool,
    /// When the drain's grace ended.
    hard_stopped: Option<Instant>,
    /// `ledger.stale` when the drain began.
    stale_before_drain: u64,
    /// The session that the lane had when the drain began.
    drained: Option<SessionId>,
    /// Messages that were handled in the drain although their session had died before.
    handled_for_nothing: u64,
    tick_at: Instant,
    /// Without the acks that are not [proven](proof).
    ledger: Ledger,
    /// The state, its reason and the time of the next probe as they were last published.
    published: (ConsumerState, Option<String>, Option<Instant>),
}

impl<B: Broker> LaneActor<B> {
    pub(crate) fn new(
        lane: Arc<Lane<B>>,
        broker: B,
        channels: LaneChannels,
        backoff: Redial,
    ) -> Self {
        let now = Instant::now();
        let sizes = Sizes::new(lane.settings.prefetch_bytes);
        let paused = lane.watch.figures.begin();
        Self {
            lane,
            broker,
            channels,
            subscription: Subscription::new(backoff, now, paused),
            unsettled: Unsettled::default(),
            starting: Vec::new(),
            orphans: Vec::new(),
            under_way: 0,
            acking: Acking::new(now),
            proof: Proof::default(),
            returning: Returning::default(),
            tending: Tending::default(),
            keeping: Keeping::default(),
            sizes,
            silence: Silence::new(now),
            samples_wait: true,
            pace: Pace::new(now),
            paused,
            pausing: Vec::new(),
            draining: false,
            hard_stopped: None,
            stale_before_drain: 0,
            drained: None,
            handled_for_nothing: 0,
            tick_at: now + TICK,
            ledger: Ledger::default(),
            published: (ConsumerState::Connecting, None, None),
        }
    }

    /// Runs the lane until its drain is over, and gives its report.
    pub(crate) async fn run(mut self) -> ConsumerReport {
        let mut ends = Vec::new();
        // Create these once and not each turn: registering with a token or the timer costs more
        // than handling a small message.
        let mut drain = pin!(self.lane.drain.clone().cancelled_owned());
        let mut hard_stop = pin!(self.lane.hard_stop.clone().cancelled_owned());
        let mut timer = pin!(sleep_until(Instant::now()));
        while !(self.draining && self.is_finished()) {
            // All lanes share one thread. A busy lane never has to wait, so it yields here.
            tokio::task::coop::consume_budget().await;
            let now = Instant::now();
            self.begin_flush(now);
            self.begin_return(now);
            self.prove_acks(now);
            self.tend_service(now);
            if now >= self.tick_at {
                // The timer is the last branch of the `select!`, which a busy lane may never reach.
                self.tick();
            }
            let wanted = self.ends_wanted(now);
            // Call this in every turn: a rest that is over must not wake the loop again.
            let rests = self.is_resting(now);
            let takes = self.takes_deliveries() && !rests;
            self.publish_state();
            self.lane.watch.figures.turned(self.standing());
            self.answer_pauses();
            let wake = self.next_wake();
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                () = &mut drain, if !self.draining => self.begin_drain(),
                () = &mut hard_stop, if self.hard_stopped.is_none() => self.cancel_handlers(),
                Some(command) = self.channels.commands.recv() => self.obey(command),
                () = self.lane.ends.gathered(wanted) => {}
                (acks, result) = answer(self.acking.writing.as_mut()) => self.flushed(&acks, result),
                (returns, result) = answer(self.returning.writing.as_mut()) => {
                    self.returned(&returns, result);
                }
                answer = self.proof.asking.answer() => self.answered(answer),
                found = answer(self.silence.looking.as_mut()) => self.looked(found),
                event = self.subscription.task.answer() => self.subscription_changed(event),
                () = self.broker.up(), if self.subscription.awaits_connection => {
                    self.subscription.connection_is_up();
                }
                delivery = arrival(self.subscription.session.as_mut()), if takes => {
                    self.received(delivery);
                }
                () = &mut timer => self.tick(),
            }
            // Book ends after every event, so that they need not wake the loop again.
            self.send_off();
            self.book_ends(&mut ends);
        }
        self.finish().await
    }

    /// The state of the lane, and the reason if it is not consuming.
    fn state(&self) -> (ConsumerState, Option<&str>) {
        if self.draining {
            (ConsumerState::Draining, None)
        } else if self.paused {
            (ConsumerState::Paused, Some("paused by an operator"))
        } else if let Some(why) = self.returning.held_because() {
            (ConsumerState::Held, Some(why))
        } else if self.keeping.is_full() {
            (ConsumerState::Held, self.keeping.reason())
        } else if let Some((state, why)) = self.service_down() {
            (state, Some(why))
        } else if self.is_fed() {
            let reason = self.keeping.reason().or_else(|| self.silent_because());
            (ConsumerState::Consuming, reason)
        } else {
            (ConsumerState::Connecting, self.subscription.reason())
        }
    }

    /// Publishes the state if it has changed since the last turn.
    pub(super) fn publish_state(&mut self) {
        let (state, reason) = self.state();
        let probe = self.tending.next_probe();
        let probe = probe.filter(|_| state == ConsumerState::ServiceDown);
        let (before, why, probed) = &self.published;
        if state == *before && reason == why.as_deref() && probe == *probed {
            return;
        }
        let reason = reason.map(str::to_owned);
        self.publish(state, reason, probe);
    }

    fn publish(&mut self, state: ConsumerState, reason: Option<String>, probe: Option<Instant>) {
        let is_new = state != self.published.0;
        self.published = (state, reason.clone(), probe);
        let mut health = ConsumerHealth::new(state, reason);
        health.next_probe_at =
            probe.map(|at| clock::now() + at.saturating_duration_since(Instant::now()));
        self.channels.health.send_modify(|before| {
            if !is_new {
                health.since = before.since;
            }
            *before = health;
        });
    }

    /// The figures that only this loop knows.
    fn standing(&self) -> Standing {
        let mut ledger = self.ledger;
        ledger += self.proof.unproven.sum();
        Standing {
            ledger,
            in_flight: self.unsettled.open(),
            buffered: self.lane.starts.waiting(),
            waiting: self.lane.waiting_inline(),
            left: 0,
        }
    }

    /// Whether the loop takes deliveries from the session. While the consumer is being cancelled,
    /// the loop takes those that are still on their way, to return them.
    fn takes_deliveries(&self) -> bool {
        self.subscription.is_stopping()
            || (self.subscription.is_live() && !self.draining && !self.returning.is_held())
    }

    fn wants_subscription(&self) -> bool {
        let takes_new = !self.draining
            && !self.paused
            && !self.awaits_room()
            && (self.tending.subscribes() || self.subscription.session.is_none());
        self.subscription.is_idle() && (takes_new || self.subscription.is_in_doubt)
    }

    /// Whether everything is settled, and the broker has shown it; or the lane has given up on the
    /// rest.
    fn is_finished(&self) -> bool {
        (self.is_settled() && self.is_proven()) || self.has_given_up()
    }

    /// Whether all acks and nacks are written, and nothing brings new ones.
    fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
            && self.acking.writing.is_none()
            && !self.subscription.may_bring_deliveries()
            && self.under_way == 0
    }

    fn next_wake(&self) -> Instant {
        let mut wake = self.tick_at;
        let times = [
            self.pace.next_wake(),
            self.next_flush(),
            self.next_question(),
            self.proof.until,
            self.returning.hold_until,
            self.subscription.stop_by(),
            self.tending.wake_at(),
            self.wants_subscription()
                .then_some(self.subscription.open_at),
        ];
        for time in times.into_iter().flatten() {
            wake = wake.min(time);
        }
        wake
    }

    /// The timer has fired: does what is due.
    fn tick(&mut self) {
        let now = Instant::now();
        if self.returning.hold_until.is_some_and(|until| until <= now) {
            self.end_hold();
        }
        if self.subscription.stop_by().is_some_and(|by| by <= now) {
            self.stream_ended();
        }
        if self.wants_subscription() && now >= self.subscription.open_at {
            self.subscribe();
        }
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            // An operator may have raised the limit of slots.
            self.pace.start_at(now);
            self.lane.watch.figures.outcomes.tick();
            self.samples_wait = true;
            self.settle_stuck_handlers();
            self.replace_lost_probe();
            self.tend_kept();
            self.watch_silence(now);
            self.look_at_tolerance();
            self.copy_what_waits(now);
            self.await_lost_connection();
            if self.subscription.has_dead_channel() {
                self.lose_session(&BrokerError::Lost("channel lost".to_owned()));
            }
        }
    }
}

/// Waits for the session's next delivery, or for its end; forever without a session.
async fn arrival<S: Session>(session: Option<&mut S>) -> Option<Result<Delivery, BrokerError>> {
    match session {
        Some(session) => session.next().await,
        None => pending().await,
    }
}

/// Waits for the answer to a request; forever if none is under way.
async fn answer<F: Future + Unpin>(request: Option<F>) -> F::Output {
    match request {
        Some(request) => request.await,
        None => pending().await,
    }
}
