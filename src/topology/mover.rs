//! Moves messages until the old queue is empty, and then looks for a while whether it stays so.

use std::{ops::ControlFlow, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Migration, Moving, Step, TopologyError,
    migrate::{Report, Tell},
};
use crate::{
    broker::Rabbit,
    letters::{DeadLettersError, Progress, Transfer, transfer},
};

/// The pause between two looks at the old queue.
const PAUSE: Duration = Duration::from_millis(200);

/// What the command saw of the old queue.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The most consumers since the queue was empty.
    pub(super) consumers: u32,
    /// The messages that came after the queue was empty.
    pub(super) arrived: u64,
    /// Why messages were not moved.
    pub(super) failed: Vec<String>,
}

/// The moving of one migration.
pub(super) struct Mover<'a> {
    broker: &'a Rabbit,
    migration: &'a Migration,
    moving: &'a Moving,
    /// The end of the look, once the old queue was empty.
    until: Option<Instant>,
    pub(super) seen: Seen,
    pub(super) moved: u64,
    pub(super) is_stopped: bool,
}

impl<'a> Mover<'a> {
    pub(super) fn new(broker: &'a Rabbit, migration: &'a Migration, moving: &'a Moving) -> Self {
        Self {
            broker,
            migration,
            moving,
            until: None,
            seen: Seen::default(),
            moved: 0,
            is_stopped: false,
        }
    }

    pub(super) async fn run(
        &mut self,
        report: Report<'_>,
        tell: Tell<'_>,
    ) -> Result<(), TopologyError> {
        while let Some((ready, consumers)) = self.broker.counts(&self.migration.from).await? {
            if self.until.is_some() {
                self.seen.consumers = self.seen.consumers.max(consumers);
            }
            if ready > 0 && self.pass(report, tell).await?.is_break() {
                return Ok(());
            }
            let nothing = Progress {
                total: 0,
                seen: 0,
                changed: 0,
            };
            if report(nothing).is_break() {
                self.is_stopped = true;
                return Ok(());
            }
            match self.until {
                None if ready == 0 => {
                    tell(Step::Empty);
                    self.seen.consumers = consumers;
                    self.until = Some(Instant::now() + self.moving.look_for);
                }
                Some(until) if Instant::now() >= until => return Ok(()),
                _ => {}
            }
            if ready == 0 {
                sleep(PAUSE.min(self.moving.look_for)).await;
            }
        }
        Ok(())
    }

    /// Moves the messages that are ready now.
    async fn pass(
        &mut self,
        report: Report<'_>,
        tell: Tell<'_>,
    ) -> Result<ControlFlow<()>, TopologyError> {
        let of_pass = Transfer {
            from: &self.migration.source,
            to: &self.migration.to,
            rate: self.moving.rate,
        };
        let moved = match transfer(self.broker, of_pass, &self.moving.by, report).await {
            Ok(moved) => moved,
            // Another program has the queue for itself.
            Err(error @ DeadLettersError::Silent { .. }) => {
                self.seen.failed.push(error.to_string());
                return Ok(ControlFlow::Break(()));
            }
            Err(error) => return Err(error.into()),
        };
        self.moved += moved.changed;
        if moved.changed > 0 {
            tell(Step::Moved(moved.changed));
        }
        if self.until.is_some() {
            self.seen.arrived += moved.changed;
        }
        let failed = moved.kept.into_keys();
        let failed = failed.map(|why| format!("messages were not moved: {why}"));
        self.seen.failed.extend(failed);
        if moved.stopped {
            self.is_stopped = self.seen.failed.is_empty();
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }
}
