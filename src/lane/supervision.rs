//! A lane's sessions: getting one, ending it, replacing it; and handlers that are stuck.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Lane, Opened, STUCK_SLACK, next_epoch, unsettled::Unsettled};
use crate::{
    broker::{BrokerError, Session},
    flight::Run,
    outcome::Outcome,
    path,
    status::{End, LaneState},
};

impl Lane {
    pub(super) async fn opened(&mut self, opened: Result<Opened, BrokerError>) {
        self.opening = None;
        if !self.has_subscribed {
            self.has_subscribed = opened.is_ok();
            let result = opened.as_ref().map(drop).map_err(Clone::clone);
            // Nobody listens once the worker has started.
            let _ = self
                .channels
                .started
                .send((self.shared.name.to_string(), result));
        }
        match (opened, self.session.as_mut()) {
            (Ok(Opened::Session(session)), None) => {
                let (host, port) = session.server();
                self.shared.telemetry.connected_to(host, port);
                self.epoch = next_epoch();
                self.shared.set_epoch(self.epoch);
                self.session = Some(*session);
                self.unsettled = Unsettled::default();
            }
            (Ok(Opened::Subscription(subscription)), Some(session)) => session.resume(subscription),
            // The session that it was for is gone.
            (Ok(_), _) => return,
            (Err(error), session) => {
                if session.is_some_and(|session| !session.is_usable()) {
                    return self.lose_session(&error);
                }
                return self.reopen_later(&error.to_string(), error.needs_people());
            }
        }
        if self.draining {
            // The drain began while this was under way.
            return self.stop_consuming().await;
        }
        info!(lane = %self.shared.name, queue = %self.shared.queue, "consuming");
        self.shared.counters.sessions.add_one();
        self.opened_at = Instant::now();
        match self.paused {
            // It was paused while this was under way.
            true => self.pause().await,
            false if self.hold_until.is_some() => self.tell_held(),
            false => self.tell(LaneState::Consuming, None),
        }
    }

    /// Takes nothing new, and gives back what has not started. Called again it does no harm.
    pub(super) async fn pause(&mut self) {
        self.paused = true;
        self.stop_consuming().await;
        self.end_hold();
        self.tell(LaneState::Paused, Some("paused by an operator".to_owned()));
    }

    /// The broker has cancelled the consumer. The channel is open, and what runs can be settled
    /// on it.
    pub(super) fn subscribe_again_soon(&mut self) {
        self.forget_quick_failures();
        self.reopen_later("the broker cancelled the consumer", false);
    }

    pub(super) fn reopen_later(&mut self, reason: &str, loud: bool) {
        let wait = self.backoff.next();
        self.open_at = Instant::now() + wait;
        self.awaits_link = !self.link.is_up();
        if loud {
            error!(lane = %self.shared.name, reason, retry_in = ?wait, "not consuming");
        } else {
            warn!(lane = %self.shared.name, reason, retry_in = ?wait, "not consuming");
        }
        if !self.draining && !self.paused {
            self.tell(LaneState::Connecting, Some(reason.to_owned()));
        }
    }

    /// The connection was waited for with a backoff of its own, so that nobody waits again.
    pub(super) fn link_is_up(&mut self) {
        self.awaits_link = false;
        self.backoff.reset();
        self.open_at = Instant::now();
    }

    /// The session has ended without our wish: whatever it had delivered, the broker has back.
    pub(super) fn lose_session(&mut self, error: &BrokerError) {
        if self.session.take().is_none() {
            return;
        }
        self.ledger.stale += self.withdraw().len() as u64;
        self.untold.told(
            &self.shared.telemetry,
            "ack",
            Some(u64::MAX - 1),
            &[],
            false,
        );
        self.epoch = 0;
        self.shared.set_epoch(0);
        for tag in std::mem::take(&mut self.held) {
            if self.unsettled.settle(tag) {
                self.ledger.unsettled(End::Stale);
            }
        }
        self.orphans.extend(self.unsettled.runs().map(Arc::clone));
        self.abandon();
        self.end_hold();
        self.forget_quick_failures();
        self.reopen_later(&error.to_string(), false);
    }

    /// Books what the broker was not told, and will not be: it has it back with the channel.
    pub(super) fn abandon(&mut self) {
        let (ends, open) = self.unsettled.abandon();
        self.ledger.stale += open as u64;
        // Acks that were being written and whose fate is not known count as lost.
        self.flushing = None;
        let written = std::mem::take(&mut self.flushing_ends);
        let ends = ends.into_iter().chain(written);
        ends.for_each(|end| self.ledger.unsettled(end));
    }

    /// A subscription that lasted ends a run of failures.
    fn forget_quick_failures(&mut self) {
        const STABLE: Duration = Duration::from_secs(30);
        if self.opened_at.elapsed() > STABLE {
            self.backoff.reset();
        }
    }

    pub(super) fn open(&mut self) {
        if let Some(session) = &mut self.session {
            let subscription = session.subscribe_again(&self.shared.settings.queue_spec());
            self.opening = Some(Box::pin(async move {
                Ok(Opened::Subscription(subscription.await?))
            }));
            return;
        }
        let (shared, mut link) = (Arc::clone(&self.shared), self.link.clone());
        self.opening = Some(Box::pin(async move {
            let connection = match link.connected().await {
                Some(connected) => connected?,
                None => pending().await,
            };
            let timeouts = Arc::clone(&shared.timeouts);
            let queue = shared.settings.queue_spec();
            let session = Session::open(connection, &queue, timeouts, &shared.worker);
            Ok(Opened::Session(Box::new(session.await?)))
        }));
    }

    /// Stops the subscription and gives back what has arrived but not started: at once, so that
    /// other workers can run it.
    pub(super) async fn stop_consuming(&mut self) {
        let mut unstarted = self.withdraw();
        let Some(session) = self.session.as_mut() else {
            self.opening = None;
            return;
        };
        // A subscription of this session that is under way goes on: the broker makes it, and may
        // send messages by it. `opened` ends it.
        if let Err(error) = session.cancel().await {
            return self.gave_back(unstarted.len(), Err(error));
        }
        // Cancel-ok comes after the last delivery, and lapin ends the stream there.
        let limit = Instant::now() + session.request_limit();
        while let Ok(Some(Ok(delivery))) = tokio::time::timeout_at(limit, session.next()).await {
            self.ledger.received += 1;
            unstarted.push(delivery.tag);
        }
        let Some(last) = unstarted.last().copied() else {
            return;
        };
        if self.unsettled.is_empty() && self.flushing.is_none() {
            // One command for all: see `finish`.
            let result = session.give_back_through(last).await;
            self.unsettled.skip_to(last);
            return self.gave_back(unstarted.len(), result);
        }
        self.unsettled.skip_to(last);
        let result = session.give_back(&unstarted).await;
        self.wrote_singly(unstarted.len());
        self.gave_back(unstarted.len(), result);
    }

    /// A handler that blocks its thread sees no timeout: the lane settles its delivery, and gives
    /// its slot to others.
    pub(super) fn look_for_stuck_handlers(&mut self) {
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
        let runs = self.unsettled.runs().chain(&self.orphans);
        let stuck: Vec<_> = runs.filter(stuck).map(Arc::clone).collect();
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
}
