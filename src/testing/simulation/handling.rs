//! The handlers of a simulated worker: each run does what the message's plan says.

use std::{panic::resume_unwind, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    script::Step,
    stage::{How, Stage, id_of},
};
use crate::{
    Context, Failure, Handler, Outcome,
    handler::{CancelReason, HandlerFuture},
};

/// A handler of one worker process.
pub(super) struct Handling {
    pub(super) process: usize,
    pub(super) stage: Stage,
}

/// A run under way. Dropped before its end, it was cancelled.
struct Run<'a> {
    handling: &'a Handling,
    session: u64,
    id: usize,
    began: Instant,
    has_ended: bool,
}

impl Run<'_> {
    fn ends(&mut self, how: How) {
        self.has_ended = true;
        let took = self.began.elapsed().as_millis();
        let Handling { process, stage } = self.handling;
        stage.ended(*process, self.session, self.id, how, took);
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.ends(How::Cancelled);
        }
    }
}

impl Handler for Handling {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            let id = id_of(context.message().id());
            let step = self.stage.started(self.process, id, context.attempt());
            let Some((step, session)) = step else {
                // The process is dead. Its remains have to end somehow.
                return Outcome::Succeeded;
            };
            let mut run = Run {
                handling: self,
                session,
                id,
                began: Instant::now(),
                has_ended: false,
            };
            take(step, &context, &mut run).await
        })
    }

    fn wants_checked_json(&self) -> bool {
        false
    }
}

async fn wait(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

async fn take(step: Step, context: &Context, run: &mut Run<'_>) -> Outcome {
    let failed = || Outcome::Failed(Failure::retryable("simulated", "failed"));
    match step {
        Step::Succeed(time) => {
            wait(time).await;
            run.ends(How::Succeeded);
            Outcome::Succeeded
        }
        Step::Fail(time) => {
            wait(time).await;
            run.ends(How::Failed);
            failed()
        }
        Step::FailFor(time) => {
            run.ends(How::Failed);
            let failure = Failure::retryable("simulated", "failed");
            Outcome::Failed(failure.retry_after(Duration::from_millis(time)))
        }
        Step::Reject(time) => {
            wait(time).await;
            run.ends(How::Rejected);
            Outcome::Failed(Failure::permanent("simulated", "failed for good"))
        }
        Step::Panic(time) => {
            wait(time).await;
            run.ends(How::Failed);
            // Without the panic hook, which notes the worker's own panics.
            resume_unwind(Box::new("simulated"))
        }
        Step::Snooze(time) => {
            run.ends(How::Snoozed);
            Outcome::snooze(Duration::from_millis(time))
        }
        Step::Drop => {
            run.ends(How::Succeeded);
            Outcome::dropped("not wanted")
        }
        Step::Hang => std::future::pending().await,
        Step::Heed => {
            let reason = context.cancellation().cancelled().await;
            run.ends(match reason {
                CancelReason::Timeout => How::Failed,
                _ => How::Cancelled,
            });
            failed()
        }
        Step::Ignore => {
            context.cancellation().cancelled().await;
            std::future::pending().await
        }
        Step::Late(time) => {
            context.cancellation().cancelled().await;
            wait(time).await;
            run.ends(How::Succeeded);
            Outcome::Succeeded
        }
    }
}
