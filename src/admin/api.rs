//! The routes of the server, and the state that all requests share.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Scrape, ServerSettings, archive::Archive, console, dead, error::ApiError, events, guard,
    hosts::Hosts, liveness::Liveness, message, monitor::Monitor, outcomes, pauses::Pauses, probes,
    reads, refused::Refused, views, writes,
};
use crate::{ConsumerState, Ledger, WorkerHandle, text::rfc3339};

/// The most streams of events at a time.
const STREAMS: usize = 32;

/// The state that all requests share.
pub(super) struct App {
    pub(super) worker: WorkerHandle,
    pub(super) settings: ServerSettings,
    pub(super) scrape: Scrape,
    pub(super) monitor: Monitor,
    pub(super) liveness: Liveness,
    pub(super) refused: Refused,
    pub(super) stop: CancellationToken,
    /// The broker's last answer about each consumer's retry and dead-letter queues, and its time.
    pub(super) retry_queues: BTreeMap<String, Mutex<Option<(Instant, views::RetryQueues)>>>,
    /// One permit for each long body of a request.
    pub(super) long_bodies: Semaphore,
    /// One permit for each stream of events.
    pub(super) streams: Arc<Semaphore>,
    /// The last event `state`. It is made once and shared by all streams.
    pub(super) state: watch::Sender<Arc<str>>,
    pub(super) document: OnceLock<String>,
    pub(super) dead: Arc<dead::Desks>,
    /// The failures that are kept in a file, if the settings name one.
    pub(super) archive: Option<Arc<Archive>>,
    /// Lets one search at a time read that file.
    pub(super) reading: Arc<Mutex<()>>,
    /// The pauses that outlast the process.
    pub(super) pauses: Pauses,
    pub(super) started_at: SystemTime,
    name: String,
    /// Every consumer has had its first subscription or was paused.
    started: AtomicBool,
}

impl App {
    pub(super) fn new(
        settings: ServerSettings,
        worker: WorkerHandle,
        scrape: Scrape,
        pauses: Pauses,
        stop: CancellationToken,
    ) -> Self {
        let consumers = worker.consumers().map(str::to_owned);
        let started_at = SystemTime::now();
        Self {
            archive: Archive::new(&settings.admin, started_at).map(Arc::new),
            reading: Arc::default(),
            pauses,
            retry_queues: consumers.map(|name| (name, Mutex::default())).collect(),
            worker,
            scrape,
            monitor: Monitor::default(),
            liveness: Liveness::new(&settings.worker),
            refused: Refused::default(),
            dead: Arc::new(dead::Desks::new(&settings.worker, &stop)),
            stop,
            long_bodies: Semaphore::new(dead::LONG_BODIES),
            streams: Arc::new(Semaphore::new(STREAMS)),
            state: watch::Sender::new("{}".into()),
            document: OnceLock::new(),
            name: settings.worker.broker.worker_name(),
            settings,
            started_at,
            started: AtomicBool::new(false),
        }
    }

    /// The consumers that have had no subscription yet and are not paused, and why. Once this was
    /// empty it stays empty.
    pub(super) fn note_start(&self) -> BTreeMap<String, String> {
        if self.started.load(Ordering::Relaxed) {
            return BTreeMap::new();
        }
        let mut waiting = BTreeMap::new();
        for name in self.worker.consumers() {
            let (figures, health) = (self.worker.figures(name), self.worker.health(name));
            let (Some(figures), Some(health)) = (figures, health) else {
                continue;
            };
            let has_begun = figures.counters.sessions.get() > 0;
            if !has_begun && health.state != ConsumerState::Paused {
                let why = health.reason.unwrap_or_else(|| "connecting".to_owned());
                waiting.insert(name.to_owned(), why);
            }
        }
        if waiting.is_empty() {
            self.started.store(true, Ordering::Relaxed);
        }
        waiting
    }

    /// A consumer as it is now; `None` if there is no such consumer.
    pub(super) fn consumer(&self, name: &str) -> Option<views::Consumer> {
        let (figures, health) = (self.worker.figures(name)?, self.worker.health(name)?);
        let pace = self.monitor.pace(name);
        Some(views::Consumer::new(name, figures, health, pace))
    }

