//! The work of a job, on its thread.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use uuid::Uuid;

use super::{
    desk::{Desks, Place},
    export::Lines,
    job::Job,
    snapshot::Snapshot,
    views::{self, JobResult},
    whole,
};
use crate::{
    clock,
    letters::{DeadLetters, Edit, Filter, Letter, Look, Looked, Progress, Replay, to_line},
    lock::lock,
    text::{causes, rfc3339},
};

/// What a job does.
pub(super) enum Work {
    /// Reads the letters that fit, and keeps a line for each.
    Look {
        look: Look,
        matches: Vec<String>,
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
    Replay(Replay),
    Edit(Edit),
    Drop(Filter),
}

/// What a job did, and whether it was stopped; or why it failed.
type Ended = Result<(JobResult, bool), String>;

impl Work {
    /// Connects, does the work, and ends the job. The connections end with it.
    pub(super) fn carry_out(self, desks: &Desks, place: &Place, job: &Job) {
        // The work runs on this thread, and the connections on the other one: so they stay alive while
        // the work reads letters, or waits for a client.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lapwing-dead-io")
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return job.end(Err(format!("no runtime: {error}"))),
        };
        let ended = runtime.block_on(async {
            let (broker, timeouts) = (&desks.broker, &desks.timeouts);
            let connecting = DeadLetters::connect(broker, timeouts, &place.queue, place.limit);
            let letters = connecting
                .await
                .map_err(|error| format!("cannot connect to the broker: {}", causes(&error)))?;
            let ended = self.with(desks, &letters, job).await;
            letters.close().await;
            ended
        });
        runtime.shutdown_background();
        job.end(ended);
    }

    async fn with(self, desks: &Desks, letters: &DeadLetters, job: &Job) -> Ended {
        let told = |error: &dyn std::error::Error| causes(error);
        let mut report = |progress| job.note(progress);
        let changed = match self {
            Self::Look { look, matches } => {
                return look_at(desks, letters, job, &look, matches).await;
            }
            Self::Show { id, found } => return show(letters, job, id, &found).await,
            Self::Export { filter, lines } => return export(letters, job, filter, lines).await,
            Self::Edit(edit) => {
                letters.edit(&edit).await.map_err(|error| told(&error))?;
                if let Some(snapshot) = desks.snapshot(&job.consumer) {
                    lock(&snapshot).edited(&edit.id, edit.body.len());
                }
                let result = JobResult {
                    selected: 1,
                    changed: 1,
                    ..JobResult::default()
                };
                return Ok((result, false));
            }
            Self::Replay(replay) => letters.replay(&replay, &mut report).await,
            Self::Drop(filter) => letters.drop(&filter, &job.by, &mut report).await,
        };
        let changed = changed.map_err(|error| told(&error))?;
        if let Some(snapshot) = desks.snapshot(&job.consumer) {
            lock(&snapshot).remove(&changed.ids);
        }
        Ok((JobResult::from(&changed), changed.stopped))
    }
}

async fn look_at(
    desks: &Desks,
    letters: &DeadLetters,
    job: &Job,
    look: &Look,
    matches: Vec<String>,
) -> Ended {
    // With a filter it is not known how many letters will fit.
    let count = match look.filter.is_all() {
        true => letters.depth().await.map_err(|error| causes(&error))?,
        false => 0,
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut snapshot = Snapshot::with_room(desks.make_room(&job.consumer), count);
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
        matches,
    };
    desks.keep(&job.consumer, view, snapshot);
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

async fn export(letters: &DeadLetters, job: &Job, filter: Filter, mut lines: Lines) -> Ended {
    let look = Look {
        filter,
        ..Look::default()
    };
    let is_closed = lines.closed();
    let mut see = |letter: &Letter| lines.write(to_line(letter));
    let mut report = |progress: Progress| match is_closed.is_cancelled() {
        true => ControlFlow::Break(()),
        false => job.note(progress),
    };
    let looked = letters.look(&look, &mut see, &mut report).await;
    let looked = looked.map_err(|error| causes(&error))?;
    if is_closed.is_cancelled() {
        return Err("the client read too slowly, or went away".to_owned());
    }
    if !looked.stopped {
        lines.finish();
    }
    Ok(ended(&looked))
}
