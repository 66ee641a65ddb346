//! The running publishes of `lapwing publish`, and their result.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use indicatif::ProgressBar;
use lapwing::{Client, NewMessage, broker::PublishError};
use tokio::time::sleep;

use super::CHANNELS;
use crate::cli::{say, signals::Signals};

/// The longest wait for outstanding confirms after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// The result of `lapwing publish`.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) confirmed: u64,
    /// The errors, and how often each occurred.
    pub(super) failed: BTreeMap<String, u64>,
    /// The bodies that are not the JSON that their content type promises.
    pub(super) not_json: u64,
    /// The signal that interrupted publishing, if one did.
    pub(super) stopped: Option<&'static str>,
}

impl Tally {
    /// The result if this signal comes before the first message.
    pub(super) fn stopped(signal: &'static str) -> Self {
        let mut tally = Self::default();
        tally.stop(signal);
        tally
    }

    fn stop(&mut self, signal: &'static str) {
        say(format_args!("stopped by {signal}"));
        self.stopped = Some(signal);
    }
}

/// The reason why publishing stops early.
pub(super) enum Cut {
    /// A signal, with its name.
    Signal(&'static str),
    /// The next body cannot be read.
    Body(anyhow::Error),
}

/// The running publishes.
pub(super) struct UnderWay<'a> {
    client: &'a Client,
    signals: &'a mut Signals,
    publishes: FuturesUnordered<BoxFuture<'a, Result<(), PublishError>>>,
    /// Prints a line when the broker blocks publishing, once.
    blocked: futures_util::future::Fuse<BoxFuture<'a, ()>>,
    progress: ProgressBar,
    tally: Tally,
}

impl<'a> UnderWay<'a> {
    pub(super) fn new(client: &'a Client, signals: &'a mut Signals, progress: ProgressBar) -> Self {
        let bar = progress.clone();
        let blocked = async move {
            client.blocked().await;
            bar.suspend(|| {
                say("the broker has blocked publishing (a memory or disk alarm); waiting");
            });
        };
        Self {
            client,
            signals,
            publishes: FuturesUnordered::new(),
            blocked: blocked.boxed().fuse(),
            progress,
            tally: Tally::default(),
        }
    }

    /// Notes a body that is not the JSON that its content type promises.
    pub(super) fn is_not_json(&mut self) {
        self.tally.not_json += 1;
    }

    /// Publishes a message as soon as fewer than [`CHANNELS`] publishes run.
    pub(super) async fn publish(&mut self, message: NewMessage) -> Result<(), Cut> {
        while self.publishes.len() >= CHANNELS {
            self.step().await?;
        }
        let publish = publish_unblocked(self.client, message);
        self.publishes.push(publish.boxed());
        Ok(())
    }

    /// Waits for `wanted`, and drives the running publishes meanwhile: nothing else does.
    pub(super) async fn while_waiting<T>(
        &mut self,
        wanted: impl Future<Output = T>,
    ) -> Result<T, Cut> {
        let mut wanted = pin!(wanted);
        loop {
            tokio::select! {
                step = self.step() => step?,
                wanted = &mut wanted => return Ok(wanted),
            }
        }
    }

    /// Waits until no publish runs.
    pub(super) async fn all(&mut self) -> Result<(), Cut> {
        while !self.publishes.is_empty() {
            self.step().await?;
        }
        Ok(())
    }

    /// Waits for the next event: the end of a publish, a block by the broker, or a signal.
    async fn step(&mut self) -> Result<(), Cut> {
        tokio::select! {
            Some(result) = self.publishes.next() => self.count(result),
            () = &mut self.blocked => {}
            signal = self.signals.next() => return Err(Cut::Signal(signal)),
        }
        Ok(())
    }

    fn count(&mut self, result: Result<(), PublishError>) {
        match result {
            Ok(()) => self.tally.confirmed += 1,
            Err(error) => *self.tally.failed.entry(error.to_string()).or_default() += 1,
        }
        self.progress.inc(1);
    }

    /// Ends the run, and returns its result.
    pub(super) async fn end(mut self, ended: Result<(), Cut>) -> anyhow::Result<Tally> {
        self.progress.finish_and_clear();
        match ended {
            Ok(()) => {}
            Err(Cut::Body(error)) => return Err(error),
            Err(Cut::Signal(signal)) => {
                self.tally.stop(signal);
                self.last().await;
            }
        }
        Ok(self.tally)
    }

    /// Waits up to [`GRACE`] for outstanding confirms, or until a second signal.
    async fn last(&mut self) {
        let mut too_late = pin!(sleep(GRACE));
        loop {
            tokio::select! {
                result = self.publishes.next() => match result {
                    Some(result) => self.count(result),
                    None => return,
                },
                () = &mut too_late => break,
                _ = self.signals.next() => break,
            }
        }
        let text = "no confirm before publishing stopped".to_owned();
        let left = self.publishes.len() as u64;
        self.tally.failed.insert(text, left);
    }
}

/// Publishes a message. If the broker blocks publishing because of an alarm, this waits and tries
/// again.
async fn publish_unblocked(client: &Client, message: NewMessage) -> Result<(), PublishError> {
    loop {
        match client.publish(&message).await {
            Err(PublishError::Blocked) => client.unblocked().await,
            published => return published,
        }
    }
}
