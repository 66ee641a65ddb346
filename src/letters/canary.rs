//! The canaries of a replay: its first letters. The replay goes on when each has succeeded.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::{
    DeadLettersError, Progress,
    change::{Report, STEP},
};
use crate::{
    broker::{Acks, Delivery, Reading, Session},
    dead_letters::{CanaryReport, QUEUES_OF_REPORTS},
    outcome::OutcomeKind,
};

/// The first letters of a replay, whose first outcomes decide whether the replay goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canary {
    /// How many letters.
    pub letters: usize,
    /// The longest wait for their outcomes.
    pub wait: Duration,
}

impl Canary {
    /// The most letters of a canary.
    pub const MOST: usize = 100;
    /// The wait for their outcomes, unless the user says otherwise.
    pub const WAIT: Duration = Duration::from_secs(60);
}

/// How the canaries of a replay ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Canaries {
    /// The letters that were replayed first.
    pub sent: u64,
    /// Those that succeeded in their first attempt.
    pub succeeded: u64,
    /// Those with another outcome.
    pub failed: Vec<FailedCanary>,
    /// The ids of those without an outcome in time.
    pub silent: Vec<String>,
    /// Why no further report can come; `None` if the wait was not cut short.
    pub lost: Option<String>,
    /// Whether the replay ended after the canaries: one did not succeed, the copy of one was not confirmed,
    /// or somebody stopped the replay. The other letters stay.
    pub ended: bool,
}

/// A canary that did not succeed in its first attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FailedCanary {
    /// The letter's id.
    pub id: String,
    /// The kind of the outcome, such as `failed` or `timed-out`.
    pub outcome: String,
    /// What the worker does about it: `retry`, `dead-letter` or `ack`.
    pub settlement: String,
    /// The error; empty without one.
    pub error: String,
    /// The worker that reported the outcome.
    pub worker: String,
}

impl Canaries {
    /// Whether each canary succeeded.
    #[must_use]
    pub fn all_succeeded(&self) -> bool {
        self.succeeded == self.sent
    }

    fn take(&mut self, id: String, report: CanaryReport) {
        if report.outcome == OutcomeKind::Succeeded.name() {
            self.succeeded += 1;
            return;
        }
        let CanaryReport {
            outcome,
            settlement,
            error,
            worker,
            ..
        } = report;
        self.failed.push(FailedCanary {
            id,
            outcome,
            settlement,
            error,
            worker,
        });
    }
}

/// How far the wait for the canaries is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = WaitForCanaries)]
pub struct Waiting {
    /// The letters that were replayed first.
    pub sent: u64,
    /// Those whose outcome is known.
    pub known: u64,
    /// Those that succeeded.
    pub succeeded: u64,
}

/// The queue for the reports, and a session that reads it. The queue goes with the session.
pub(super) struct Reports<B: Reading> {
    pub(super) queue: String,
    broker: B,
    session: B::Session,
}

/// The most reports under way. A replay has at most [`Canary::MOST`] canaries, but others may write too.
const UNDER_WAY: u16 = 200;

impl<B: Reading> Reports<B> {
    /// Declares the queue of this run, and reads it.
    pub(super) async fn listen(broker: &B, run: &str) -> Result<Self, DeadLettersError> {
        let queue = format!("{QUEUES_OF_REPORTS}{run}");
        let mut broker = broker.clone();
        let declared = broker.declare_own(&queue).await;
        declared.map_err(DeadLettersError::NoReports)?;
        let session = broker.look_into(&queue, UNDER_WAY, "lapwing-canary");
        let session = session.await.map_err(DeadLettersError::NoReports)?;
        Ok(Self {
            queue,
            broker,
            session,
        })
    }

    /// Waits for the outcomes of these letters, by number and id. `Break`: the report stopped the wait.
    pub(super) async fn outcomes(
        &mut self,
        mut waiting: BTreeMap<u64, String>,
        longest: Duration,
        progress: Progress,
        report: Report<'_>,
    ) -> (Canaries, ControlFlow<()>) {
        let mut canaries = Canaries {
            sent: waiting.len() as u64,
            ..Canaries::default()
        };
        let until = Instant::now() + longest;
        let mut end = ControlFlow::Continue(());
        while !waiting.is_empty() {
            let known = canaries.sent - waiting.len() as u64;
            end = report(Progress {
                canaries: Some(Waiting {
                    sent: canaries.sent,
                    known,
                    succeeded: canaries.succeeded,
                }),
                ..progress
            });
            let left = until.saturating_duration_since(Instant::now());
            if end.is_break() || left.is_zero() {
                break;
            }
            match timeout(left.min(STEP), self.session.next()).await {
                Err(_) => {}
                Ok(Some(Ok(delivery))) => {
                    let acks = Acks {
                        through: None,
                        singles: vec![delivery.tag],
                    };
                    // A session that has ended says so when it is read next.
                    let _ = self.session.ack(acks).await;
                    // Whoever sees the name of the queue can publish to it.
                    let user = delivery.properties.user_id();
                    if user.is_some_and(|user| self.broker.vouches(user))
                        && let Some((id, report)) = known_report(&mut waiting, &delivery)
                    {
                        canaries.take(id, report);
                    }
                }
                Ok(Some(Err(error))) => {
                    canaries.lost = Some(error.to_string());
                    break;
                }
                Ok(None) => {
                    canaries.lost = Some("the broker ended the reading of reports".to_owned());
                    break;
                }
            }
        }
        canaries.silent = waiting.into_values().collect();
        (canaries, end)
    }

    /// Ends the reading, and with it the queue.
    pub(super) async fn close(self) {
        self.session.close().await;
    }
}

/// The first report of one of these letters. A message that comes again is reported again.
fn known_report(
    waiting: &mut BTreeMap<u64, String>,
    delivery: &Delivery,
) -> Option<(String, CanaryReport)> {
    let report: CanaryReport = serde_json::from_slice(&delivery.body).ok()?;
    let id = waiting.remove(&report.number)?;
    Some((id, report))
}
