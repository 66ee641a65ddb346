//! A lane's subscription: how the lane subscribes, cancels its consumer, and replaces a lost
//! session.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{LaneActor, Request};
use crate::{
    broker::{Broker, BrokerError, Redial, Session, Tolerance, Topology},
    flight::SessionId,
    path,
};

/// The lane's session, and the request to subscribe or to cancel the consumer that is under way.
pub(super) struct Subscription<S: Session> {
    pub(super) session: Option<S>,
    /// The number of `session`.
    pub(super) session_id: Option<SessionId>,
    pub(super) task: Task<S>,
    /// When to subscribe, while there is no subscription.
    pub(super) open_at: Instant,
    /// The connection was down at the last failure: subscribe as soon as it is up.
    pub(super) awaits_connection: bool,
    backoff: Redial,
    opened_at: Instant,
    /// Why there is no subscription.
    pub(super) reason: Option<String>,
    /// The first attempt is over: the worker no longer waits for it, nor ends if it is refused. A consumer
    /// that begins paused has none.
    has_subscribed: bool,
    /// The broker has cancelled the consumer of the session while deliveries were unsettled. Until the
    /// lane knows why, it settles nothing on this session.
    pub(super) is_in_doubt: bool,
    /// How many failed deliveries the queue tolerates. The log has told it.
    pub(super) tolerance: Option<Tolerance>,
}

/// The request that is under way.
pub(super) enum Task<S: Session> {
    None,
    Opening(Request<Result<Opened<S>, BrokerError>>),
    /// The consumer is being cancelled. After the broker's cancel-ok the stream of deliveries ends;
    /// the lane waits for that end until `by`.
    Stopping {
        cancel: Option<Request<Result<(), BrokerError>>>,
        by: Instant,
    },
}

/// The result of a request to subscribe.
pub(super) enum Opened<S: Session> {
    /// A new session.
    Session(Box<S>),
    /// A new subscription of the session that the lane has.
    Subscription(S::Subscription),
    /// None: the session that the lane has must be replaced.
    Outlived,
    /// None yet: the consumer was cancelled because its queue was deleted.
    QueueDeleted,
}

/// The answer to the request under way.
pub(super) enum Event<S: Session> {
    Opened(Result<Opened<S>, BrokerError>),
    Cancelled(Result<(), BrokerError>),
}

impl<S: Session> Task<S> {
    /// Waits for the answer to the request under way; forever if there is none.
    pub(super) async fn answer(&mut self) -> Event<S> {
        match self {
            Self::Opening(opening) => Event::Opened(opening.await),
            Self::Stopping {
                cancel: Some(cancel),
                ..
            } => Event::Cancelled(cancel.await),
            Self::Stopping { cancel: None, .. } | Self::None => pending().await,
        }
    }
}

impl<S: Session> Subscription<S> {
    pub(super) fn new(backoff: Redial, now: Instant, begins_paused: bool) -> Self {
        Self {
            session: None,
            session_id: None,
            task: Task::None,
            open_at: now,
            awaits_connection: false,
            backoff,
            opened_at: now,
            reason: None,
            has_subscribed: begins_paused,
            is_in_doubt: false,
            tolerance: None,
        }
    }

    /// Whether the broker sends deliveries.
    pub(super) fn is_live(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_subscribed)
    }

    /// Whether the session's subscription has ended without a request of the lane.
    pub(super) fn has_ended_unasked(&self) -> bool {
        self.session.is_some() && self.is_idle()
    }

    /// Whether there is no subscription, and no request for one is under way.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.task, Task::None) && !self.is_live()
    }

    /// Whether the consumer is being cancelled.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.task, Task::Stopping { .. })
    }

    /// Whether a request is under way that may still bring deliveries to be returned: the consumer
    /// is being cancelled, or a new one is being made on the channel of the session.
    pub(super) fn may_bring_deliveries(&self) -> bool {
        match self.task {
            Task::None => false,
            Task::Opening(_) => self.session.is_some(),
            Task::Stopping { .. } => true,
        }
    }

    pub(super) fn stop_by(&self) -> Option<Instant> {
        match self.task {
            Task::Stopping { by, .. } => Some(by),
            _ => None,
        }
    }

    /// Why there is no subscription.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    pub(super) fn has_dead_channel(&self) -> bool {
        self.session.as_ref().is_some_and(|it| !it.is_usable())
    }

    /// The stream of the cancelled consumer has ended, or the time to wait for its end is over.
    pub(super) fn stopped(&mut self) {
        self.task = Task::None;
    }

    /// Subscribe now: the supervisor of the connection has a backoff of its own.
    pub(super) fn connection_is_up(&mut self) {
        self.awaits_connection = false;
        self.subscribe_now();
    }

    /// Subscribe at the next turn of the loop.
    pub(super) fn subscribe_now(&mut self) {
        self.backoff.reset();
        self.open_at = Instant::now();
    }

    /// Whether the last subscription lasted long enough to ask for the next one at once.
    pub(super) fn was_stable(&self) -> bool {
        const STABLE: Duration = Duration::from_secs(1);
        self.opened_at.elapsed() >= STABLE
    }
}

