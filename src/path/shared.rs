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

use super::{dispatch::Dispatch, ends::Ends, execute::Limits, starts::Starts};
use crate::{
    broker::{self, Link, PublishSettings, Publisher, TimeoutSettings, Topology},
    consumer::ConsumerSettings,
    flight::SharedByHandlers,
    retry::Ladder,
    status::{Counters, LaneStats, Vitals},
    telemetry::{LaneTelemetry, Signals},
};

/// See the module.
pub(crate) struct LaneShared {
    pub(crate) name: Arc<str>,
    pub(crate) queue: Arc<str>,
    /// This process, in headers.
    pub(crate) worker: Arc<str>,
    pub(crate) settings: ConsumerSettings,
    pub(crate) publish: PublishSettings,
    pub(crate) timeouts: Arc<TimeoutSettings>,
    /// The longest wait for the broker to apply the last acks.
    pub(crate) drain_settle: Duration,
    pub(crate) limits: Limits,
    pub(crate) ladder: Ladder,
    pub(crate) dispatch: Dispatch,
    pub(crate) publisher: Publisher,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stats: Arc<LaneStats>,
    pub(crate) telemetry: LaneTelemetry,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) by_handlers: Arc<SharedByHandlers>,
    /// A drain has begun.
    pub(crate) drain: CancellationToken,
    /// The drain's grace has ended.
    pub(crate) hard_stop: CancellationToken,
    /// The live session's epoch; 0 when there is none.
    epoch: AtomicU64,
    /// Retries that wait here.
    inline: AtomicUsize,
    restoring: AtomicBool,
    /// What is to be carried along its path, once there is a slot for it.
    pub(crate) starts: Starts,
    /// Where handlers run.
    pub(crate) runtime: Handle,
    /// What the lane has yet to book. One that is gone has booked its open deliveries.
    pub(crate) ends: Ends,
}

/// What a [`LaneShared`] is made of.
pub(crate) struct LaneParts {
    pub(crate) name: Arc<str>,
    pub(crate) worker: Arc<str>,
    pub(crate) settings: ConsumerSettings,
    pub(crate) publish: PublishSettings,
    pub(crate) timeouts: Arc<TimeoutSettings>,
    pub(crate) drain_settle: Duration,
    pub(crate) dispatch: Dispatch,
    pub(crate) publisher: Publisher,
    pub(crate) signals: Signals,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) by_handlers: Arc<SharedByHandlers>,
    pub(crate) runtime: Handle,
    pub(crate) drain: CancellationToken,
    pub(crate) hard_stop: CancellationToken,
}

impl LaneShared {
    pub(crate) fn new(parts: LaneParts) -> Arc<Self> {
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

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Whether deliveries of this epoch can still be settled.
    pub(crate) fn is_current(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::Acquire) == epoch
    }

    /// A place among the retries that wait here: at most half of the prefetch, so that new
    /// messages keep coming, and none when a drain has begun.
    pub(crate) fn wait_inline(&self) -> Option<Waiting<'_>> {
        let most = usize::from(self.settings.prefetch / 2);
        let waiting = Waiting(&self.inline);
        let before = self.inline.fetch_add(1, Ordering::AcqRel);
        (before < most && !self.drain.is_cancelled()).then_some(waiting)
    }

    /// Retries that wait here.
    pub(crate) fn waiting_inline(&self) -> usize {
        self.inline.load(Ordering::Acquire)
    }

    /// Declares a queue again that publishes to it were returned from, where we may.
    pub(crate) async fn restore(&self, queue: &str) {
        if self.settings.topology != Topology::Declare {
            return;
        }
        if self.restoring.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(connection) = Link::current(self.publisher.link()) {
            let limit = self.timeouts.declare;
            let restored =
                broker::restore(&connection, &self.settings.queue_spec(), queue, limit).await;
            match restored {
                Ok(()) => warn!(lane = %self.name, queue, "queue was missing, declared again"),
                Err(error) => warn!(lane = %self.name, queue, %error, "queue is missing"),
            }
        }
        self.restoring.store(false, Ordering::Release);
    }
}

/// A retry that waits here.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
