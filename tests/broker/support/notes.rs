//! Records of the test's own handlers: their runs, and how many run at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lapwing::Context;
use tokio::sync::watch;

use super::wait::DEADLINE;

/// One run of a handler, as the handler saw it.
#[derive(Clone, Debug)]
pub struct HandlerRun {
    /// The message.
    pub id: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// When the handler noted it.
    pub at: Instant,
}

/// The record of handler runs. Clones are the same record.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    runs: watch::Sender<Vec<HandlerRun>>,
}

impl Notes {
    /// Records a run of the handler. Returns the number of runs for this message, including this
    /// one.
    pub fn note(&self, context: &Context) -> usize {
        let id = context.message().id().unwrap_or_default().to_owned();
        let run = HandlerRun {
            id: id.clone(),
            attempt: context.attempt(),
            at: Instant::now(),
        };
        let mut seen = 0;
        self.runs.send_modify(|runs| {
            runs.push(run);
            seen = runs.iter().rev().filter(|run| run.id == id).count();
        });
        seen
    }

    /// All notes up to now.
    pub fn runs(&self) -> Vec<HandlerRun> {
        self.runs.borrow().clone()
    }

    /// The runs of a message.
    pub fn of(&self, id: &str) -> Vec<HandlerRun> {
        let runs = self.runs.borrow();
        runs.iter().filter(|run| run.id == id).cloned().collect()
    }

    /// Waits until there are this many notes.
    pub async fn wait_for(&self, count: usize) -> Vec<HandlerRun> {
        self.wait_until(&format!("{count} handler runs"), |runs| runs.len() >= count)
            .await
    }

    /// Waits until `accept` returns true for the notes.
    pub async fn wait_until(
        &self,
        what: &str,
        accept: impl Fn(&[HandlerRun]) -> bool,
    ) -> Vec<HandlerRun> {
        let mut runs = self.runs.subscribe();
        match tokio::time::timeout(DEADLINE, runs.wait_for(|runs| accept(runs))).await {
            Ok(runs) => runs.expect("the sender is ours").clone(),
            Err(_) => panic!(
                "waited {DEADLINE:?} until {what}; there are {:?}",
                self.runs()
            ),
        }
    }
}

/// Counts how many are inside at once. Clones are the same meter.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    inside: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

impl Meter {
    /// Counts one as inside until the guard is dropped.
    pub fn enter(&self) -> impl Drop + Send + use<> {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(inside, Ordering::SeqCst);
        Inside(self.inside.clone())
    }

    /// The highest number inside at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }
}

struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
