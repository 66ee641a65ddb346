//! The worker's own thread: connections and lanes, on a runtime that no handler can block.

use std::{
    collections::{BTreeMap, HashMap},
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
    handle::{Calls, LaneCalls},
    handlers::Handlers,
};
use crate::{
    broker::{
        BrokerError, BrokerSettings, Link, LinkState, PublishSettings, Publisher, Purpose,
        Reconnect, TimeoutSettings,
    },
    consumer::ConsumerSettings,
    flight::{Extensions, SCOPE, SharedByHandlers},
    lane::{Lane, LaneChannels},
    path::{
        dispatch::Dispatch,
        shared::{LaneParts, LaneShared},
    },
    state,
    status::{LaneReport, LaneReports},
    telemetry::{self, Observed, ObservedLane, Signals},
};

/// What the thread needs.
pub(super) struct Plan {
    pub(super) settings: WorkerSettings,
    pub(super) dispatch: HashMap<String, Dispatch>,
    pub(super) extensions: Extensions,
    pub(super) calls: Calls,
    pub(super) signals: Signals,
    pub(super) handlers: Handle,
}

/// The thread's whole life.
pub(super) fn run(plan: Plan) -> Result<Report, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("lapwing-core")
        .build()
        .map_err(|error| RunError::Thread(error.to_string()))?;
    let result = runtime.block_on(work(plan));
    // Nothing of ours is left; a name lookup may be.
    runtime.shutdown_background();
    result
}

async fn work(plan: Plan) -> Result<Report, RunError> {
    let settings = plan.settings;
    let calls = plan.calls;
    let broker = Arc::new(settings.broker);
    let timeouts = Arc::new(settings.timeouts);
    let worker: Arc<str> = broker.worker_name().into();
    let state = state::start_in_thread(settings.state.mailbox, timeouts.call)
        .map_err(|error| RunError::Thread(error.to_string()))?;
    let links = Links::start(&broker, &timeouts, &worker);
    let publishing = calls.publishing.subscribe();
    tokio::spawn(watch_publishing(links.publishing.clone(), calls.publishing));
    let mailbox = state.gauge();
    let channels = settings.publish.channels;
    let common = Common {
        worker,
        publish: settings.publish,
        timeouts: Arc::clone(&timeouts),
        drain_settle: settings.drain.settle,
        consuming: links.consuming.clone(),
        publisher: Publisher::new(links.publishing.clone(), channels, Arc::clone(&timeouts)),
        backoff: Reconnect::new(&broker.reconnect),
        signals: plan.signals,
        by_handlers: Arc::new(SharedByHandlers {
            state,
            extensions: plan.extensions,
        }),
        runtime: plan.handlers,
        drain: calls.drain.clone(),
        hard_stop: calls.hard_stop.clone(),
    };
    let handlers = Handlers::new(&plan.dispatch, &settings.consumers, common.runtime.clone());
    if let Err(error) = handlers.start().await {
        links.close(timeouts.close).await;
        return Err(error);
    }
    let (lanes, observed, starts) = common.lanes(settings.consumers, plan.dispatch, calls.lanes);
    let signals = plan.signals;
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
    let grace = end_grace(
        calls.drain.clone(),
        calls.hard_stop,
        settings.drain.grace,
        Arc::clone(&drain_began),
    );
    let grace = tokio::spawn(grace);
    let failed = check_start(starts, broker.fail_fast, &calls.drain).await;
    let lanes = collect(lanes).await;
    grace.abort();
    handlers.stop().await;
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

    /// Closes both.
    async fn close(self, limit: Duration) {
        self.stop.cancel();
        // Each supervisor bounds its own close; this is for one that is in the middle of connecting.
        let _ = timeout(limit * 2, join_all(self.ended)).await;
    }
}

