//! The worker's own thread: connections and lanes, on a runtime that no handler can block.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    Report, RunError, WorkerSettings,
    handle::{Calls, FirstAttempt},
    lifecycle::Lifecycle,
};
use crate::{
    broker::{
        BrokerError, BrokerSettings, Link, LinkState, Publisher, Purpose, Rabbit, Reconnect,
        TimeoutSettings,
    },
    consumer::ConsumerSettings,
    flight::{Extensions, Resources, SCOPE},
    lane::{LaneActor, LaneChannels},
    path::{Dispatch, Ends, Handlers, Lane, Limits, Live, StartQueue},
    retry::Ladder,
    state,
    status::{LaneReport, LaneReports, LaneStats, Vitals},
    telemetry::{self, LaneTelemetry, Observed, ObservedLane, Signals},
};

/// What the thread needs.
pub(super) struct Setup {
    pub(super) settings: WorkerSettings,
    pub(super) handlers: HashMap<String, Handlers>,
    pub(super) extensions: Extensions,
    pub(super) calls: Calls,
    pub(super) signals: Signals,
    /// Where handlers run.
    pub(super) runtime: Handle,
}

/// The thread's whole life.
pub(super) fn run(setup: Setup) -> Result<Report, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("lapwing-core")
        .build()
        .map_err(|error| RunError::Thread(error.to_string()))?;
    let result = runtime.block_on(work(setup));
    // Nothing of ours is left; a name lookup may be.
    runtime.shutdown_background();
    result
}

async fn work(setup: Setup) -> Result<Report, RunError> {
    let Setup {
        mut settings,
        handlers,
        extensions,
        calls,
        signals,
        runtime,
    } = setup;
    let consumers = mem::take(&mut settings.consumers);
    let timeouts = Arc::new(settings.timeouts.clone());
    let worker: Arc<str> = settings.broker.worker_name().into();
    let state = state::start_in_thread(settings.state.mailbox, timeouts.call)
        .map_err(|error| RunError::Thread(error.to_string()))?;
    let mailbox = state.gauge();
    let links = Links::start(&Arc::new(settings.broker.clone()), &timeouts, &worker);
    let publishing = calls.publishing.subscribe();
    tokio::spawn(watch_publishing(links.publishing.clone(), calls.publishing));

    let common = Common {
        broker: links.broker(settings.publish.channels, &timeouts),
        resources: Arc::new(Resources { state, extensions }),
        drain: calls.drain,
        hard_stop: calls.hard_stop,
        worker,
        signals,
        runtime,
        settings,
    };
    let lifecycle = Lifecycle::new(&handlers, &consumers, common.runtime.clone());
    if let Err(error) = lifecycle.start().await {
        links.close(timeouts.close).await;
        return Err(error);
    }
    let (lanes, observed) = common.start_lanes(consumers, handlers, calls.lanes);
    let meter = signals.metrics.then(|| opentelemetry::global::meter(SCOPE));
    if let Some(meter) = &meter {
        let observed = Observed {
            lanes: observed,
            publishing,
            mailbox,
        };
        telemetry::observe(meter, observed);
    }

    let drain_began = Arc::<OnceLock<Instant>>::default();
    let grace = tokio::spawn(common.end_grace(Arc::clone(&drain_began)));
    let failed = common.watch_first_attempts(calls.first_attempts).await;
    let lanes = collect(lanes).await;
    grace.abort();
    lifecycle.stop().await;
    if let (Some(meter), Some(since)) = (&meter, drain_began.get()) {
        telemetry::drained(meter, since.elapsed());
    }
    links.close(timeouts.close).await;
    match failed {
        Some(error) => Err(error),
        None => Ok(Report { lanes }),
    }
}

/// The worker's connections: one consumes, one publishes.
struct Links {
    consuming: Link,
    publishing: Link,
    ended: [JoinHandle<()>; 2],
    stop: CancellationToken,
}

impl Links {
    fn start(broker: &Arc<BrokerSettings>, timeouts: &Arc<TimeoutSettings>, worker: &str) -> Self {
        let stop = CancellationToken::new();
        let link = |purpose| {
            let (broker, timeouts) = (Arc::clone(broker), Arc::clone(timeouts));
            Link::start(purpose, broker, timeouts, worker.to_owned(), stop.clone())
        };
        let (consuming, consuming_ended) = link(Purpose::Consume);
        let (publishing, publishing_ended) = link(Purpose::Publish);
        Self {
            consuming,
            publishing,
            ended: [consuming_ended, publishing_ended],
            stop,
        }
    }

    /// What lanes use of them.
    fn broker(&self, channels: usize, timeouts: &Arc<TimeoutSettings>) -> Rabbit {
        let publisher = Publisher::new(self.publishing.clone(), channels, Arc::clone(timeouts));
        Rabbit::new(self.consuming.clone(), publisher, Arc::clone(timeouts))
    }

    /// Closes both.
    async fn close(self, limit: Duration) {
        self.stop.cancel();
        // Each supervisor bounds its own close; this is for one that is in the middle of connecting.
        let _ = timeout(limit * 2, join_all(self.ended)).await;
    }
}

/// What all lanes of a worker share.
struct Common {
    /// Without the consumers.
    settings: WorkerSettings,
    worker: Arc<str>,
    broker: Rabbit,
    resources: Arc<Resources>,
    signals: Signals,
    runtime: Handle,
    drain: CancellationToken,
    hard_stop: CancellationToken,
}

