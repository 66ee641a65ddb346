//! The work of a job, on its thread.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use uuid::Uuid;

use super::{
    desk::{Desks, Place},
    export::Lines,
    job::{Ended, Job},
    snapshot::Snapshot,
    views::{self, JobResult},
    whole,
};
use crate::{
    clock,
    letters::{DeadLetters, Edit, Filter, Letter, Look, Looked, Match, Progress, Replay, to_line},
    lock::lock,
    text::{causes, rfc3339},
};

/// What a job does.
pub(super) enum Work {
    /// Reads the letters that fit, and keeps a line for each.
    Look {
        look: Look,
        matches: Vec<Match>,
    },
    /// Reads one letter, and puts it here as JSON.
    Show {
        id: String,
        found: Arc<Mutex<Option<String>>>,
    },
    /// Writes letters as lines of an export.
    Export {
        filter: Filter,
        lines: Lines,
    },
    /// Says what a replay would do.
    Plan(Replay),
    /// Says how many letters would be dropped.
    Count {
        filter: Filter,
        limit: Option<usize>,
    },
    Replay(Replay),
    Edit(Edit),
    /// Puts the letters of these lines into the queue.
    Import(Vec<String>),
    Drop {
        filter: Filter,
        limit: Option<usize>,
    },
}

impl Work {
    /// Connects and does the work. The connections end with it.
    pub(super) fn carry_out(self, desks: &Arc<Desks>, place: &Place, job: &Arc<Job>) -> Ended {
        // The work runs on this thread, and the connections on the other one: so they stay alive while
        // the work reads letters, or waits for a client.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lapwing-dead-io")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let ended = runtime.block_on(async {
            let (broker, timeouts) = (&desks.broker, &desks.timeouts);
            let connecting = DeadLetters::connect(broker, timeouts, &place.queue, place.limit);
            let mut letters = connecting
                .await
                .map_err(|error| format!("cannot connect to the broker: {}", causes(&error)))?;
            let ended = self.with(desks, &mut letters, job).await;
            letters.close().await;
            ended
        });
        runtime.shutdown_background();
        ended
    }

    async fn with(self, desks: &Arc<Desks>, letters: &mut DeadLetters, job: &Arc<Job>) -> Ended {
        let mut report = |progress| job.note(progress);
        let gone = Arc::new(Gone::of(desks.snapshot(&job.consumer)));
        let changed = match self {
            Self::Look { look, matches } => {
                return look_at(desks, letters, job, &look, matches).await;
            }
            Self::Show { id, found } => return show(letters, job, id, &found).await,
            Self::Export { filter, lines } => return export(letters, job, filter, lines).await,
            Self::Plan(replay) => return plan(letters, job, &replay).await,
            Self::Count { filter, limit } => return count(letters, job, filter, limit).await,
            Self::Import(lines) => return import(letters, job, &lines).await,
            Self::Edit(edit) => {
                let edited = letters.edit(&edit, &mut report).await;
                let edited = edited.map_err(|error| causes(&error))?;
                if let Some(snapshot) = desks.snapshot(&job.consumer).filter(|_| edited.changed > 0)
                {
                    lock(&snapshot).edited(&edit.id, edit.body.len());
                }
                return Ok((JobResult::from(&edited), edited.stopped));
            }
            Self::Replay(replay) => {
                gone.listen(letters);
                letters.replay(&replay, &mut report).await
            }
            Self::Drop { filter, limit } => {
                gone.listen(letters);
                letters.drop(&filter, limit, &job.by, &mut report).await
            }
        };
        // Also after an error: these letters have left the queue.
        gone.tell();
        let changed = changed.map_err(|error| causes(&error))?;
        Ok((JobResult::from(&changed), changed.stopped))
    }
}

/// Takes letters that left their queue out of the last look.
struct Gone {
    snapshot: Option<Arc<Mutex<Snapshot>>>,
    /// The ids that the look has yet to hear of.
    ids: Mutex<Vec<String>>,
}

impl Gone {
    /// Each time that the look hears of letters, it goes through all its lines.
    const AT_ONCE: usize = 2000;

    fn of(snapshot: Option<Arc<Mutex<Snapshot>>>) -> Self {
        Self {
            snapshot,
            ids: Mutex::default(),
        }
    }

    fn listen(self: &Arc<Self>, letters: &mut DeadLetters) {
        if self.snapshot.is_none() {
            return;
        }
        let gone = Arc::clone(self);
        letters.on_gone(move |mut batch| {
            let mut ids = lock(&gone.ids);
            ids.append(&mut batch);
            let is_enough = ids.len() >= Self::AT_ONCE;
            drop(ids);
            if is_enough {
                gone.tell();
            }
        });
    }

