//! What a lane and the paths of its deliveries share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{ends::Ends, starts::Starts, vitals::Vitals};
use crate::{
    backoff::Ladder,
    broker::{self, Link, Publisher},
    config::{ConsumerSettings, PublishSettings, TimeoutSettings, Topology},
    dispatch::Dispatch,
    execute::Limits,
    run::SharedByHandlers,
    telemetry::{Counters, LaneStats, LaneTelemetry, Signals},
};

/// See the module.
pub(super) struct LaneShared {
    pub(super) name: Arc<str>,
    pub(super) queue: Arc<str>,
    /// This process, in headers.
    pub(super) worker: Arc<str>,
    pub(super) settings: ConsumerSettings,
    pub(super) publish: PublishSettings,
    pub(super) timeouts: Arc<TimeoutSettings>,
    /// The longest wait for the broker to apply the last acks.
    pub(super) drain_settle: Duration,
    pub(super) limits: Limits,
    pub(super) ladder: Ladder,
    pub(super) dispatch: Dispatch,
    pub(super) publisher: Publisher,
    pub(super) counters: Arc<Counters>,
    pub(super) stats: Arc<LaneStats>,
    pub(super) telemetry: LaneTelemetry,
    pub(super) vitals: Arc<Vitals>,
    pub(super) by_handlers: Arc<SharedByHandlers>,
    /// A drain has begun.
    pub(super) drain: CancellationToken,
    /// The drain's grace has ended.
    pub(super) hard_stop: CancellationToken,
    /// The live session's epoch; 0 when there is none.
    epoch: AtomicU64,
    /// Retries that wait here.
    inline: AtomicUsize,
    restoring: AtomicBool,
    /// What is to be carried along its path, once there is a slot for it.
    pub(super) starts: Starts,
    /// Where handlers run.
    pub(super) runtime: Handle,
    /// What the lane has yet to book. One that is gone has booked its open deliveries.
    pub(super) ends: Ends,
}

/// What a [`LaneShared`] is made of.
pub(super) struct LaneParts {
    pub(super) name: Arc<str>,
    pub(super) worker: Arc<str>,
    pub(super) settings: ConsumerSettings,
    pub(super) publish: PublishSettings,
    pub(super) timeouts: Arc<TimeoutSettings>,
    pub(super) drain_settle: Duration,
    pub(super) dispatch: Dispatch,
    pub(super) publisher: Publisher,
    pub(super) signals: Signals,
    pub(super) vitals: Arc<Vitals>,
    pub(super) by_handlers: Arc<SharedByHandlers>,
    pub(super) runtime: Handle,
    pub(super) drain: CancellationToken,
    pub(super) hard_stop: CancellationToken,
}

impl LaneShared {
    pub(super) fn new(parts: LaneParts) -> Arc<Self> {
        let settings = parts.settings;
        let queue: Arc<str> = settings.queue.as_str().into();
        let ladder = Ladder::new(&settings.queue, settings.retry.cap);
        let stats = LaneStats::new(
            Arc::clone(&parts.vitals.counters),
            Arc::clone(&parts.vitals.slots),
            ladder.rungs().map(|rung| rung.queue),
        );
        let telemetry = LaneTelemetry::new(parts.signals, &parts.name, &queue, &parts.worker);
        let shared = Self {
            name: parts.name,
            queue,
            worker: parts.worker,
            publish: parts.publish,
            timeouts: parts.timeouts,
            drain_settle: parts.drain_settle,
            limits: Limits {
                timeout: settings.timeout,
                cancel_grace: settings.cancel_grace,
            },
            ladder,
            dispatch: parts.dispatch,
            publisher: parts.publisher,
            counters: Arc::clone(&parts.vitals.counters),
            stats: Arc::new(stats),
            telemetry,
            by_handlers: parts.by_handlers,
            drain: parts.drain,
            hard_stop: parts.hard_stop,
            settings,
            epoch: AtomicU64::new(0),
            inline: AtomicUsize::new(0),
            restoring: AtomicBool::new(false),
            starts: Starts::new(Arc::clone(&parts.vitals.slots)),
            runtime: parts.runtime,
            ends: Ends::default(),
            vitals: parts.vitals,
        };
        Arc::new(shared)
    }

    pub(super) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Whether deliveries of this epoch can still be settled.
    pub(super) fn is_current(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch
    }

    /// A place among the retries that wait here: at most half of the prefetch, so that new
    /// messages keep coming, and none when a drain has begun.
    pub(super) fn wait_inline(&self) -> Option<Waiting<'_>> {
        let most = usize::from(self.settings.prefetch / 2);
        let waiting = Waiting(&self.inline);
        let before = self.inline.fetch_add(1, Ordering::AcqRel);
        (before < most && !self.drain.is_cancelled()).then_some(waiting)
    }

    /// Retries that wait here.
    pub(super) fn waiting_inline(&self) -> usize {
        self.inline.load(Ordering::Acquire)
    }

    /// Declares a queue again that publishes to it were returned from, where we may.
    pub(super) async fn restore(&self, queue: &str) {
        if self.settings.topology != Topology::Declare {
            return;
        }
        if self.restoring.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(connection) = Link::current(self.publisher.link()) {
            let limit = self.timeouts.declare;
            let restored = broker::restore(&connection, &self.settings, queue, limit).await;
            match restored {
                Ok(()) => warn!(lane = %self.name, queue, "queue was missing, declared again"),
                Err(error) => warn!(lane = %self.name, queue, %error, "queue is missing"),
            }
        }
        self.restoring.store(false, Ordering::Release);
    }
}

/// A retry that waits here.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
