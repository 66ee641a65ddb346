//! A handler that gives each message to one of several co-processes: programs that run on, take
//! messages as lines of JSON and answer with outcomes. `docs/process-protocol.md` is the protocol.

mod batch;
mod check;
mod keeper;
mod line;
mod link;
mod pool;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use check::{ProcessCheck, check_process};
pub use settings::ProcessHandlerSettings;

use super::{Context, Handler, HandlerError, HandlerFuture, batch::Batches};
use crate::outcome::{Failure, Outcome};
use link::Broken;
use pool::{Lease, Pool};

/// Gives messages to co-processes.
pub struct ProcessHandler {
    peers: Arc<Peers>,
    batches: Option<Batches<Arc<Peers>>>,
}

/// The co-processes of a handler, and the ids of the lines to them.
struct Peers {
    pool: Arc<Pool>,
    next: AtomicU64,
}

impl fmt::Debug for ProcessHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Arguments and variables may hold secrets.
        f.debug_struct("ProcessHandler").finish_non_exhaustive()
    }
}

impl ProcessHandler {
    /// Makes a handler from its settings, for a consumer with this `concurrency`.
    ///
    /// # Errors
    /// If there is no such program.
    pub fn new(settings: &ProcessHandlerSettings, concurrency: u16) -> Result<Self, HandlerError> {
        let failed = |error| HandlerError::new(format!("process handler: argv: {error}"));
        let name = settings.argv.first().map_or("", String::as_str);
        let program = settings.program().map_err(failed)?;
        let pool = Pool::new(name, program, settings.terms(concurrency));
        let peers = Arc::new(Peers {
            pool: Arc::new(pool),
            next: AtomicU64::new(1),
        });
        Ok(Self {
            batches: Batches::of(&settings.batch, Arc::clone(&peers)),
            peers,
        })
    }
}

impl Peers {
    /// The next ids: so many, one after the other. The first of them.
    fn ids(&self, count: usize) -> u64 {
        self.next.fetch_add(count as u64, Ordering::Relaxed)
    }

    /// Gives a message to a co-process that is free.
    async fn run(&self, context: &Context) -> Outcome {
        let cancellation = context.cancellation();
        let lease = tokio::select! {
            biased;
            lease = self.pool.lend() => lease,
            _ = cancellation.cancelled() => return cancelled(),
        };
        match lease {
            Ok(lease) => self.run_with(lease, context).await,
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// Gives the message to a co-process that is lent for it.
    async fn run_with(&self, mut lease: Lease, context: &Context) -> Outcome {
        let id = self.ids(1);
        let line = line::message(id, context);
        let cancellation = context.cancellation();
        let answered = tokio::select! {
            biased;
            answered = lease.ask(&line) => answered,
            _ = cancellation.cancelled() => {
                lease.end().await;
                return cancelled();
            }
        };
        let broken = match answered {
            Ok(answer) => match line::read(&answer, id) {
                Ok(said) => {
                    lease.done(1);
                    return said.leave(context);
                }
                Err(error) => Broken::Protocol(error),
            },
            Err(broken) => broken,
        };
        Outcome::Failed(failure(lease, broken).await)
    }
}

/// The failure of a line without an answer. Ends the co-process.
async fn failure(lease: Lease, broken: Broken) -> Failure {
    match broken {
        Broken::Closed => {
            let text = format!("the co-process ended: {}", lease.closed().await);
            Failure::retryable("process-exit", text)
        }
        Broken::Protocol(error) => {
            lease.end().await;
            Failure::retryable(line::WRONG, error)
        }
    }
}

fn cancelled() -> Outcome {
    Outcome::Failed(Failure::retryable("cancelled", "the co-process was ended"))
}

impl Handler for ProcessHandler {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            match &self.batches {
                Some(batches) => batches.run(context).await,
                None => self.peers.run(&context).await,
            }
        })
    }

    fn start(&self) -> HandlerFuture<'_, Result<(), HandlerError>> {
        Box::pin(async {
            let started = self.peers.pool.start().await;
            started.map_err(|error| HandlerError::new(format!("co-process: {error}")))
        })
    }

    fn stop(&self) -> HandlerFuture<'_, ()> {
        Box::pin(self.peers.pool.stop())
    }
}