    /// All consumers as they are now.
    pub(super) fn consumers(&self) -> Vec<views::Consumer> {
        let names = self.worker.consumers();
        names.filter_map(|name| self.consumer(name)).collect()
    }

    /// The worker as it is now.
    pub(super) fn worker(&self) -> views::Worker {
        let readiness = self.worker.readiness();
        let (mut totals, mut in_flight) = (Ledger::default(), 0);
        let names = self.worker.consumers();
        for report in names.filter_map(|name| self.worker.report(name).ok()) {
            totals += report.ledger;
            in_flight += report.in_flight;
        }
        views::Worker {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION"),
            started_at: rfc3339(self.started_at),
            now: rfc3339(SystemTime::now()),
            ready: readiness.ready,
            degraded: readiness.degraded,
            draining: readiness.draining,
            drain_ends_at: readiness.drain_ends_at.map(rfc3339),
            publishing: readiness.publishing,
            can_change: self.settings.admin.can_change(),
            keeps_pauses: self.settings.admin.pause_file.is_some(),
            trace_url: self.settings.admin.trace_url.clone(),
            in_flight,
            totals,
        }
    }
}

/// All routes: probes, metrics, API, console.
pub(super) fn router(app: &Arc<App>, address: SocketAddr) -> Router {
    let (router, document) = api().split_for_parts();
    // The document is set once: a second router would describe the same routes.
    let _ = app.document.set(document.to_json().unwrap_or_default());
    let guarded = guard::Guarded {
        app: Arc::clone(app),
        hosts: Hosts::new(address.ip(), &app.settings.admin),
    };
    finished(
        router
            .route("/", get(page))
            .route("/console/{*path}", get(asset))
            .with_state(Arc::clone(app)),
    )
    // The guard bounds each body.
    .layer(DefaultBodyLimit::disable())
    .layer(middleware::from_fn_with_state(guarded, guard::guard))
    .layer(middleware::map_response(guard::secure))
}

/// Only probes and metrics, for clients that may see nothing else.
pub(super) fn probes_router(app: &Arc<App>) -> Router {
    let (router, _) = probe_routes().split_for_parts();
    finished(router.with_state(Arc::clone(app)))
        .layer(middleware::from_fn(guard::bound))
        .layer(middleware::map_response(guard::secure))
}

/// The routes that the OpenAPI document describes: all except the console.
pub(super) fn api() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(probe_routes())
        .routes(routes!(reads::worker))
        .routes(routes!(reads::consumers))
        .routes(routes!(reads::consumer, writes::change))
        .routes(routes!(reads::history))
        .routes(routes!(reads::retry_queues))
        .routes(routes!(reads::in_flight))
        .routes(routes!(outcomes::outcomes))
        .routes(routes!(message::message))
        .routes(routes!(reads::config))
        .routes(routes!(reads::document))
        .routes(routes!(events::events))
        .routes(routes!(writes::pause_all))
        .routes(routes!(writes::resume_all))
        .routes(routes!(writes::pause))
        .routes(routes!(writes::resume))
        .routes(routes!(writes::cancel))
        .merge(dead::routes())
}

fn probe_routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(probes::livez))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::startupz))
        .routes(routes!(probes::metrics))
}

fn finished(router: Router) -> Router {
    let not_found = async || ApiError::new(StatusCode::NOT_FOUND, "no such page");
    let not_allowed = async || ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    router
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
}

async fn page() -> Response {
    served(&console::PAGE)
}

async fn asset(Path(path): Path<String>, State(_): State<Arc<App>>) -> Response {
    match console::asset(&path) {
        Some(asset) => served(asset),
        None => ApiError::new(StatusCode::NOT_FOUND, "no such page").into_response(),
    }
}

fn served(asset: &console::Asset) -> Response {
    ([(header::CONTENT_TYPE, asset.content_type)], asset.body).into_response()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lapwing",
        description = "The health and admin server of a Lapwing worker. Times are RFC 3339 in UTC, \
                       durations are in seconds.",
    ),
    components(schemas(views::State, views::OutcomeList)),
    modifiers(&Token)
)]
struct Document;

/// Adds the scheme of the token, which changes need, to the OpenAPI document.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = &mut document.components {
            let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
            components.add_security_scheme("token", scheme);
        }
    }
}
