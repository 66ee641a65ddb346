//! The publishes that are under way, and how a run of them goes.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use indicatif::ProgressBar;
use lapwing::{Client, NewMessage, broker::PublishError};
use tokio::time::sleep;

use super::CHANNELS;
use crate::cli::{say, signals::Signals};

/// How long the broker has to confirm what is under way when a signal comes.
const GRACE: Duration = Duration::from_secs(2);

/// How a run went.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) confirmed: u64,
    /// Errors, and how often each came.
    pub(super) failed: BTreeMap<String, u64>,
    /// The signal that cut it short.
    pub(super) stopped: Option<&'static str>,
}

impl Tally {
    /// Of a run that this signal stops.
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

/// Why no further message is taken.
pub(super) enum Cut {
    /// This signal came.
    Signal(&'static str),
    /// The next body cannot be had.
    Body(anyhow::Error),
}

/// The publishes that are under way.
pub(super) struct UnderWay<'a> {
    client: &'a Client,
    signals: &'a mut Signals,
    publishes: FuturesUnordered<BoxFuture<'a, Result<(), PublishError>>>,
    /// Ends when the broker blocks publishing, and says so; once.
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

    /// Publishes a message as soon as there is room for it.
    pub(super) async fn publish(&mut self, message: NewMessage) -> Result<(), Cut> {
        while self.publishes.len() >= CHANNELS {
            self.step().await?;
        }
        let publish = publish_unblocked(self.client, message);
        self.publishes.push(publish.boxed());
        Ok(())
    }

    /// Waits for `wanted`. Publishes go on meanwhile: nothing else drives them.
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

    /// Waits until nothing is under way.
    pub(super) async fn all(&mut self) -> Result<(), Cut> {
        while !self.publishes.is_empty() {
            self.step().await?;
        }
        Ok(())
    }

    /// Waits for one thing to happen.
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

    /// How it went.
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

    /// Gives the broker a little time for what is under way; none after a second signal.
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
        let text = "still under way when it was stopped".to_owned();
        let left = self.publishes.len() as u64;
        self.tally.failed.insert(text, left);
    }
}

/// Publishes, and does it again where the broker took nothing because of an alarm.
async fn publish_unblocked(client: &Client, message: NewMessage) -> Result<(), PublishError> {
    loop {
        match client.publish(&message).await {
            Err(PublishError::Blocked) => client.unblocked().await,
            published => return published,
        }
    }
}
