//! Moves messages until the old queue is empty, and looks for a while whether it stays so.

use std::{ops::ControlFlow, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Migration, Moving, Step, TopologyError,
    migrate::{Report, Tell},
};
use crate::{
    broker::Rabbit,
    letters::{DeadLettersError, Progress, Transfer, transfer},
    text::visible,
};

/// How long the old queue must stay empty and unused before the command deletes it.
pub(super) const WATCH: Duration = Duration::from_secs(60);
/// The pause between two looks at the old queue.
const PAUSE: Duration = Duration::from_millis(200);
/// The most passes. Who publishes to the old queue all the time would keep the command for ever.
const PASSES: u32 = 10;

/// What the command saw of the old queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The consumers of the old queue, the most while the command watched.
    pub(super) consumers: u32,
    /// The messages that came after the first pass, and were moved.
    pub(super) arrived: u64,
    /// Why messages were not moved.
    pub(super) failed: Vec<String>,
}

/// The moving of one migration.
pub(super) struct Mover<'a> {
    broker: &'a Rabbit,
    migration: &'a Migration,
    moving: &'a Moving,
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
            seen: Seen::default(),
            moved: 0,
            is_stopped: false,
        }
    }

    /// Moves messages until the old queue is empty, or until messages have come again and again.
    pub(super) async fn drain(
        &mut self,
        report: Report<'_>,
        tell: Tell<'_>,
    ) -> Result<(), TopologyError> {
        for number in 0..PASSES {
            let Some((ready, consumers)) = self.look(report).await? else {
                return Ok(());
            };
            self.seen.consumers = consumers;
            if ready == 0 || self.pass(number > 0, report, tell).await?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks whether the old queue stays empty and unused. Ends early if it does not.
    pub(super) async fn watch(
        &mut self,
        report: Report<'_>,
        tell: Tell<'_>,
    ) -> Result<(), TopologyError> {
        let until = Instant::now() + WATCH;
        while let Some((ready, consumers)) = self.look(report).await? {
            self.seen.consumers = self.seen.consumers.max(consumers);
            if ready > 0 {
                let passed = self.pass(true, report, tell).await;
                // Also if somebody else was faster.
                self.seen.arrived = self.seen.arrived.max(1);
                return passed.map(|_| ());
            }
            if consumers > 0 || Instant::now() >= until {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The ready messages and the consumers of the old queue; `None` if the command is stopped, or the
    /// queue is gone.
    async fn look(&mut self, report: Report<'_>) -> Result<Option<(u32, u32)>, TopologyError> {
        let nothing = Progress {
            total: 0,
            seen: 0,
            changed: 0,
            canaries: None,
        };
        if report(nothing).is_break() {
            self.is_stopped = true;
            return Ok(None);
        }
        Ok(self.broker.counts(&self.migration.from).await?)
    }

    /// Moves the messages that are ready now.
    async fn pass(
        &mut self,
        is_later: bool,
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
        if is_later {
            self.seen.arrived += moved.changed;
        }
        let failed = moved.kept.into_keys();
        let failed = failed.map(|why| format!("messages were not moved: {}", visible(&why)));
        self.seen.failed.extend(failed);
        if moved.stopped {
            self.is_stopped = self.seen.failed.is_empty();
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }
}
