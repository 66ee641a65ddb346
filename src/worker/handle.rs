//! Asking and telling a worker while it runs.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    health::{LaneHealth, LaneState, Readiness},
    lane::{Command, LaneReport},
};
use crate::config::Settings;

/// Why a call to a lane gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no lane of this name.
    #[error("no such lane")]
    NoSuchLane,
    /// The lane did not answer within `timeouts.call`.
    #[error("the lane did not answer in time")]
    TimedOut,
    /// The lane has ended, or has not begun.
    #[error("the lane is not running")]
    NotRunning,
}

/// Asks and tells a worker while it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    lanes: BTreeMap<String, LaneHandle>,
    publishing: watch::Receiver<Option<String>>,
    drain: CancellationToken,
    hard_stop: CancellationToken,
    deadline: Duration,
}

#[derive(Clone, Debug)]
struct LaneHandle {
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<LaneHealth>,
}

/// The worker's side of a [`WorkerHandle`].
pub(super) struct Calls {
    pub(super) lanes: BTreeMap<String, LaneCalls>,
    pub(super) publishing: watch::Sender<Option<String>>,
    pub(super) drain: CancellationToken,
    pub(super) hard_stop: CancellationToken,
}

pub(super) struct LaneCalls {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) health: watch::Sender<LaneHealth>,
}

/// Commands that may wait for a lane.
const MAILBOX: usize = 16;

pub(super) fn channel(settings: &Settings) -> (WorkerHandle, Calls) {
    let mut handles = BTreeMap::new();
    let mut calls = BTreeMap::new();
    for name in settings.consumers.keys() {
        let (sender, commands) = mpsc::channel(MAILBOX);
        let (health, receiver) = watch::channel(LaneHealth::new(LaneState::Connecting, None));
        let handle = LaneHandle {
            commands: sender,
            health: receiver,
        };
        handles.insert(name.clone(), handle);
        calls.insert(name.clone(), LaneCalls { commands, health });
    }
    let (sender, publishing) = watch::channel(Some("not connected".to_owned()));
    let handle = WorkerHandle {
        lanes: handles,
        publishing,
        drain: CancellationToken::new(),
        hard_stop: CancellationToken::new(),
        deadline: settings.timeouts.call,
    };
    let calls = Calls {
        lanes: calls,
        publishing: sender,
        drain: handle.drain.clone(),
        hard_stop: handle.hard_stop.clone(),
    };
    (handle, calls)
}

impl WorkerHandle {
    /// Whether the worker does its work, and what keeps it from it.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let health = |lane: &LaneHandle| lane.health.borrow().clone();
        let lanes: BTreeMap<_, _> = self
            .lanes
            .iter()
            .map(|(name, lane)| (name.clone(), health(lane)))
            .collect();
        let draining = self.drain.is_cancelled();
        Readiness {
            ready: !draining && lanes.values().all(LaneHealth::is_ready),
            draining,
            lanes,
            publishing: self.publishing.borrow().clone(),
        }
    }

    /// Waits until `wanted` is true of the readiness, or the worker has ended.
    pub async fn until(&mut self, wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        loop {
            let readiness = self.readiness();
            if wanted(&readiness) {
                return readiness;
            }
            let drain = self.drain.clone();
            let changes = self
                .lanes
                .values_mut()
                .map(|lane| Box::pin(lane.health.changed()));
            let ended = tokio::select! {
                (changed, ..) = futures_util::future::select_all(changes) => changed.is_err(),
                changed = self.publishing.changed() => changed.is_err(),
                () = drain.cancelled(), if !readiness.draining => false,
            };
            if ended {
                return self.readiness();
            }
        }
    }

    /// A lane's account.
    ///
    /// # Errors
    /// When there is no such lane, or it gives no answer.
    pub async fn report(&self, lane: &str) -> Result<LaneReport, CallError> {
        self.call(lane, Command::Report).await
    }

    /// Makes a lane take nothing new and give back what has not started. Running handlers finish.
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub async fn pause(&self, lane: &str) -> Result<(), CallError> {
        self.call(lane, Command::Pause).await
    }

    /// Makes a paused lane consume again.
    ///
    /// # Errors
    /// As [`report`](Self::report).
    pub async fn resume(&self, lane: &str) -> Result<(), CallError> {
        self.call(lane, Command::Resume).await
    }

    /// Begins the drain, as the end of the shutdown future does.
    pub fn stop(&self) {
        self.drain.cancel();
    }

    /// Ends the drain's grace now: running handlers are cancelled, their messages returned.
    pub fn stop_now(&self) {
        self.drain.cancel();
        self.hard_stop.cancel();
    }

    pub(super) fn drain_token(&self) -> &CancellationToken {
        &self.drain
    }

    async fn call<T>(
        &self,
        lane: &str,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, CallError> {
        let lane = self.lanes.get(lane).ok_or(CallError::NoSuchLane)?;
        let deadline = Instant::now() + self.deadline;
        let (answer, answered) = oneshot::channel();
        let sent = timeout_at(deadline, lane.commands.send(command(answer))).await;
        let sent = sent.map_err(|_| CallError::TimedOut)?;
        sent.map_err(|_| CallError::NotRunning)?;
        let answer = timeout_at(deadline, answered).await;
        let answer = answer.map_err(|_| CallError::TimedOut)?;
        answer.map_err(|_| CallError::NotRunning)
    }
}
