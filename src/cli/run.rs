//! `lapwing run`

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use lapwing::{
    EndWhen, Report, RunError, Settings, Worker, WorkerHandle,
    admin::{Server, ServerError},
    doctor::{self, Grade, Surroundings},
    kubernetes,
    settings::Schedule,
    telemetry::{self, Telemetry},
};
use tracing::{error, info, warn};

use super::{
    ConfigFile, EXIT_CONFIG, EXIT_CUT_OFF, EXIT_LEFT, EXIT_UNAVAILABLE, descriptors,
    signals::{Caught, Signals},
};

pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0   the worker drained, and every delivery is settled
  1   any other error
  3   the worker drained, but some deliveries are not settled, or the broker has not shown that it
      has their acks; it redelivers them
  4   the worker drained, but it cancelled handlers at drain.grace or at a second signal; their
      messages are back in their queues, and run again
  69  the broker cannot be reached, and broker.fail_fast is set
  78  configuration error: invalid settings, existing queues that differ from them, a handler that
      does not start, or an address of the admin server that this machine does not have. With
      broker.fail_fast also: the broker refuses the password, the virtual host or a permission.
      Restarting does not help

Codes 0, 3 and 4 follow a signal or a limit only. For systemd: SuccessExitStatus=3 4

On SIGTERM or Ctrl-C the worker takes no new messages and waits for running handlers, at most
drain.grace. A second signal cancels them and returns their messages. At a limit (--until-empty,
--until-ready, --max-messages, --max-time) the worker drains as at SIGTERM. The last line of the log
says in `ended_by` what ended the worker: `signal`, or the name of the limit.";

#[derive(Args)]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
    /// End when the queues have delivered nothing for 5 s and nothing is in flight. Retries that wait at
    /// the broker do not count
    #[arg(long)]
    until_empty: bool,
    /// End when every consumer has subscribed, so that all queues exist
    #[arg(long)]
    until_ready: bool,
    /// End after this many messages. Handlers that run then finish too, so there can be more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_messages: Option<u64>,
    /// End after this time, such as 90s or 6h
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_time: Option<Duration>,
}

impl Run {
    /// Runs the worker until it has drained. Returns one of [`EXIT_CODES`].
    pub(super) fn run(self, caught: Caught) -> anyhow::Result<ExitCode> {
        let when = EndWhen {
            ready: self.until_ready,
            empty: self.until_empty,
            messages: self.max_messages,
            time: self.max_time,
        };
        run(&self.file, when, caught)
    }
}

