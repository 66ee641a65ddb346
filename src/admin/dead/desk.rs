//! The desks: for each consumer the job that runs, and what the last look has seen.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
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
    letters::DECLARED_LIMIT,
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
/// A look that nobody has read for this time is forgotten.
const UNREAD: Duration = Duration::from_secs(30 * 60);

/// The desks of all consumers.
pub(in crate::admin) struct Desks {
    /// What a job needs to connect.
    pub(super) broker: Arc<BrokerSettings>,
    pub(super) timeouts: Arc<TimeoutSettings>,
    desks: BTreeMap<String, Mutex<Desk>>,
    jobs: Arc<Semaphore>,
    stop: CancellationToken,
}

/// The desk of one consumer.
#[derive(Default)]
struct Desk {
    /// The known jobs, oldest first.
    jobs: VecDeque<Arc<Job>>,
    seen: Option<Seen>,
}

/// What the last look has seen.
struct Seen {
    look: views::Look,
    snapshot: Arc<Mutex<Snapshot>>,
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
            stop: stop.clone(),
        }
    }

    fn desk(&self, consumer: &str) -> Result<&Mutex<Desk>, ApiError> {
        let missing = || ApiError::new(StatusCode::NOT_FOUND, "no such consumer");
        self.desks.get(consumer).ok_or_else(missing)
    }

    /// Starts a job on a thread of its own. An error if this consumer or the worker has too many.
    pub(super) fn start(
        self: &Arc<Self>,
        consumer: &str,
        place: Place,
        kind: JobKind,
        by: String,
        work: Work,
    ) -> Result<Arc<Job>, ApiError> {
        let busy = |text: String| ApiError::new(StatusCode::CONFLICT, text);
        let mut desk = lock(self.desk(consumer)?);
        if let Some(running) = desk.jobs.back().filter(|job| job.is_running()) {
            let (id, kind) = (&running.id, running.kind);
            return Err(busy(format!(
                "another job of this consumer is running: {id} ({kind:?})"
            )));
        }
        let permit = Arc::clone(&self.jobs).try_acquire_owned();
        let permit = permit.map_err(|_| {
            busy(format!(
                "{JOBS} jobs for dead letters are running; a further one must wait"
            ))
        })?;
        let id = Uuid::now_v7().to_string();
        let job = Job::new(id, consumer, kind, by, self.stop.child_token());
        let (desks, running) = (Arc::clone(self), Arc::clone(&job));
        let thread = std::thread::Builder::new().name("lapwing-dead".to_owned());
        let started = thread.spawn(move || {
            let ends = EndsWithThread(Arc::clone(&running));
            work.carry_out(&desks, &place, &running);
            // In this order: who waits for the end may start the next job.
            drop(permit);
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
        let look = desk.seen.as_ref().map(|seen| {
            let letters = lock(&seen.snapshot).len();
            views::Look {
                letters,
                ..seen.look.clone()
            }
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

    /// Forgets the last look of a consumer, whose place a new one takes, and the oldest looks of others.
    /// Returns the bytes that the new one may take.
    pub(super) fn make_room(&self, consumer: &str) -> usize {
        let mut others = Vec::new();
        for (name, desk) in &self.desks {
            let mut desk = lock(desk);
            if name == consumer {
                desk.seen = None;
            } else if let Some(seen) = &desk.seen {
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
        let room = memory_limit().map_or(ROOM, |limit| ROOM.min(limit / PART));
        usize::try_from(room).unwrap_or(usize::MAX) / LOOKS
    }

    /// A look has ended.
    pub(super) fn keep(&self, consumer: &str, look: views::Look, snapshot: Snapshot) {
        if let Some(desk) = self.desks.get(consumer) {
            lock(desk).seen = Some(Seen {
                look,
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
