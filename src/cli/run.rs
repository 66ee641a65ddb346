//! `lapwing run`

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use lapwing::{RunError, Worker, WorkerHandle, admin::Server, config::Settings, telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::{ConfigFile, EXIT_CONFIG, EXIT_LEFT, EXIT_UNAVAILABLE};

/// Runs the worker until it has drained: exit code 0, or 3 when deliveries were left unsettled, 69
/// when the broker cannot be used, 78 when the configuration cannot work or an address of the admin
/// server is taken.
pub(super) fn run(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let settings = file.load()?;
    settings.require_consumers()?;
    settings.require_handlers()?;
    let telemetry = telemetry::start(&settings.log)?;
    let flush = settings.timeouts.telemetry_flush;
    for warning in settings.warnings() {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let code = runtime
        .block_on(work(settings))
        .context("failed to listen to signals");
    // A handler that blocks its thread must not keep the process.
    runtime.shutdown_background();
    telemetry.flush(flush);
    code
}

async fn work(settings: Settings) -> std::io::Result<ExitCode> {
    let signals = Signals::listen()?;
    let worker = Worker::new(settings.clone());
    // Before the worker, so that whoever asks is answered while it starts; and until its drain is
    // over.
    let server = match Server::start(&settings, worker.handle(), Arc::new(String::new)) {
        Ok(server) => server,
        Err(error) => {
            error!(%error, "cannot run");
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let shutdown = shutdown_then_hurry(worker.handle(), signals);
    let ended = worker.run(shutdown).await;
    server.stop().await;
    let code = match ended {
        Ok(report) => {
            let (ledger, left) = (report.ledger(), report.left());
            info!(
                received = ledger.received,
                acked = ledger.acked,
                parked = ledger.parked,
                dead_lettered = ledger.dead_lettered,
                returned = ledger.returned,
                stale = ledger.stale,
                dropped = ledger.dropped,
                duplicates = ledger.duplicates,
                left,
                "drained",
            );
            match left {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::from(EXIT_LEFT),
            }
        }
        Err(error) => {
            error!(%error, "cannot run");
            match error {
                RunError::Broker { error, .. } if !error.needs_people() => {
                    ExitCode::from(EXIT_UNAVAILABLE)
                }
                RunError::Thread(_) => ExitCode::FAILURE,
                _ => ExitCode::from(EXIT_CONFIG),
            }
        }
    };
    Ok(code)
}

/// Ends at the first SIGTERM or SIGINT; a second one skips the wait for running handlers. Both are
/// listened to from the beginning, so that none falls between.
async fn shutdown_then_hurry(handle: WorkerHandle, mut signals: Signals) {
    signals.next().await;
    info!("waiting for running handlers; a second signal stops them");
    tokio::spawn(async move {
        signals.next().await;
        warn!("not waiting any longer");
        handle.stop_now();
    });
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => info!(signal = "SIGTERM", "stopping"),
            _ = self.interrupt.recv() => info!(signal = "SIGINT", "stopping"),
        }
    }
}
