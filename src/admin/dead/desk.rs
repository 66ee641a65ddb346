//! The desks: for each consumer the job that runs, and what the last look has seen.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{
    job::{EndsWithThread, Job},
    snapshot::Snapshot,
    views::{self, JobKind},
    work::Work,
};
use crate::{
    admin::error::ApiError,
    broker::{BrokerSettings, TimeoutSettings, Topology},
    letters::{DECLARED_LIMIT, Match},
    lock::lock,
    status::Figures,
    worker::{WorkerSettings, memory_limit},
};

/// The jobs of all consumers at a time.
const JOBS: usize = 2;
/// The jobs of a consumer that are known: the one that runs, and the last ones.
const KNOWN: usize = 8;
/// The looks that are kept, of all consumers. A further one takes the place of the oldest.
const LOOKS: usize = 2;
/// The bytes that all kept looks may take.
const ROOM: u64 = 80 * 1024 * 1024;
/// The part of the container's memory limit that they may take.
const PART: u64 = 8;
/// The searches that wait for the one under way.
const WAITING: usize = 8;
/// A look that nobody has read for this time is forgotten.
const UNREAD: Duration = Duration::from_secs(30 * 60);

/// The desks of all consumers.
#[derive(Debug)]
pub(in crate::admin) struct Desks {
    /// What a job needs to connect.
    pub(super) broker: Arc<BrokerSettings>,
    pub(super) timeouts: Arc<TimeoutSettings>,
    desks: BTreeMap<String, Mutex<Desk>>,
    jobs: Arc<Semaphore>,
    /// One search at a time: each takes a core while it runs.
    searches: Arc<Semaphore>,
    /// The searches under way and those that wait.
    asked: Arc<Semaphore>,
    /// Held while a look is kept, so that two do not both find room.
    keeping: Mutex<()>,
    stop: CancellationToken,
}

/// The desk of one consumer.
#[derive(Debug, Default)]
struct Desk {
    /// The known jobs, oldest first.
    jobs: VecDeque<Arc<Job>>,
    seen: Option<Seen>,
}

/// What the last look has seen.
#[derive(Debug)]
struct Seen {
    look: views::Look,
    /// What the look selected by, with the values.
    matches: Vec<Match>,
    snapshot: Arc<Mutex<Snapshot>>,
    /// The number of its letters. A search may hold the snapshot for a while.
    count: Arc<AtomicUsize>,
    read_at: Instant,
}

/// A look and its letters.
pub(super) type Kept = (views::Look, Arc<Mutex<Snapshot>>);

/// The queue of a consumer's dead letters.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) queue: String,
    /// Its delivery limit, if the settings say it.
    pub(super) limit: Option<u64>,
}

impl Place {
    pub(super) fn of(figures: &Figures) -> Self {
        let settings = &figures.settings;
        let is_ours = settings.topology != Topology::None;
        Self {
            queue: settings.dead_letter_queue(),
            limit: is_ours.then_some(DECLARED_LIMIT),
        }
    }
}

impl Desks {
    pub(in crate::admin) fn new(worker: &WorkerSettings, stop: &CancellationToken) -> Self {
        let desks = worker.consumers.keys();
        Self {
            broker: Arc::new(worker.broker.clone()),
            timeouts: Arc::new(worker.timeouts.clone()),
            desks: desks.map(|name| (name.clone(), Mutex::default())).collect(),
            jobs: Arc::new(Semaphore::new(JOBS)),
            searches: Arc::new(Semaphore::new(1)),
            asked: Arc::new(Semaphore::new(1 + WAITING)),
            keeping: Mutex::default(),
            stop: stop.child_token(),
        }
    }

    fn desk(&self, consumer: &str) -> Result<&Mutex<Desk>, ApiError> {
        let missing = || ApiError::new(StatusCode::NOT_FOUND, "no such consumer");
        self.desks.get(consumer).ok_or_else(missing)
    }

    /// Stops all jobs, and starts no others: the worker drains.
    pub(in crate::admin) fn close(&self) {
        self.stop.cancel();
    }

    /// Waits until no job runs, at most this long. Call [`close`](Self::close) before.
    pub(in crate::admin) async fn closed(&self, longest: Duration) {
        let all = u32::try_from(JOBS).unwrap_or(u32::MAX);
        if timeout(longest, self.jobs.acquire_many(all)).await.is_err() {
            warn!(?longest, "a job for dead letters did not end in time");
        }
    }

