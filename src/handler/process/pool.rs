//! The co-processes of a handler, lent out for one message each.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    keeper::{self, Life},
    line::Ready,
    link::{Broken, Link},
};
use crate::{
    handler::{child::Program, results::longest},
    lock::lock,
    outcome::Failure,
};

/// What the settings say about co-processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) processes: usize,
    pub(super) start_timeout: Duration,
    pub(super) kill_after: Duration,
    pub(super) max_messages: Option<u64>,
    pub(super) max_lifetime: Option<Duration>,
    /// Whether a line has several messages.
    pub(super) batch: bool,
}

impl Terms {
    /// Whether a co-process with this first line can be used.
    pub(super) fn accept(&self, ready: &Ready) -> Result<(), String> {
        match self.batch && !ready.batch {
            true => Err(
                "the settings have `batch`, but the co-process takes single messages: its \
                         first line must be {\"ready\":1,\"batch\":true}"
                    .to_owned(),
            ),
            false => Ok(()),
        }
    }
}

/// The co-processes of a handler.
pub(super) struct Pool {
    pub(super) name: Arc<str>,
    pub(super) program: Program,
    pub(super) terms: Terms,
    pub(super) closing: CancellationToken,
    /// Co-processes that work on no message. There is a permit for each, also for one that has
    /// ended meanwhile.
    idle: Mutex<Vec<CoProcess>>,
    permits: Semaphore,
    failing: watch::Sender<Failing>,
    keepers: TaskTracker,
}

/// The co-processes that do not start.
#[derive(Debug, Default)]
struct Failing {
    number: usize,
    error: String,
}

/// A co-process that is ready for a message.
pub(super) struct CoProcess {
    pub(super) link: Link,
    pub(super) life: Arc<Life>,
    /// The messages that it has answered.
    pub(super) served: u64,
    pub(super) born: Instant,
}

impl Pool {
    pub(super) fn new(name: &str, program: Program, terms: Terms) -> Self {
        Self {
            name: name.into(),
            program,
            terms,
            closing: CancellationToken::new(),
            idle: Mutex::default(),
            permits: Semaphore::new(0),
            failing: watch::Sender::default(),
            keepers: TaskTracker::new(),
        }
    }

    /// Starts all co-processes. The error is that of the first that does not start.
    pub(super) async fn start(self: &Arc<Self>) -> Result<(), String> {
        let mut starts = Vec::new();
        for _ in 0..self.terms.processes {
            let (sender, started) = oneshot::channel();
            self.keepers.spawn(keeper::keep(Arc::clone(self), sender));
            starts.push(started);
        }
        for started in starts {
            let started = started.await;
            started.unwrap_or_else(|_| Err("its keeper ended".to_owned()))?;
        }
        Ok(())
    }

    /// Ends all co-processes, and waits for their ends.
    pub(super) async fn stop(&self) {
        self.closing.cancel();
        self.permits.close();
        self.forget_idle();
        self.keepers.close();
        self.keepers.wait().await;
        self.program.ends.close();
        self.program.ends.wait().await;
    }

    /// Forgets co-processes that have ended. Their permits stay: whoever gets one looks for another.
    pub(super) fn sweep(&self) {
        lock(&self.idle).retain(|process| !process.life.is_over());
    }

    /// Closes the input of all co-processes that work on no message.
    pub(super) fn forget_idle(&self) {
        lock(&self.idle).clear();
    }

    /// A co-process is ready for a message.
    pub(super) fn put(&self, process: CoProcess) {
        if self.closing.is_cancelled() {
            return;
        }
        lock(&self.idle).push(process);
        self.permits.add_permits(1);
    }

    /// A co-process does not start.
    pub(super) fn fails(&self, error: &str) {
        self.failing.send_modify(|failing| {
            failing.number += 1;
            failing.error = error.to_owned();
        });
    }

    /// A co-process that did not start has started.
    pub(super) fn recovers(&self) {
        self.failing
            .send_modify(|failing| failing.number = failing.number.saturating_sub(1));
    }

    /// Waits for a co-process without a message.
    pub(super) async fn lend(self: &Arc<Self>) -> Result<Lease, Failure> {
        loop {
            let permit = match self.permits.try_acquire() {
                Ok(permit) => permit,
                Err(_) => self.next().await?,
            };
            permit.forget();
            let process = lock(&self.idle).pop();
            let Some(process) = process.filter(|process| !process.life.is_over()) else {
                continue;
            };
            let too_old = |limit| process.born.elapsed() >= limit;
            if self.terms.max_lifetime.is_some_and(too_old) {
                process.retire();
                continue;
            }
            return Ok(Lease {
                pool: Arc::clone(self),
                process: Some(process),
                was_asked: false,
            });
        }
    }

    async fn next(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Failure> {
        let mut failing = self.failing.subscribe();
        tokio::select! {
            biased;
            permit = self.permits.acquire() => permit.map_err(|_| {
                Failure::retryable("process-stopped", "the co-processes are stopped")
            }),
            all = failing.wait_for(|failing| failing.number >= self.terms.processes) => {
                let error = all.map_or_else(|error| error.to_string(), |all| all.error.clone());
                Err(Failure::unavailable("process-start", error))
            }
        }
    }
}

impl CoProcess {
    /// The co-process has had its last message: closes its input.
    fn retire(self) {
        self.life.retire.cancel();
    }
}

/// A co-process that works on a message, or on several. Dropping this before the answer ends the
/// co-process, because it may still work on them.
pub(super) struct Lease {
    pool: Arc<Pool>,
    process: Option<CoProcess>,
    /// Whether the co-process has got a line.
    was_asked: bool,
}

impl Lease {
    /// Sends a line about one message, and waits for the answer.
    pub(super) async fn ask(&mut self, line: &[u8]) -> Result<Vec<u8>, Broken> {
        self.ask_about(1, line).await
    }

    /// Sends a line about so many messages, and waits for the answer.
    pub(super) async fn ask_about(
        &mut self,
        messages: usize,
        line: &[u8],
    ) -> Result<Vec<u8>, Broken> {
        self.was_asked = true;
        match &mut self.process {
            Some(process) => {
                process.life.works_on(messages);
                process.link.ask(line, longest(messages)).await
            }
            None => Err(Broken::Closed),
        }
    }

    /// The co-process has answered about so many messages: it is free for others.
    pub(super) fn done(mut self, messages: u64) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.served += messages;
        process.life.serves();
        let is_last = |most| process.served >= most;
        match self.pool.terms.max_messages.is_some_and(is_last) {
            true => process.retire(),
            false => self.pool.put(process),
        }
    }

    /// Ends the co-process, waits for that, and returns how it ended.
    pub(super) async fn end(mut self) -> String {
        let Some(process) = self.process.take() else {
            return String::new();
        };
        process.life.kill.cancel();
        process.life.over().await
    }

    /// The co-process has closed its pipes. Waits until it has ended by itself, or ends it.
    pub(super) async fn closed(mut self) -> String {
        let Some(process) = self.process.take() else {
            return String::new();
        };
        let life = process.life;
        let over = tokio::time::timeout(self.pool.terms.kill_after, life.over()).await;
        match over {
            Ok(how) => how,
            Err(_) => {
                life.kill.cancel();
                format!("closed its pipes, {}", life.over().await)
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        match self.was_asked {
            true => process.life.kill.cancel(),
            false => self.pool.put(process),
        }
    }
}