fn run(file: &ConfigFile, when: EndWhen, caught: Caught) -> anyhow::Result<ExitCode> {
    let settings = file.load()?;
    settings.require_consumers()?;
    settings.require_handlers()?;
    let mut telemetry = telemetry::start(&settings)?;
    let flush = settings.timeouts.telemetry_flush;
    tell_findings(&settings);
    tell_start(file, &settings);
    for (
        consumer,
        Schedule {
            summary, delays, ..
        },
    ) in settings.retry_schedules()
    {
        info!(
            consumer,
            delays, "a message that keeps failing has {summary}"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let ended_by = OnceLock::new();
    let ended = runtime.block_on(work(settings, &telemetry, caught, when, &ended_by))?;
    // A handler that blocks its thread must not keep the process alive.
    runtime.shutdown_background();
    let until = Instant::now() + flush;
    telemetry.flush(until);
    // The ledger is the last line.
    telemetry.silence_others();
    let code = tell(&ended, ended_by.get().copied().unwrap_or_default());
    telemetry.close(until);
    Ok(code)
}

/// Logs what the doctor finds without asking anybody.
fn tell_findings(settings: &Settings) {
    let around = Surroundings {
        open_files: descriptors::raise(),
        ..Surroundings::here()
    };
    for finding in doctor::at_start(settings, &around) {
        match finding.grade {
            Grade::Fail => error!(check = finding.check, "{finding}"),
            _ => warn!(check = finding.check, "{finding}"),
        }
    }
}

/// Logs which worker this is.
fn tell_start(file: &ConfigFile, settings: &Settings) {
    let config = file
        .config
        .as_deref()
        .map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    let broker = match &settings.broker.url_file {
        Some(file) => format!("as {} says", file.display()),
        None => settings.broker.url.places(),
    };
    let names: Vec<&str> = settings.consumers.keys().map(String::as_str).collect();
    let (version, consumers) = (env!("CARGO_PKG_VERSION"), names.join(", "));
    info!(config, consumers, broker, "lapwing {version}");
}

/// The reason why the worker could not run.
enum CannotRun {
    Admin(ServerError),
    Worker(RunError),
}

async fn work(
    settings: Settings,
    telemetry: &Telemetry,
    caught: Caught,
    when: EndWhen,
    ended_by: &OnceLock<&'static str>,
) -> anyhow::Result<Result<Report, CannotRun>> {
    let signals = caught.listen().context("failed to listen to signals")?;
    let worker = Worker::new(settings.clone()).observe(telemetry.signals());
    // The server starts before the worker and ends after the drain, so probes get an answer all the
    // time.
    let scrape = telemetry.scrape();
    let scrape = Arc::new(move || scrape.text());
    let server = match Server::start(&settings, worker.handle(), scrape) {
        Ok(server) => server,
        Err(error) => return Ok(Err(CannotRun::Admin(error))),
    };
    // This task ends with the runtime.
    let told = kubernetes::keep(worker.handle(), settings.pod_deletion_cost.clone());
    tokio::spawn(told);
    let shutdown = shutdown_then_hurry(worker.handle(), signals, when, ended_by);
    let ended = worker.run(shutdown).await;
    server.stop().await;
    Ok(ended.map_err(CannotRun::Worker))
}

/// Logs the result, and returns the exit code.
fn tell(ended: &Result<Report, CannotRun>, ended_by: &str) -> ExitCode {
    let report = match ended {
        Ok(report) => report,
        Err(CannotRun::Admin(error)) => {
            error!(%error, "cannot run");
            return ExitCode::from(EXIT_CONFIG);
        }
        Err(CannotRun::Worker(error)) => {
            for error in error.lines() {
                error!(error, "cannot run");
            }
            return match error {
                RunError::Broker { error, .. } if !error.needs_people() => {
                    ExitCode::from(EXIT_UNAVAILABLE)
                }
                RunError::Thread(_) => ExitCode::FAILURE,
                _ => ExitCode::from(EXIT_CONFIG),
            };
        }
    };
    let (ledger, left, cut_off) = (report.ledger(), report.left(), report.cut_off());
    info!(
        received = ledger.received,
        acked = ledger.acked,
        parked = ledger.parked,
        dead_lettered = ledger.dead_lettered,
        returned = ledger.returned,
        copied = ledger.copied,
        stale = ledger.stale,
        dropped = ledger.dropped,
        duplicates = ledger.duplicates,
        left,
        cut_off,
        ended_by,
        "drained",
    );
    match (left, cut_off) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(EXIT_CUT_OFF),
        _ => ExitCode::from(EXIT_LEFT),
    }
}

/// Ends at the first signal, or at a limit. A further signal cancels running handlers.
async fn shutdown_then_hurry(
    handle: WorkerHandle,
    mut signals: Signals,
    when: EndWhen,
    ended_by: &OnceLock<&'static str>,
) {
    let by = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, "stopping");
            "signal"
        }
        limit = handle.end_of_work(&when) => {
            info!(limit = limit.name(), "stopping");
            limit.name()
        }
    };
    // This runs once.
    let _ = ended_by.set(by);
    info!("waiting for running handlers; a second signal cancels them");
    tokio::spawn(async move {
        let signal = signals.next().await;
        info!(signal, "stopping");
        warn!("cancelling running handlers");
        handle.stop_now();
    });
}