    /// Searches the letters of a look on a thread of its own: the server's only thread answers the probes
    /// too.
    pub(super) async fn search<T: Send + 'static>(
        &self,
        search: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let refused = |text| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text);
        let too_many = || refused("too many searches are waiting: try again");
        let _place = self.asked.try_acquire().map_err(|_| too_many())?;
        let turn = Arc::clone(&self.searches).acquire_owned().await;
        // The search keeps its turn also if the client goes away.
        let searching = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            search()
        });
        searching.await.map_err(|_| refused("the search failed"))
    }

    /// Starts a job on a thread of its own. An error if this consumer or the worker has too many.
    pub(super) fn start(
        self: &Arc<Self>,
        consumer: &str,
        place: Place,
        kind: JobKind,
        by: String,
        mut work: Work,
    ) -> Result<Arc<Job>, ApiError> {
        let busy = |text: String| ApiError::new(StatusCode::CONFLICT, text);
        let mut desk = lock(self.desk(consumer)?);
        if self.stop.is_cancelled() {
            let text = "the worker drains and starts no further job";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        if let Some(running) = desk.jobs.back().filter(|job| job.is_running()) {
            let (id, kind) = (&running.id, running.kind.name());
            return Err(busy(format!(
                "another job of this consumer is running: {id} ({kind})"
            )));
        }
        let permit = Arc::clone(&self.jobs).try_acquire_owned();
        let permit = permit.map_err(|_| {
            busy(format!(
                "{JOBS} jobs for dead letters are running; a further one must wait"
            ))
        })?;
        let id = Uuid::now_v7().to_string();
        if let Work::Replay(replay) = &mut work {
            replay.run.clone_from(&id);
        }
        let job = Job::new(id, consumer, kind, by, self.stop.child_token());
        let (desks, running) = (Arc::clone(self), Arc::clone(&job));
        let thread = std::thread::Builder::new().name("lapwing-dead".to_owned());
        let started = thread.spawn(move || {
            let ends = EndsWithThread(Arc::clone(&running));
            let ended = work.carry_out(&desks, &place, &running);
            // The process may end when no job has a permit, so the end is logged before. Who waits for the
            // end may start the next job, so the permit is free before.
            running.log(&ended);
            drop(permit);
            running.end(ended);
            drop(ends);
        });
        started.map_err(|error| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("no thread: {error}"),
            )
        })?;
        desk.jobs.push_back(Arc::clone(&job));
        if desk.jobs.len() > KNOWN {
            desk.jobs.pop_front();
        }
        Ok(job)
    }

    /// The job with this id: the one that runs, or one of the last.
    pub(super) fn job(&self, consumer: &str, id: &str) -> Result<Arc<Job>, ApiError> {
        let desk = lock(self.desk(consumer)?);
        let job = desk.jobs.iter().find(|job| job.id == id);
        job.cloned().ok_or_else(|| {
            let text = "no such job: only the last ones of a consumer are known";
            ApiError::new(StatusCode::NOT_FOUND, text)
        })
    }

    /// The job that runs or the last one, apart from those that show one letter; and the last look.
    pub(super) fn state(
        &self,
        consumer: &str,
    ) -> Result<(Option<views::Job>, Option<views::Look>), ApiError> {
        let desk = lock(self.desk(consumer)?);
        let look = desk.seen.as_ref().map(|seen| views::Look {
            letters: seen.count.load(Ordering::Relaxed),
            ..seen.look.clone()
        });
        let is_work = |job: &&Arc<Job>| job.kind != JobKind::Show;
        let job = desk.jobs.iter().rev().find(is_work);
        Ok((job.map(|job| job.view()), look))
    }

    /// The last look.
    pub(super) fn seen(&self, consumer: &str) -> Result<Kept, ApiError> {
        let mut desk = lock(self.desk(consumer)?);
        let Some(seen) = &mut desk.seen else {
            let text = "nobody has looked at these letters: POST …/look, and wait for its job";
            return Err(ApiError::new(StatusCode::NOT_FOUND, text));
        };
        seen.read_at = Instant::now();
        Ok((seen.look.clone(), Arc::clone(&seen.snapshot)))
    }

    /// The letters that the last look keeps, if there was one.
    pub(super) fn snapshot(&self, consumer: &str) -> Option<Arc<Mutex<Snapshot>>> {
        let desk = lock(self.desks.get(consumer)?);
        desk.seen.as_ref().map(|seen| Arc::clone(&seen.snapshot))
    }

    /// What the look with this name selected by; an error if it is not the last one.
    pub(super) fn matches(&self, consumer: &str, look: &str) -> Result<Vec<Match>, ApiError> {
        let desk = lock(self.desk(consumer)?);
        let seen = desk.seen.as_ref().filter(|seen| seen.look.look == look);
        seen.map(|seen| seen.matches.clone()).ok_or_else(|| {
            let text = "the look that the selection names is over: look again";
            ApiError::new(StatusCode::GONE, text)
        })
    }

    /// The bytes that a look may take.
    pub(super) fn room() -> usize {
        let room = memory_limit().map_or(ROOM, |limit| ROOM.min(limit / PART));
        usize::try_from(room).unwrap_or(usize::MAX) / LOOKS
    }

    /// A look has ended. It takes the place of the last look of its consumer, and of the oldest looks of
    /// others.
    pub(super) fn keep(
        &self,
        consumer: &str,
        look: views::Look,
        matches: Vec<Match>,
        snapshot: Snapshot,
    ) {
        let _alone = lock(&self.keeping);
        let mut others = Vec::new();
        for (name, desk) in &self.desks {
            if let Some(seen) = lock(desk).seen.as_ref().filter(|_| name != consumer) {
                others.push((seen.look.looked_at.clone(), name));
            }
        }
        others.sort();
        let many = others.len().saturating_sub(LOOKS - 1);
        for (_, name) in others.drain(..many) {
            if let Some(desk) = self.desks.get(name) {
                lock(desk).seen = None;
            }
        }
        if let Some(desk) = self.desks.get(consumer) {
            lock(desk).seen = Some(Seen {
                look,
                matches,
                count: snapshot.count(),
                snapshot: Arc::new(Mutex::new(snapshot)),
                read_at: Instant::now(),
            });
        }
    }

    /// Forgets looks that nobody reads any more.
    pub(in crate::admin) fn forget(&self) {
        for desk in self.desks.values() {
            let mut desk = lock(desk);
            if desk
                .seen
                .as_ref()
                .is_some_and(|seen| seen.read_at.elapsed() > UNREAD)
            {
                desk.seen = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
