//! The worker that `make bench` measures: the whole path (typed JSON, timeout armed, retry policy,
//! ledger), with a handler that does nothing or sleeps.
//!
//! `scripts/bench` sets the environment: `AMQP_URL`, `QUEUE`, `PREFETCH`, `CONC` (handlers at
//! once), `SLEEP_MS`, `HTTP_URL` (of a service, for the HTTP handler), `HANDLER` (settings of another
//! handler, as JSON), `CONSUMERS` (on queues `QUEUE`, `QUEUE.1`, …). `SAMPLE` is the part of traces
//! to keep, and turns telemetry on (to `OTEL_EXPORTER_OTLP_ENDPOINT`). `ADMIN` is the admin
//! server's address. `LATENCY=1` prints how long messages took to their handler.

#[path = "latency/mod.rs"]
mod latency;

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use lapwing::{
    Worker,
    admin::Server,
    handler::{HandlerSettings, HttpHandlerSettings, Json, Shared},
    settings::{BrokerUrls, ConsumerSettings, Listen, Settings, Topology},
    shutdown_signal, telemetry,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed to be measured")]
struct Work {
    id: String,
    key: String,
    n: u64,
    payload: String,
}

async fn nothing(Json(work): Json<Work>) {
    black_box(work);
}

async fn timed(Json(work): Json<Work>, times: Shared<Arc<latency::Times>>) {
    times.took(black_box(work).n);
}

async fn nap(Json(work): Json<Work>, time: Shared<Duration>) {
    black_box(work);
    tokio::time::sleep(*time).await;
}

/// The handler that the environment names, if it does.
fn configured() -> Result<Option<HandlerSettings>, serde_json::Error> {
    if let Ok(settings) = std::env::var("HANDLER") {
        return serde_json::from_str(&settings).map(Some);
    }
    let http = |url| {
        HandlerSettings::Http(HttpHandlerSettings {
            url,
            ..HttpHandlerSettings::default()
        })
    };
    Ok(std::env::var("HTTP_URL").ok().map(http))
}

fn env<T: std::str::FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queue = env("QUEUE", "bench".to_owned());
    let sleep = env("SLEEP_MS", 0);
    let configured = configured()?;
    let prefetch = env("PREFETCH", 200);
    let mut settings = Settings::default();
    let url: String = env(
        "AMQP_URL",
        "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(),
    );
    settings.broker.url = BrokerUrls::parse(&url);
    let consumers = (0..env("CONSUMERS", 1)).map(|number| match number {
        0 => ("consumer_0".to_owned(), queue.clone()),
        n => (format!("consumer_{n}"), format!("{queue}.{n}")),
    });
    for (name, queue) in consumers {
        let consumer = ConsumerSettings {
            queue,
            // `scripts/bench` has declared the queue.
            topology: Topology::Attach,
            prefetch,
            concurrency: env("CONC", prefetch).clamp(1, prefetch),
            handler: configured.clone().unwrap_or_default(),
            ..ConsumerSettings::default()
        };
        settings.consumers.insert(name, consumer);
    }
    let admin: String = env("ADMIN", "off".to_owned());
    settings.admin.listen = admin.parse().map_or(Listen::Off, Listen::At);
    let sample = std::env::var("SAMPLE").ok();
    settings.telemetry.sample = env("SAMPLE", 1.0);
    let telemetry = sample.map(|_| telemetry::start(&settings)).transpose()?;
    let signals = telemetry.as_ref().map(telemetry::Telemetry::signals);
    let names: Vec<_> = settings.consumers.keys().cloned().collect();
    let times = Arc::new(latency::Times::default());
    let mut worker = Worker::new(settings.clone())
        .share(Duration::from_millis(sleep))
        .share(Arc::clone(&times))
        .observe(signals.unwrap_or_default());
    for name in names {
        worker = match (&configured, sleep) {
            (Some(_), _) => worker,
            (None, 0) if times.are_taken() => worker.handler(&name, timed),
            (None, 0) => worker.handler(&name, nothing),
            (None, _) => worker.handler(&name, nap),
        };
    }
    let scrape = telemetry.as_ref().map(telemetry::Telemetry::scrape);
    let scrape = move || {
        scrape
            .as_ref()
            .map_or_else(String::new, telemetry::Scrape::text)
    };
    let server = Server::start(&settings, worker.handle(), Arc::new(scrape))?;
    let report = worker.run(shutdown_signal()).await?;
    times.print();
    server.stop().await;
    if let Some(telemetry) = telemetry {
        telemetry.close(Instant::now() + Duration::from_secs(2));
    }
    eprintln!("{:?}", report.ledger());
    for (name, consumer) in &report.consumers {
        eprintln!("{name}: {:?}", consumer.counts);
    }
    Ok(())
}