/// The lanes that run, with their names.
type Lanes = JoinSet<(String, LaneReport)>;

impl Common {
    /// Starts the lanes. Returns them, and how each is observed.
    fn start_lanes(
        &self,
        consumers: BTreeMap<String, ConsumerSettings>,
        mut handlers: HashMap<String, Handlers>,
        mut calls: BTreeMap<String, (LaneChannels, Arc<Vitals>)>,
    ) -> (Lanes, Vec<ObservedLane>) {
        let mut lanes = JoinSet::new();
        let mut observed = Vec::new();
        for (name, consumer) in consumers {
            let Some((channels, vitals)) = calls.remove(&name) else {
                continue;
            };
            let handlers = handlers.remove(&name).unwrap_or_default();
            let lane = Arc::new(self.lane(&name, consumer, handlers, vitals));
            observed.push(ObservedLane {
                name: Arc::clone(&lane.name),
                queue: Arc::clone(&lane.queue),
                prefetch: lane.settings.prefetch,
                stats: Arc::clone(&lane.stats),
                health: channels.health.subscribe(),
            });
            let backoff = Reconnect::new(&self.settings.broker.reconnect);
            let actor = LaneActor::new(lane, self.broker.clone(), channels, backoff);
            lanes.spawn(async move { (name, actor.run().await) });
        }
        (lanes, observed)
    }

    /// The description of one lane.
    fn lane(
        &self,
        name: &str,
        settings: ConsumerSettings,
        handlers: Handlers,
        vitals: Arc<Vitals>,
    ) -> Lane<Rabbit> {
        let name: Arc<str> = name.into();
        let queue: Arc<str> = settings.queue.as_str().into();
        let ladder = Ladder::new(&settings.queue, settings.retry.cap);
        let counters = Arc::clone(&vitals.counters);
        let slots = Arc::clone(&vitals.slots);
        let rungs = ladder.rungs().map(|rung| rung.queue);
        Lane {
            stats: Arc::new(LaneStats::new(
                Arc::clone(&counters),
                Arc::clone(&slots),
                rungs,
            )),
            telemetry: LaneTelemetry::new(self.signals, &name, &queue, &self.worker),
            name,
            queue,
            worker: Arc::clone(&self.worker),
            publish: self.settings.publish.clone(),
            drain_settle: self.settings.drain.settle,
            limits: Limits::of(&settings),
            dispatch: Dispatch::new(handlers, &settings),
            settings,
            ladder,
            broker: self.broker.clone(),
            counters,
            vitals,
            resources: Arc::clone(&self.resources),
            drain: self.drain.clone(),
            hard_stop: self.hard_stop.clone(),
            runtime: self.runtime.clone(),
            starts: StartQueue::new(slots),
            ends: Ends::default(),
            live: Live::default(),
        }
    }

    /// Watches the lanes' first attempts to subscribe until each has succeeded or a drain begins. An
    /// attempt that can never succeed, or any that fails with `fail_fast`, begins the drain and is
    /// returned.
    async fn watch_first_attempts(
        &self,
        mut attempts: mpsc::UnboundedReceiver<FirstAttempt>,
    ) -> Option<RunError> {
        loop {
            let (consumer, result) = tokio::select! {
                attempt = attempts.recv() => attempt?,
                () = self.drain.cancelled() => return None,
            };
            let Err(error) = result else { continue };
            if self.settings.broker.fail_fast || matches!(error, BrokerError::Topology(_)) {
                self.drain.cancel();
                return Some(RunError::Broker { consumer, error });
            }
        }
    }

    /// Notes when the drain begins, and ends its grace when its time is up.
    fn end_grace(&self, began: Arc<OnceLock<Instant>>) -> impl Future<Output = ()> + 'static {
        let (drain, hard_stop) = (self.drain.clone(), self.hard_stop.clone());
        let grace = self.settings.drain.grace;
        async move {
            drain.cancelled().await;
            began.get_or_init(Instant::now);
            tokio::select! {
                () = tokio::time::sleep(grace) => hard_stop.cancel(),
                () = hard_stop.cancelled() => {}
            }
        }
    }
}

async fn collect(mut lanes: Lanes) -> LaneReports {
    let mut reports = LaneReports::new();
    while let Some(ended) = lanes.join_next().await {
        match ended {
            Ok((name, report)) => {
                reports.insert(name, report);
            }
            Err(panic) => {
                error!(error = %panic, "a lane ended in a panic; the broker redelivers what it had")
            }
        }
    }
    reports
}

/// Tells readiness why nothing can be published.
async fn watch_publishing(mut link: Link, publishing: watch::Sender<Option<String>>) {
    loop {
        match link.state() {
            LinkState::Down(error) => {
                let reason = error.map_or_else(|| "not connected".to_owned(), |e| e.to_string());
                publishing.send_replace(Some(reason));
                if !link.changed().await {
                    return;
                }
            }
            LinkState::Up(connection) => {
                let mut blocked = connection.blocked();
                let reason = blocked
                    .borrow_and_update()
                    .then(|| "blocked by the broker".to_owned());
                publishing.send_replace(reason);
                tokio::select! {
                    changed = link.changed() => if !changed { return },
                    // When the connection is gone the link says so.
                    Ok(()) = blocked.changed() => {}
                }
            }
        }
    }
}