    fn tell(&self) {
        let ids = std::mem::take(&mut *lock(&self.ids));
        if let Some(snapshot) = self.snapshot.as_ref().filter(|_| !ids.is_empty()) {
            lock(snapshot).remove(&ids);
        }
    }
}

async fn look_at(
    desks: &Desks,
    letters: &DeadLetters,
    job: &Job,
    look: &Look,
    matches: Vec<Match>,
) -> Ended {
    // With a filter it is not known how many letters will fit.
    let count = match look.filter.is_all() {
        true => letters.depth().await.map_err(|error| causes(&error))?,
        false => 0,
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut snapshot = Snapshot::with_room(Desks::room(), count);
    let mut see = |letter: &Letter| snapshot.add(letter, whole::as_json);
    let looked = letters.look(look, &mut see, &mut |it| job.note(it)).await;
    let looked = looked.map_err(|error| causes(&error))?;
    snapshot.finish();
    let view = views::Look {
        look: Uuid::now_v7().to_string(),
        looked_at: rfc3339(clock::now()),
        total: looked.total,
        seen: looked.seen,
        letters: snapshot.len(),
        not_kept: snapshot.not_kept,
        stopped: looked.stopped,
        costs_deliveries: letters.looks_count(),
        short: looked.short,
        matches: matches.iter().map(Match::place).collect(),
    };
    desks.keep(&job.consumer, view, matches, snapshot);
    Ok(ended(&looked))
}

fn ended(looked: &Looked) -> (JobResult, bool) {
    (JobResult::from(looked), looked.stopped)
}

async fn show(
    letters: &DeadLetters,
    job: &Job,
    id: String,
    found: &Mutex<Option<String>>,
) -> Ended {
    let look = Look {
        filter: Filter {
            ids: vec![id],
            ..Filter::default()
        },
        limit: Some(1),
        renew: false,
    };
    let mut see = |letter: &Letter| *lock(found) = Some(whole::as_json(letter));
    let looked = letters.look(&look, &mut see, &mut |it| job.note(it)).await;
    Ok(ended(&looked.map_err(|error| causes(&error))?))
}

async fn plan(letters: &DeadLetters, job: &Job, replay: &Replay) -> Ended {
    let plan = letters.plan(replay, &mut |it| job.note(it)).await;
    let plan = plan.map_err(|error| causes(&error))?;
    let (result, stopped) = ended(&plan.looked);
    let result = JobResult {
        kept: plan.kept,
        targets: Some(plan.targets),
        elsewhere: plan.elsewhere,
        ..result
    };
    Ok((result, stopped))
}

async fn count(letters: &DeadLetters, job: &Job, filter: Filter, limit: Option<usize>) -> Ended {
    let look = Look {
        filter,
        limit,
        renew: false,
    };
    let looked = letters
        .look(&look, &mut |_| {}, &mut |it| job.note(it))
        .await;
    Ok(ended(&looked.map_err(|error| causes(&error))?))
}

async fn import(letters: &DeadLetters, job: &Job, lines: &[String]) -> Ended {
    let imported = letters.import(lines, &job.by, &mut |it| job.note(it)).await;
    let imported = imported.map_err(|error| causes(&error))?;
    if let Some(error) = imported.error {
        let (count, all) = (imported.imported, lines.len());
        return Err(format!(
            "imported {count} of {all} letters: {}",
            causes(&error)
        ));
    }
    let result = JobResult {
        selected: lines.len() as u64,
        changed: imported.imported,
        ..JobResult::default()
    };
    Ok((result, imported.stopped))
}

async fn export(letters: &DeadLetters, job: &Job, filter: Filter, mut lines: Lines) -> Ended {
    let look = Look {
        filter,
        ..Look::default()
    };
    lines.until(job.stopped());
    let is_closed = lines.closed();
    let client = lines.client();
    let mut see = |letter: &Letter| lines.write(to_line(letter));
    let mut report = |progress: Progress| match is_closed.is_cancelled() || client.is_closed() {
        true => ControlFlow::Break(()),
        false => job.note(progress),
    };
    let looked = letters.look(&look, &mut see, &mut report).await;
    let looked = looked.map_err(|error| causes(&error))?;
    if is_closed.is_cancelled() || client.is_closed() {
        return Err("the client read too slowly, or went away".to_owned());
    }
    if !looked.stopped {
        lines.finish();
    }
    Ok(ended(&looked))
}