/// What all lanes of a worker share.
struct Common {
    worker: Arc<str>,
    publish: PublishSettings,
    timeouts: Arc<TimeoutSettings>,
    drain_settle: Duration,
    consuming: Link,
    publisher: Publisher,
    backoff: Reconnect,
    signals: Signals,
    by_handlers: Arc<SharedByHandlers>,
    runtime: Handle,
    drain: CancellationToken,
    hard_stop: CancellationToken,
}

impl Common {
    /// Starts the lanes; how they are observed, and where they tell how that went.
    fn lanes(
        &self,
        consumers: BTreeMap<String, ConsumerSettings>,
        mut dispatch: HashMap<String, Dispatch>,
        mut calls: BTreeMap<String, LaneCalls>,
    ) -> (Lanes, Vec<ObservedLane>, Started) {
        let (started, starts) = mpsc::unbounded_channel();
        let mut lanes = JoinSet::new();
        let mut observed = Vec::new();
        for (name, consumer) in consumers {
            let Some(call) = calls.remove(&name) else {
                continue;
            };
            let dispatch = dispatch.remove(&name).unwrap_or_default();
            let (lane, seen) = self.lane(&name, consumer, dispatch, call, started.clone());
            observed.push(seen);
            lanes.spawn(async move { (name, lane.run().await) });
        }
        (lanes, observed, starts)
    }

    /// A lane, and how it is observed.
    fn lane(
        &self,
        name: &str,
        settings: ConsumerSettings,
        dispatch: Dispatch,
        call: LaneCalls,
        started: Starts,
    ) -> (Lane, ObservedLane) {
        let prefetch = settings.prefetch;
        let shared = LaneShared::new(LaneParts {
            name: name.into(),
            worker: Arc::clone(&self.worker),
            settings,
            publish: self.publish.clone(),
            timeouts: Arc::clone(&self.timeouts),
            drain_settle: self.drain_settle,
            dispatch,
            publisher: self.publisher.clone(),
            signals: self.signals,
            vitals: call.vitals,
            by_handlers: Arc::clone(&self.by_handlers),
            runtime: self.runtime.clone(),
            drain: self.drain.clone(),
            hard_stop: self.hard_stop.clone(),
        });
        let observed = ObservedLane {
            name: Arc::clone(&shared.name),
            queue: Arc::clone(&shared.queue),
            prefetch,
            stats: Arc::clone(&shared.stats),
            health: call.health.subscribe(),
        };
        let channels = LaneChannels {
            commands: call.commands,
            health: call.health,
            started,
        };
        let backoff = self.backoff.clone();
        let lane = Lane::new(shared, self.consuming.clone(), channels, backoff);
        (lane, observed)
    }
}

/// The lanes that run, with their names.
type Lanes = JoinSet<(String, LaneReport)>;
/// Where lanes tell how their attempts to subscribe went, each up to its first success.
type Starts = mpsc::UnboundedSender<(String, Result<(), BrokerError>)>;
/// How they went.
type Started = mpsc::UnboundedReceiver<(String, Result<(), BrokerError>)>;

/// Looks at how the lanes' first subscriptions go, until a drain begins. An attempt that can never
/// succeed, or any that fails with `fail_fast`, ends the worker.
async fn check_start(
    mut starts: Started,
    fail_fast: bool,
    drain: &CancellationToken,
) -> Option<RunError> {
    loop {
        let (consumer, result) = tokio::select! {
            start = starts.recv() => start?,
            () = drain.cancelled() => return None,
        };
        let Err(error) = result else { continue };
        if fail_fast || matches!(error, BrokerError::Topology(_)) {
            drain.cancel();
            return Some(RunError::Broker { consumer, error });
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

/// Notes when the drain begins, and ends its grace when its time is up.
async fn end_grace(
    drain: CancellationToken,
    hard_stop: CancellationToken,
    grace: Duration,
    began: Arc<OnceLock<Instant>>,
) {
    drain.cancelled().await;
    began.get_or_init(Instant::now);
    tokio::select! {
        () = tokio::time::sleep(grace) => hard_stop.cancel(),
        () = hard_stop.cancelled() => {}
    }
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