impl<B: Broker> LaneActor<B> {
    /// Begins to subscribe: on the session's channel if there is one, otherwise with a new session.
    pub(super) fn subscribe(&mut self) {
        if self.subscription.is_in_doubt {
            return self.ask_why_cancelled();
        }
        let mut spec = self.queue_spec();
        self.proof.prefetch = spec.prefetch;
        if self.keeping.renews() && self.subscription.session.is_some() {
            // The queues are as they were a moment ago. If one is missing, it is the reason for this
            // new subscription.
            spec.topology = Topology::None;
        }
        let opening: Request<_> = match &mut self.subscription.session {
            Some(session) => {
                let subscription = session.subscribe_again(&spec);
                Box::pin(async move { subscription.await.map(Opened::Subscription) })
            }
            None => {
                let (lane, mut broker) = (Arc::clone(&self.lane), self.broker.clone());
                Box::pin(async move {
                    let session = broker.open(&spec, &lane.worker).await?;
                    Ok(Opened::Session(Box::new(session)))
                })
            }
        };
        self.subscription.task = Task::Opening(opening);
    }

    pub(super) fn subscription_changed(&mut self, event: Event<B::Session>) {
        match event {
            Event::Opened(result) => self.opened(result),
            Event::Cancelled(Ok(())) => {
                self.cancellation_proves();
                if let Task::Stopping { cancel, .. } = &mut self.subscription.task {
                    *cancel = None;
                }
            }
            Event::Cancelled(Err(error)) => self.lose_session(&error),
        }
    }

    fn opened(&mut self, result: Result<Opened<B::Session>, BrokerError>) {
        self.subscription.task = Task::None;
        let is_first = !self.subscription.has_subscribed;
        self.report_start(&result);
        let opened = match result {
            Ok(opened) => opened,
            // The worker ends, and gives this reason.
            Err(error @ BrokerError::Topology(_)) if is_first => {
                self.wait_to_subscribe(&error.to_string());
                return;
            }
            Err(error) if self.subscription.has_dead_channel() => return self.lose_session(&error),
            Err(error) => {
                return self.subscribe_later(&error.to_string(), error.needs_people());
            }
        };
        let same_session = self.subscription.session.is_some();
        match (opened, &mut self.subscription.session) {
            (Opened::Session(session), None) => {
                let (host, port) = session.server();
                self.lane.watch.connected_to(host, port);
                let tolerance = session.tolerance();
                self.subscription.session_id = Some(SessionId::next());
                self.lane.set_session(self.subscription.session_id);
                self.subscription.session = Some(*session);
                self.unsettled = Default::default();
                self.note_tolerance(tolerance);
            }
            (Opened::Subscription(subscription), Some(session)) => session.resume(subscription),
            (Opened::Outlived, _) => {
                self.leave_session();
                self.subscription.open_at = Instant::now();
                return;
            }
            (Opened::QueueDeleted, _) => {
                self.subscription.is_in_doubt = false;
                self.subscription.open_at = Instant::now();
                return;
            }
            // The session that the answer belongs to is gone.
            (Opened::Session(_), Some(_)) | (Opened::Subscription(_), None) => return,
        }
        self.proof
            .unproven
            .subscribed(self.unsettled.next(), self.proof.prefetch);
        if self.draining || self.paused {
            // The drain or the pause began while the request was under way.
            return self.stop_consuming();
        }
        let renewed = self.keeping.renews();
        self.window_opened();
        self.check_subscription();
        let for_its_service = self.tending.subscribes_for_its_service();
        if !(same_session && (renewed || for_its_service)) {
            self.lane.watch.subscribed(&self.lane.name);
        }
        self.subscription.backoff.reset();
        self.subscription.opened_at = Instant::now();
        self.subscription.reason = None;
    }

