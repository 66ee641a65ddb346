//! `lapwing publish`

mod under_way;

use std::{
    io::{BufRead, BufReader, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lapwing::{
    Client, NewMessage, Settings,
    telemetry::{self, TelemetrySetup},
};
use tokio::time::{Instant, sleep_until};

use super::{
    ConfigFile, say,
    signals::{Caught, Signals},
};
use under_way::{Cut, Tally, UnderWay};

/// Publish messages (persistent, mandatory), and wait until the broker confirms each one.
#[derive(Args)]
#[command(group = ArgGroup::new("target").required(true).args(["queue", "exchange"]))]
#[command(after_help = EXIT_CODES)]
pub(super) struct Publish {
    #[command(flatten)]
    config: ConfigFile,
    /// Body of the message; without it, bodies come from --file or standard input, one JSON document
    /// per line
    body: Option<String>,
    /// Read the bodies from this file, one JSON document per line (`-`: standard input)
    #[arg(long, short, value_name = "FILE", conflicts_with = "body")]
    file: Option<PathBuf>,
    /// Publish to this queue, through the default exchange
    #[arg(long, short, conflicts_with = "routing_key")]
    queue: Option<String>,
    /// Publish to this exchange
    #[arg(long, short)]
    exchange: Option<String>,
    /// Routing key for the exchange
    #[arg(long, short = 'k', requires = "exchange", default_value = "")]
    routing_key: String,
    /// Publish each body this many times
    #[arg(long, short = 'n', default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// The most messages per second [default: no limit]
    #[arg(long, short)]
    rate: Option<f64>,
    /// Header with a text value; can be repeated
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// `type` property
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    message_type: Option<String>,
    /// `content-type` property
    #[arg(long, default_value = "application/json")]
    content_type: String,
    /// `message-id` property [default: a new UUID for each message]
    #[arg(long)]
    message_id: Option<String>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   the broker confirmed every message
  1   a message was not confirmed, the broker could not be used, or a signal interrupted publishing
      (even if everything published so far was confirmed)
  2   wrong arguments
  78  configuration error

SIGTERM or Ctrl-C stops publishing and waits up to 2 s for outstanding confirms. A second signal
ends the wait.";

/// The most publishes at a time, each on its own channel.
const CHANNELS: usize = 64;
/// The lowest rate, in messages per second: one message in eleven days. Far lower rates overflow the
/// clock.
const SLOWEST: f64 = 1e-6;
/// The progress bar is shown for this many messages or more.
const LONG_RUN: u64 = 1000;

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    match name.len() {
        1..=255 => Ok((name.to_owned(), value.to_owned())),
        _ => Err("the name of a header must have 1 to 255 bytes".to_owned()),
    }
}

impl Publish {
    pub(super) fn run(self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.check()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let settings = self.config.load()?;
        // A publisher is another service than the worker whose configuration it shares: traces then show
        // which of the two did what.
        let mut setup = TelemetrySetup::from(&settings);
        setup.telemetry.service_name.push_str("-publish");
        let telemetry = telemetry::start_quietly(setup)?;
        let tally = runtime.block_on(self.publish(&settings, caught));
        // A read from a terminal cannot be interrupted.
        runtime.shutdown_background();
        telemetry.close(std::time::Instant::now() + settings.timeouts.telemetry_flush);
        let tally = tally?;
        Ok(tell(&tally))
    }

    fn check(&self) -> anyhow::Result<()> {
        let rate_is_fine = |rate: f64| rate.is_finite() && rate >= SLOWEST;
        anyhow::ensure!(
            self.rate.is_none_or(rate_is_fine),
            "--rate must be at least {SLOWEST}"
        );
        let texts = [
            ("--queue", self.queue.as_deref()),
            ("--exchange", self.exchange.as_deref()),
            ("--routing-key", Some(self.routing_key.as_str())),
            ("--type", self.message_type.as_deref()),
            ("--content-type", Some(self.content_type.as_str())),
            ("--message-id", self.message_id.as_deref()),
        ];
        for (name, text) in texts {
            if text.is_some_and(|text| text.len() > 255) {
                bail!("{name} has more than 255 bytes");
            }
        }
        anyhow::ensure!(self.queue.as_deref() != Some(""), "--queue is empty");
        Ok(())
    }

    async fn publish(&self, settings: &Settings, caught: Caught) -> anyhow::Result<Tally> {
        let mut signals = caught.listen().context("failed to listen to signals")?;
        let connected = tokio::select! {
            connected = Client::connect(settings, CHANNELS) => connected,
            signal = signals.next() => return Ok(Tally::stopped(signal)),
        };
        let (client, closed) = connected.context("failed to connect to the broker")?;
        let tally = self.publish_all(&client, &mut signals).await;
        client.close();
        tokio::select! {
            closed = closed => closed.context("failed to close the connection")?,
            // All confirms are counted already: a signal may skip the close.
            _ = signals.next() => {}
        }
        tally
    }

    async fn publish_all(&self, client: &Client, signals: &mut Signals) -> anyhow::Result<Tally> {
        let total = self.body.as_ref().map(|_| self.count);
        let mut bodies = self.bodies();
        let mut under_way = UnderWay::new(client, signals, progress_bar(total));
        let (started, mut sent) = (Instant::now(), 0u32);
        let publish_each = async {
            while let Some(body) = under_way.while_waiting(bodies.recv()).await? {
                let body = body.map_err(Cut::Body)?;
                for _ in 0..self.count {
                    if let Some(rate) = self.rate {
                        let due = Duration::from_secs_f64(f64::from(sent) / rate);
                        under_way.while_waiting(sleep_until(started + due)).await?;
                    }
                    sent = sent.saturating_add(1);
                    under_way.publish(self.message(&body)).await?;
                }
            }
            under_way.all().await
        };
        let ended = publish_each.await;
        under_way.end(ended).await
    }

    fn message(&self, body: &[u8]) -> NewMessage {
        NewMessage {
            exchange: self.exchange.clone().unwrap_or_default(),
            routing_key: self
                .queue
                .clone()
                .unwrap_or_else(|| self.routing_key.clone()),
            body: body.to_vec(),
            message_id: self.message_id.clone(),
            content_type: Some(self.content_type.clone()),
            message_type: self.message_type.clone(),
            headers: self.header.clone(),
            ..NewMessage::default()
        }
    }

    /// The bodies. A separate thread reads them, no faster than they are published.
    fn bodies(&self) -> tokio::sync::mpsc::Receiver<anyhow::Result<Vec<u8>>> {
        let (sender, bodies) = tokio::sync::mpsc::channel(CHANNELS);
        let (body, file) = (self.body.clone(), self.file.clone());
        tokio::task::spawn_blocking(move || {
            if let Some(body) = body {
                return drop(sender.blocking_send(Ok(body.into_bytes())));
            }
            let lines = lines(file.as_deref().unwrap_or(Path::new("-")));
            let lines = lines.unwrap_or_else(|error| Box::new(std::iter::once(Err(error))));
            for line in lines {
                let failed = line.is_err();
                if sender.blocking_send(line).is_err() || failed {
                    return;
                }
            }
        });
        bodies
    }
}

/// Prints the result, and returns the exit code.
fn tell(tally: &Tally) -> ExitCode {
    let (confirmed, failed) = (tally.confirmed, tally.failed.values().sum::<u64>());
    if failed == 0 && tally.stopped.is_none() {
        say(format_args!("{confirmed} confirmed"));
        return ExitCode::SUCCESS;
    }
    let colon = if failed == 0 { "" } else { ":" };
    say(format_args!(
        "{confirmed} confirmed, {failed} not confirmed{colon}"
    ));
    for (error, count) in &tally.failed {
        say(format_args!("  {count} × {error}"));
    }
    ExitCode::FAILURE
}

type Lines = Box<dyn Iterator<Item = anyhow::Result<Vec<u8>>>>;

/// The lines of a file, without empty ones.
fn lines(file: &Path) -> anyhow::Result<Lines> {
    let source: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let open = std::fs::File::open(file);
        Box::new(BufReader::new(
            open.with_context(|| format!("failed to open {}", file.display()))?,
        ))
    };
    let name = file.display().to_string();
    let lines = source
        .split(b'\n')
        .map(move |line| line.with_context(|| format!("failed to read {name}")))
        .map(|line| line.map(|line| line.trim_ascii().to_vec()))
        .filter(|line| !matches!(line, Ok(line) if line.is_empty()));
    Ok(Box::new(lines))
}

/// The progress on a terminal: a bar for many messages, a counter if their number is unknown.
fn progress_bar(total: Option<u64>) -> ProgressBar {
    let quiet = !std::io::stderr().is_terminal() || total.is_some_and(|total| total < LONG_RUN);
    let target = match quiet {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(total, target);
    let template = match total {
        Some(_) => "{bar:30} {human_pos}/{human_len} {per_sec} {eta}",
        None => "{spinner} {human_pos} {per_sec}",
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the templates above are valid"))
}
