//! Assembles a worker: makes its lanes and what they share, runs them, and collects their reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    Report, RunError, WorkerSettings,
    handle::{Calls, FirstAttempt},
    lifecycle::Lifecycle,
};
use crate::{
    broker::{Broker, BrokerError, Difference, Redial},
    clock,
    consumer::ConsumerSettings,
    flight::{Extensions, Resources, SCOPE},
    lane::{LaneActor, LaneChannels},
    path::{Dispatch, Ends, Handlers, Lane, Live, RateLimit, Service, StartQueue, reading_permits},
    state::StateHandle,
    status::{ConsumerReport, ConsumerReports, Figures},
    telemetry::{self, Observed, ObservedConsumer, Signals, Watch},
};

/// How long a start that is refused for the queues of one consumer waits for the answers about the
/// queues of the others, so that people can mend everything at once.
const OTHER_REFUSALS: Duration = Duration::from_secs(2);

/// The parts of a worker before it runs.
pub(super) struct Setup {
    pub(super) settings: WorkerSettings,
    pub(super) handlers: BTreeMap<String, Handlers>,
    pub(super) extensions: Extensions,
    pub(super) calls: Calls,
    pub(super) signals: Signals,
    /// The runtime on which handlers run.
    pub(super) runtime: Handle,
}

impl Setup {
    /// Runs the lanes on the current runtime until a drain is over.
    pub(super) async fn run<B: Broker>(
        self,
        broker: B,
        state: StateHandle,
    ) -> Result<Report, RunError> {
        let Self {
            mut settings,
            handlers,
            extensions,
            calls,
            signals,
            runtime,
        } = self;
        let mut consumers = mem::take(&mut settings.consumers);
        settings.memory.share(&mut consumers);
        let lifecycle = Lifecycle::new(&handlers, &consumers, runtime.clone());
        tokio::select! {
            biased;
            started = lifecycle.start() => started?,
            // The worker stops already. The lanes drain at once, and then the handlers are stopped.
            () = calls.drain.cancelled() => {}
        }
        let mailbox = state.gauge();
        let publishing = calls.publishing.subscribe();
        let watching = tokio::spawn(broker.clone().watch_publishing(calls.publishing));
        let common = Common {
            worker: settings.broker.worker_name().into(),
            broker,
            resources: Arc::new(Resources {
                state,
                extensions,
                drain: calls.drain.clone(),
            }),
            drain: calls.drain,
            hard_stop: calls.hard_stop,
            signals,
            runtime,
            reports: Arc::new(Semaphore::new(1)),
            readings: reading_permits(),
            settings,
        };
        let names: BTreeSet<String> = consumers.keys().cloned().collect();
        let (lanes, observed) = common.start_lanes(consumers, handlers, calls.consumers);
        let meter = signals.metrics.then(|| opentelemetry::global::meter(SCOPE));
        if let Some(meter) = &meter {
            let observed = Observed {
                consumers: observed,
                publishing,
                mailbox,
            };
            telemetry::observe(meter, observed);
        }

        let drain_began = Arc::<OnceLock<Instant>>::default();
        let grace = common.end_grace(Arc::clone(&drain_began), calls.drain_ends);
        let grace = tokio::spawn(grace);
        let failed = common
            .watch_first_attempts(calls.first_attempts, names)
            .await;
        let lanes = collect(lanes).await;
        grace.abort();
        watching.abort();
        lifecycle.stop().await;
        if let (Some(meter), Some(since)) = (&meter, drain_began.get()) {
            telemetry::drained(meter, since.elapsed());
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Report { consumers: lanes }),
        }
    }
}

/// The parts that all lanes of a worker share.
struct Common<B> {
    /// The settings, without the consumers.
    settings: WorkerSettings,
    worker: Arc<str>,
    broker: B,
    resources: Arc<Resources>,
    signals: Signals,
    runtime: Handle,
    drain: CancellationToken,
    hard_stop: CancellationToken,
    reports: Arc<Semaphore>,
    /// The permits for reading long bodies.
    readings: Arc<Semaphore>,
}

/// The lanes that run, with their names.
type Lanes = JoinSet<(String, ConsumerReport)>;

