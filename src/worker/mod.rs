//! A worker: starts its lanes, supervises them, and shuts them down gracefully.

mod assembly;
mod backlog;
mod container;
mod core;
mod end;
mod handle;
mod lifecycle;
mod report;
mod settings;

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use container::limit as memory_limit;
pub use end::{EndWhen, EndedBy};
pub use handle::{ConcurrencyError, WorkerHandle};
pub use report::{Report, RunError};
pub use settings::{DrainSettings, MemorySettings, WorkerSettings};

use assembly::Setup;

use crate::{
    broker::{Broker, BrokerSettings},
    config,
    consumer::{self, ConsumerSettings},
    decode::Reader,
    flight::Extensions,
    handler::{Handler, HandlerError, HandlerSettings, Inbox, IntoHandler, Requirements},
    path::Handlers,
    state,
    telemetry::Signals,
};

/// Consumes queues and runs handlers until it is stopped.
///
/// ```no_run
/// use lapwing::{Failure, Settings, Worker, handler::Json};
///
/// #[derive(serde::Deserialize)]
/// struct Order { id: u64 }
///
/// async fn ship(Json(order): Json<Order>) -> Result<(), Failure> {
///     println!("shipping {}", order.id);
///     Ok(())
/// }
///
/// # async fn run(settings: Settings) -> Result<(), lapwing::RunError> {
/// let report = Worker::new(settings)
///     .handler("orders", ship)
///     .run(lapwing::shutdown_signal())
///     .await?;
/// println!("{:?}", report.ledger());
/// # Ok(())
/// # }
/// ```
#[must_use = "a worker does nothing until it runs"]
pub struct Worker {
    settings: WorkerSettings,
    handlers: BTreeMap<String, Handlers>,
    extensions: Extensions,
    handle: WorkerHandle,
    calls: handle::Calls,
    signals: Signals,
}

impl Worker {
    /// Makes a worker with these settings. [`run`](Self::run) makes the handlers that the settings
    /// name.
    pub fn new(settings: impl Into<WorkerSettings>) -> Self {
        let settings = settings.into();
        let (handle, calls) = handle::channel(&settings);
        Self {
            settings,
            handlers: BTreeMap::new(),
            extensions: Extensions::default(),
            handle,
            calls,
            signals: Signals::default(),
        }
    }

    /// Registers a handler for the messages of a consumer. The handler replaces the configured one.
    pub fn handler<M>(mut self, consumer: &str, handler: impl IntoHandler<M>) -> Self {
        let lane = self.handlers.entry(consumer.to_owned()).or_default();
        lane.any = Some(Arc::new(handler.into_handler()));
        self.handle.set_registered(consumer);
        self
    }

    /// Registers a handler for one route of a consumer: for messages of this kind, or for those that
    /// this pattern takes ([`RouteSettings`](crate::settings::RouteSettings)). `route_by` says where the
    /// kind is read. The settings of this route, if there are any, have its timeout, retry policy and
    /// breaker. The handler replaces the one that they name.
    pub fn handler_for_route<M>(
        mut self,
        consumer: &str,
        route: &str,
        handler: impl IntoHandler<M>,
    ) -> Self {
        let lane = self.handlers.entry(consumer.to_owned()).or_default();
        let handler: Arc<dyn Handler> = Arc::new(handler.into_handler());
        lane.by_route.insert(route.to_owned(), handler);
        self
    }

