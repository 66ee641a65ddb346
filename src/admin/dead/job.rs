//! Jobs: each reads or changes the dead letters of one consumer, on a thread and connections of its own.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::views::{Job as View, JobKind, JobResult, JobState};
use crate::{
    clock,
    letters::{Changed, Looked, Progress},
    lock::lock,
    telemetry::AUDIT,
    text::rfc3339,
};

/// What a job did, and whether it was stopped; or why it failed.
pub(super) type Ended = Result<(JobResult, bool), String>;

/// A job. Its thread writes it, requests read it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) consumer: String,
    pub(super) kind: JobKind,
    /// Who asked for it.
    pub(super) by: String,
    started_at: SystemTime,
    stop: CancellationToken,
    now: Mutex<Now>,
    /// Whether it has ended.
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct Now {
    state: JobState,
    ended_at: Option<SystemTime>,
    progress: Progress,
    result: Option<JobResult>,
    error: Option<String>,
}

impl Job {
    pub(super) fn new(
        id: String,
        consumer: &str,
        kind: JobKind,
        by: String,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            consumer: consumer.to_owned(),
            kind,
            by,
            started_at: clock::now(),
            stop,
            now: Mutex::new(Now {
                state: JobState::Running,
                ended_at: None,
                progress: Progress::default(),
                result: None,
                error: None,
            }),
            ended: watch::Sender::new(false),
        })
    }

    pub(super) fn view(&self) -> View {
        let now = lock(&self.now);
        View {
            id: self.id.clone(),
            consumer: self.consumer.clone(),
            kind: self.kind,
            state: now.state,
            started_at: rfc3339(self.started_at),
            ended_at: now.ended_at.map(rfc3339),
            progress: now.progress,
            result: now.result.clone(),
            error: now.error.clone(),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        lock(&self.now).state == JobState::Running
    }

    /// Cancelled when the job is to stop.
    pub(super) fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Stops the job after the batch or window under way.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the job has ended.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives as long as the job.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// How far the job is. `Break`: somebody has stopped it.
    pub(super) fn note(&self, progress: Progress) -> ControlFlow<()> {
        lock(&self.now).progress = progress;
        match self.stop.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// The job has ended.
    pub(super) fn end(&self, ended: Ended) {
        let mut now = lock(&self.now);
        if now.state != JobState::Running {
            return;
        }
        now.ended_at = Some(clock::now());
        match ended {
            Ok((result, stopped)) => {
                now.state = match stopped {
                    true => JobState::Stopped,
                    false => JobState::Done,
                };
                now.result = Some(result);
            }
            Err(error) => {
                now.state = JobState::Failed;
                now.error = Some(error);
            }
        }
        drop(now);
        self.ended.send_replace(true);
    }

    /// Logs each change: who, what, how many, from where.
    pub(super) fn log(&self, ended: &Ended) {
        let (consumer, job, by, kind) = (&self.consumer, &self.id, &self.by, self.kind.name());
        let (result, error) = match ended {
            Ok((result, _)) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        // A look may replace letters by copies.
        let renewed = result.map_or(0, |it| it.renewed);
        if self.kind.changes() || renewed > 0 {
            let before_error = error.map(|_| lock(&self.now).progress.changed);
            let changed = result.map(|it| it.changed);
            info!(
                target: AUDIT, consumer, job, kind, by, changed, renewed, before_error, error,
                "changed dead letters",
            );
        } else if let Some(error) = error {
            warn!(
                consumer,
                job, kind, by, error, "failed to read dead letters"
            );
        }
    }
}

impl From<&Looked> for JobResult {
    fn from(looked: &Looked) -> Self {
        Self {
            seen: looked.seen,
            selected: looked.selected,
            renewed: looked.renewed,
            ..Self::default()
        }
    }
}

impl From<&Changed> for JobResult {
    fn from(changed: &Changed) -> Self {
        Self {
            changed: changed.changed,
            kept: changed.kept.clone(),
            canaries: changed.canaries.clone(),
            ..Self::from(&changed.looked)
        }
    }
}

/// Ends a job that its thread has left without an end: a panic.
pub(super) struct EndsWithThread(pub(super) Arc<Job>);

impl Drop for EndsWithThread {
    fn drop(&mut self) {
        if self.0.is_running() {
            let ended = Err("the job ended unexpectedly; see the log".to_owned());
            self.0.log(&ended);
            self.0.end(ended);
        }
    }
}