impl<B: Broker> Common<B> {
    /// Starts the lanes. Returns them, and what telemetry observes of each.
    fn start_lanes(
        &self,
        consumers: BTreeMap<String, ConsumerSettings>,
        mut handlers: BTreeMap<String, Handlers>,
        mut calls: BTreeMap<String, (LaneChannels, Arc<Figures>)>,
    ) -> (Lanes, Vec<ObservedConsumer>) {
        let mut lanes = JoinSet::new();
        let mut observed = Vec::new();
        for (name, consumer) in consumers {
            let Some((channels, figures)) = calls.remove(&name) else {
                continue;
            };
            let handlers = handlers.remove(&name).unwrap_or_default();
            let lane = Arc::new(self.lane(&name, consumer, handlers, figures));
            observed.push(ObservedConsumer {
                name: Arc::clone(&lane.name),
                queue: Arc::clone(&lane.queue),
                figures: Arc::clone(&lane.watch.figures),
                health: channels.health.subscribe(),
            });
            let backoff = Redial::new(&self.settings.broker.reconnect);
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
        figures: Arc<Figures>,
    ) -> Lane<B> {
        let name: Arc<str> = name.into();
        let queue: Arc<str> = settings.queue.as_str().into();
        let ladder = settings.ladder();
        let rate = RateLimit::of(&settings);
        let starts = StartQueue::new(Arc::clone(&figures.slots), rate);
        let dispatch = Dispatch::new(handlers, &settings);
        figures.set_routes(dispatch.route_figures().to_vec());
        Lane {
            watch: Watch::new(figures, self.signals, &name, &queue, &self.worker),
            name,
            queue,
            worker: Arc::clone(&self.worker),
            publish: self.settings.publish.clone(),
            drain_settle: self.settings.drain.settle,
            dispatch,
            service: Service::new(&settings.breaker),
            settings,
            ladder,
            broker: self.broker.clone(),
            resources: Arc::clone(&self.resources),
            drain: self.drain.clone(),
            hard_stop: self.hard_stop.clone(),
            runtime: self.runtime.clone(),
            reports: Arc::clone(&self.reports),
            readings: Arc::clone(&self.readings),
            starts,
            ends: Ends::default(),
            live: Live::default(),
        }
    }

    /// Watches the lanes' first attempts to subscribe, until every lane has succeeded or a drain
    /// begins. A failure that no later attempt can repair begins the drain, and is returned. With
    /// `broker.fail_fast` any failure does.
    async fn watch_first_attempts(
        &self,
        mut attempts: mpsc::UnboundedReceiver<FirstAttempt>,
        mut silent: BTreeSet<String>,
    ) -> Option<RunError> {
        loop {
            let (consumer, result) = tokio::select! {
                biased;
                attempt = attempts.recv() => attempt?,
                () = self.drain.cancelled() => return None,
            };
            silent.remove(&consumer);
            match result {
                Ok(()) => {}
                Err(BrokerError::Topology(differences)) => {
                    let mut refused = BTreeMap::from([(consumer, differences)]);
                    let others = self.other_refusals(&mut attempts, silent, &mut refused);
                    let _ = timeout(OTHER_REFUSALS, others).await;
                    self.drain.cancel();
                    return Some(RunError::Queues(refused));
                }
                Err(error) if self.settings.broker.fail_fast => {
                    self.drain.cancel();
                    return Some(RunError::Broker { consumer, error });
                }
                Err(_) => {}
            }
        }
    }

    /// Adds the refusals of the consumers that are still `silent`.
    async fn other_refusals(
        &self,
        attempts: &mut mpsc::UnboundedReceiver<FirstAttempt>,
        mut silent: BTreeSet<String>,
        refused: &mut BTreeMap<String, Vec<Difference>>,
    ) {
        while !silent.is_empty() {
            let (consumer, result) = tokio::select! {
                biased;
                Some(attempt) = attempts.recv() => attempt,
                () = self.drain.cancelled() => return,
            };
            silent.remove(&consumer);
            if let Err(BrokerError::Topology(differences)) = result {
                refused.insert(consumer, differences);
            }
        }
    }

    /// Notes when the drain begins and when it ends, and begins the hard stop after `drain.grace`.
    fn end_grace(
        &self,
        began: Arc<OnceLock<Instant>>,
        ends: Arc<OnceLock<SystemTime>>,
    ) -> impl Future<Output = ()> + 'static {
        let (drain, hard_stop) = (self.drain.clone(), self.hard_stop.clone());
        let grace = self.settings.drain.grace;
        async move {
            drain.cancelled().await;
            began.get_or_init(Instant::now);
            ends.get_or_init(|| clock::now() + grace);
            tokio::select! {
                biased;
                () = hard_stop.cancelled() => {}
                () = tokio::time::sleep(grace) => {
                    warn!(?grace, "drain.grace is over: cancelling the handlers that still run");
                    hard_stop.cancel();
                }
            }
        }
    }
}

async fn collect(mut lanes: Lanes) -> ConsumerReports {
    let mut reports = ConsumerReports::new();
    while let Some(ended) = lanes.join_next().await {
        match ended {
            Ok((name, report)) => {
                reports.insert(name, report);
            }
            Err(panic) => {
                error!(error = %panic, "consumer panicked, the broker redelivers its messages")
            }
        }
    }
    reports
}