    /// Gives all handlers a value, which they take as [`Shared<T>`](crate::handler::Shared).
    pub fn share<T: Send + Sync + 'static>(mut self, value: T) -> Self {
        self.extensions.insert(value);
        self
    }

    /// Makes the worker record traces and metrics. [`telemetry::start`](crate::telemetry::start)
    /// gives the signals that the settings ask for. Default: no traces and no metrics.
    pub fn observe(mut self, signals: Signals) -> Self {
        self.signals = signals;
        self
    }

    /// A handle to read and control the worker while it runs.
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Runs until `shutdown` ends, and then drains: stops consuming, lets running handlers finish
    /// within `drain.grace`, settles all deliveries, and returns a report.
    ///
    /// Handlers run on the current runtime. Connections and consumers run in a thread of their own,
    /// so a handler that blocks its thread stops neither heartbeats nor settlement. Dropping the
    /// future also begins the drain, but nobody then waits for its end.
    ///
    /// # Errors
    /// When the worker cannot start: see [`RunError`].
    pub async fn run(
        mut self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Report, RunError> {
        let memory = &mut self.settings.memory;
        if memory.prefetch_bytes.is_none() {
            memory.prefetch_bytes = container::default_budget();
            if let Some(bytes) = memory.prefetch_bytes {
                info!(
                    bytes,
                    "messages may take a quarter of the container's memory"
                );
            }
        }
        let (setup, drain) = self.setup()?;
        let _drain_when_dropped = drain.clone().drop_guard();
        let (sender, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("lapwing-core".to_owned())
            .spawn(move || {
                // A send fails when the caller has dropped its future.
                let _ = sender.send(core::run(setup));
            })
            .map_err(|error| RunError::Thread(error.to_string()))?;
        let ended = drain_at(shutdown, &drain, ended).await;
        ended.unwrap_or_else(|_| Err(RunError::Thread("it panicked".to_owned())))
    }

    /// As [`run`](Self::run), but with this broker, and entirely on the current runtime.
    pub(crate) async fn run_on(
        self,
        broker: impl Broker,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Report, RunError> {
        let (setup, drain) = self.setup()?;
        let _drain_when_dropped = drain.clone().drop_guard();
        let state = state::start(setup.settings.state.mailbox, setup.settings.timeouts.call);
        drain_at(shutdown, &drain, setup.run(broker, state)).await
    }

    /// Checks everything that can be checked before a connection is made.
    fn setup(self) -> Result<(Setup, CancellationToken), RunError> {
        config::validate(&self.settings)?;
        consumer::require(&self.settings.consumers)?;
        let setup = Setup {
            handlers: self.make_handlers()?,
            settings: self.settings,
            extensions: self.extensions,
            calls: self.calls,
            signals: self.signals,
            runtime: tokio::runtime::Handle::current(),
        };
        Ok((setup, self.handle.drain_token().clone()))
    }

    /// The handlers of each consumer. A registered handler replaces a configured one.
    fn make_handlers(&self) -> Result<BTreeMap<String, Handlers>, RunError> {
        if let Some(stray) = self
            .handlers
            .keys()
            .find(|name| !self.settings.consumers.contains_key(*name))
        {
            return Err(RunError::NoConsumer(stray.clone()));
        }
        let mut made = BTreeMap::new();
        for (name, consumer) in &self.settings.consumers {
            let failed = |error| RunError::Handler {
                consumer: name.clone(),
                error,
            };
            let make = Making::of(consumer, &self.settings.broker).map_err(failed)?;
            let registered = self.handlers.get(name).cloned().unwrap_or_default();
            let mut lane = make.around(registered);
            if lane.any.is_none() {
                lane.any = make.handler(&consumer.handler).map_err(failed)?;
            }
            for (route, settings) in &consumer.routes {
                if let Some(handler) = make.handler(&settings.handler).map_err(failed)? {
                    lane.by_route.entry(route.clone()).or_insert(handler);
                }
            }
            let has_own = |route: &String| lane.by_route.contains_key(route);
            let needs_any = lane.by_route.is_empty() || !consumer.routes.keys().all(has_own);
            if lane.any.is_none() && needs_any {
                return Err(RunError::NoHandler(name.clone()));
            }
            let reader = Reader::new(consumer.decode, &consumer.body);
            let reader = reader.map_err(|why| failed(HandlerError::new(why)))?;
            lane.reader = Some(Arc::new(reader));
            self.check_requirements(name, &lane)?;
            self.handle.ask_handlers(name, &lane);
            made.insert(name.clone(), lane);
        }
        Ok(made)
    }

    fn check_requirements(&self, consumer: &str, lane: &Handlers) -> Result<(), RunError> {
        let mut requirements = Requirements::default();
        for handler in lane.all() {
            handler.requirements(&mut requirements);
        }
        let missing = requirements
            .types
            .iter()
            .find(|(id, _)| !self.extensions.contains(*id));
        match missing {
            None => Ok(()),
            Some((_, type_name)) => Err(RunError::NotShared {
                consumer: consumer.to_owned(),
                type_name,
            }),
        }
    }
}

/// Makes the handlers of one consumer.
struct Making {
    concurrency: u16,
    inbox: Option<Arc<Inbox>>,
}

impl Making {
    fn of(consumer: &ConsumerSettings, broker: &BrokerSettings) -> Result<Self, HandlerError> {
        let longest = consumer.longest_timeout() + consumer.cancel_grace;
        let concurrency = consumer.concurrency;
        let place = || Some(format!("{}/{}", broker.vhost()?, consumer.queue));
        let inbox = Inbox::of(&consumer.idempotency, place, longest, concurrency)?;
        Ok(Self { concurrency, inbox })
    }

    /// The handler that the settings name.
    fn handler(
        &self,
        settings: &HandlerSettings,
    ) -> Result<Option<Arc<dyn Handler>>, HandlerError> {
        match &self.inbox {
            Some(inbox) => inbox.make(settings, self.concurrency),
            None => settings.make(self.concurrency),
        }
    }

    /// The handlers that were registered in code.
    fn around(&self, mut registered: Handlers) -> Handlers {
        let Some(inbox) = &self.inbox else {
            return registered;
        };
        registered.any = registered.any.map(|handler| inbox.around(handler));
        let by_route = registered.by_route.into_iter();
        registered.by_route = by_route
            .map(|(name, handler)| (name, inbox.around(handler)))
            .collect();
        registered
    }
}

/// Waits for the end of `running`. Begins the drain when `shutdown` ends.
async fn drain_at<T>(
    shutdown: impl Future<Output = ()>,
    drain: &CancellationToken,
    running: impl Future<Output = T>,
) -> T {
    let mut running = std::pin::pin!(running);
    tokio::select! {
        biased;
        ended = &mut running => ended,
        () = shutdown => {
            drain.cancel();
            running.await
        }
    }
}

/// Ends at SIGTERM, SIGINT (Ctrl-C) or SIGHUP.
///
/// # Panics
/// When called outside of a tokio runtime with I/O.
pub async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened to");
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be listened to");
    let mut hang_up = signal(SignalKind::hangup()).expect("SIGHUP can be listened to");
    tokio::select! {
        biased;
        _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
        _ = hang_up.recv() => tracing::info!(signal = "SIGHUP", "stopping"),
        _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
    }
}