    /// Reports the result of an attempt to subscribe, up to the first success.
    fn report_start(&mut self, result: &Result<Opened<B::Session>, BrokerError>) {
        if self.subscription.has_subscribed {
            return;
        }
        self.subscription.has_subscribed = result.is_ok();
        let result = result.as_ref().map(drop).map_err(Clone::clone);
        // Nobody listens once the worker has started.
        let _ = self
            .channels
            .started
            .send((self.lane.name.to_string(), result));
    }

    /// Puts the next attempt to subscribe off. Returns by how much, and whether the reason is new.
    fn wait_to_subscribe(&mut self, reason: &str) -> (Duration, bool) {
        let wait = self.subscription.backoff.next();
        self.subscription.open_at = Instant::now() + wait;
        self.subscription.awaits_connection = !self.broker.is_up();
        let before = self.subscription.reason.replace(reason.to_owned());
        (wait, before.as_deref() != Some(reason))
    }

    /// A request can fail a moment before the worker knows that its connection is lost. The next
    /// attempt then starts as soon as the new connection is up, and does not wait for its own time.
    pub(super) fn await_lost_connection(&mut self) {
        if self.wants_subscription() && !self.broker.is_up() {
            self.subscription.awaits_connection = true;
        }
    }

    pub(super) fn subscribe_later(&mut self, reason: &str, loud: bool) {
        let (wait, is_news) = self.wait_to_subscribe(reason);
        if !is_news {
            debug!(consumer = %self.lane.name, reason, retry_in = ?wait, "still not consuming");
        } else if loud {
            error!(consumer = %self.lane.name, reason, retry_in = ?wait, "not consuming");
        } else {
            warn!(consumer = %self.lane.name, reason, retry_in = ?wait, "not consuming");
        }
    }

    /// Cancels the consumer, and returns at once what has not started, so that other workers can
    /// run it. A second call does no harm.
    pub(super) fn stop_consuming(&mut self) {
        self.withdraw();
        self.end_hold();
        self.cancel_consumer();
        if self.subscription.is_in_doubt {
            // A lane that takes nothing new still has deliveries to settle.
            self.subscription.open_at = Instant::now();
        }
    }

    /// The stream of the cancelled consumer has ended, or the time to wait for its end is over.
    pub(super) fn stream_ended(&mut self) {
        self.subscription.stopped();
        if self.keeping.renews() {
            self.subscription.subscribe_now();
        }
    }

    /// Cancels the consumer. A second call does no harm.
    pub(super) fn cancel_consumer(&mut self) {
        self.keeping.stop_renewing();
        let Some(session) = &mut self.subscription.session else {
            // Give up a request for a new session: that session has delivered nothing yet.
            self.subscription.task = Task::None;
            return;
        };
        // A request to subscribe again on this session goes on: the broker carries it out, and may
        // already send deliveries. `opened` then cancels the consumer.
        if session.is_subscribed() {
            self.proof.before_cancel = self.proof.unproven.written();
            let by = Instant::now() + session.request_limit() * 2;
            let cancel = Some(Box::pin(session.cancel()) as Request<_>);
            self.subscription.task = Task::Stopping { cancel, by };
        }
    }

    /// The session has failed: the broker has its unsettled deliveries back.
    pub(super) fn lose_session(&mut self, error: &BrokerError) {
        if self.leave_session() {
            self.subscribe_later(&error.to_string(), false);
        }
    }

    /// Gives up the session; false if there is none.
    fn leave_session(&mut self) -> bool {
        let Some(session) = self.subscription.session.take() else {
            return false;
        };
        self.subscription.is_in_doubt = false;
        if session.is_usable() {
            // A request failed, but the channel is open. Close it, so that the broker gets back its
            // unsettled deliveries: dropping the session does not close it while lapin waits for a
            // cancel-ok.
            match self.silence.is_suspect {
                true => tokio::spawn(session.close_or_kill()),
                false => tokio::spawn(session.close()),
            };
        }
        self.subscription.task = Task::None;
        self.withdraw();
        self.forget_copies();
        self.end_hold();
        self.subscription.session_id = None;
        self.lane.set_session(None);
        self.orphans
            .extend(self.unsettled.flights().map(Arc::clone));
        for (flight, end) in self.abandon() {
            // Its ack was not written, so the end settles the next delivery of the message.
            self.under_way += 1;
            self.orphans.push(Arc::clone(&flight));
            tokio::spawn(path::end_at_next_place(Arc::clone(&self.lane), flight, end));
        }
        true
    }
}
