//! `lapwing publish`

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, IsTerminal},
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lapwing::{
    broker::{Client, NewMessage, PublishError},
    config::Settings,
    telemetry,
};
use tokio::time::{Instant, sleep_until};

use super::{ConfigFile, say};

/// Publish messages, persistent and mandatory, and wait for the broker to confirm each.
#[derive(Args)]
#[command(group = ArgGroup::new("target").required(true).args(["queue", "exchange"]))]
pub(super) struct Publish {
    #[command(flatten)]
    config: ConfigFile,
    /// The message's body; absent: standard input or --file, one JSON document a line
    body: Option<String>,
    /// Read the bodies from this file, one JSON document a line (`-`: standard input)
    #[arg(long, short, value_name = "FILE", conflicts_with = "body")]
    file: Option<PathBuf>,
    /// Publish to this queue, through the default exchange
    #[arg(long, short, conflicts_with = "routing_key")]
    queue: Option<String>,
    /// Publish to this exchange
    #[arg(long, short)]
    exchange: Option<String>,
    /// With this routing key
    #[arg(long, short = 'k', requires = "exchange", default_value = "")]
    routing_key: String,
    /// Publish each body this many times
    #[arg(long, short = 'n', default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Messages a second at the most
    #[arg(long, short)]
    rate: Option<f64>,
    /// A header, as text; can be repeated
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// The `type` property
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    message_type: Option<String>,
    /// The `content-type` property
    #[arg(long, default_value = "application/json")]
    content_type: String,
    /// The `message-id` property; absent: a new UUID for each message
    #[arg(long)]
    message_id: Option<String>,
}

/// Publishes that are under way at a time, each on a channel of its own.
const CHANNELS: usize = 64;
/// The lowest rate: one message in eleven days. Far lower ones overflow the clock.
const SLOWEST: f64 = 1e-6;
/// A run of fewer messages shows no progress.
const LONG_RUN: u64 = 1000;

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    match name.len() {
        1..=255 => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a header's name has 1 to 255 bytes".to_owned()),
    }
}

/// How a run went.
#[derive(Default)]
struct Tally {
    confirmed: u64,
    /// Errors, and how often each came.
    failed: BTreeMap<String, u64>,
}

impl Publish {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.check()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let settings = self.config.load()?;
        let telemetry = telemetry::start_quietly(&settings)?;
        let tally = runtime.block_on(self.publish(&settings));
        // A read from a terminal cannot be interrupted.
        runtime.shutdown_background();
        telemetry.close(std::time::Instant::now() + settings.timeouts.telemetry_flush);
        let tally = tally?;
        let failed: u64 = tally.failed.values().sum();
        if failed == 0 {
            say(format_args!("{} confirmed", tally.confirmed));
            return Ok(ExitCode::SUCCESS);
        }
        say(format_args!(
            "{} confirmed, {failed} not confirmed:",
            tally.confirmed
        ));
        for (error, count) in &tally.failed {
            say(format_args!("  {count} × {error}"));
        }
        Ok(ExitCode::FAILURE)
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

    async fn publish(&self, settings: &Settings) -> anyhow::Result<Tally> {
        let (client, closed) = Client::connect(settings, CHANNELS)
            .await
            .context("failed to connect to the broker")?;
        let tally = self.publish_all(&client).await;
        client.close();
        closed.await.context("failed to close the connection")?;
        tally
    }

    async fn publish_all(&self, client: &Client) -> anyhow::Result<Tally> {
        let total = self.body.as_ref().map(|_| self.count);
        let progress = progress_bar(total);
        let mut bodies = self.bodies();
        let mut tally = Tally::default();
        let mut under_way = FuturesUnordered::new();
        let (started, mut sent) = (Instant::now(), 0u32);
        loop {
            let next = tally.while_waiting(bodies.recv(), &mut under_way, &progress);
            let Some(body) = next.await else { break };
            let body = body?;
            for _ in 0..self.count {
                if let Some(rate) = self.rate {
                    let due = Duration::from_secs_f64(f64::from(sent) / rate);
                    let wait = sleep_until(started + due);
                    tally.while_waiting(wait, &mut under_way, &progress).await;
                }
                sent = sent.saturating_add(1);
                while under_way.len() >= CHANNELS {
                    tally.count(under_way.next().await, &progress);
                }
                let message = self.message(&body);
                under_way.push(async move { client.publish(&message).await });
            }
        }
        while let Some(result) = under_way.next().await {
            tally.count(Some(result), &progress);
        }
        progress.finish_and_clear();
        Ok(tally)
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
        }
    }

    /// The bodies, read on a thread of its own and no faster than they are published.
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

type Lines = Box<dyn Iterator<Item = anyhow::Result<Vec<u8>>>>;

/// The lines of a file that are not empty.
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

impl Tally {
    /// Waits for `wanted`. Publishes go on meanwhile: nothing else drives them.
    async fn while_waiting<T>(
        &mut self,
        wanted: impl Future<Output = T>,
        under_way: &mut FuturesUnordered<impl Future<Output = Result<(), PublishError>>>,
        progress: &ProgressBar,
    ) -> T {
        let mut wanted = pin!(wanted);
        loop {
            tokio::select! {
                Some(result) = under_way.next() => self.count(Some(result), progress),
                wanted = &mut wanted => return wanted,
            }
        }
    }

    fn count(&mut self, result: Option<Result<(), PublishError>>, progress: &ProgressBar) {
        match result {
            Some(Ok(())) => self.confirmed += 1,
            Some(Err(error)) => *self.failed.entry(error.to_string()).or_default() += 1,
            None => return,
        }
        progress.inc(1);
    }
}

/// A bar for a long run on a terminal, a counter where the length is not known.
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
