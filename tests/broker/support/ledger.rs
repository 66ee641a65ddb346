//! The account of a test: published messages, runs of the handler, and messages left in queues.
//!
//! The account does not rely on reports of broker or worker. It counts from the outside: every
//! published id must have been handled, or lie in a queue.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Instant;

use super::exchange::{Ending, Seen};
use super::vhost::VHost;

/// How many messages a failure lists.
const LISTED: usize = 20;

/// One run of the handler.
#[derive(Clone, Debug)]
pub struct Run {
    /// The message.
    pub id: String,
    /// The attempt that the worker sent to the handler, from 1.
    pub attempt: u32,
    /// When it began.
    pub started: Instant,
    /// When and how it ended; `None` if it still runs.
    pub ended: Option<(Instant, Ending)>,
}

impl Run {
    /// Whether the handler answered with success.
    pub fn succeeded(&self) -> bool {
        matches!(self.ended, Some((_, Ending::Answered(200..=299))))
    }
}

/// Published, run, left. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Account {
    published: BTreeSet<String>,
    runs: BTreeMap<String, Vec<Run>>,
    /// The queues each message lies in, a name for each copy.
    left: BTreeMap<String, Vec<String>>,
}

impl Account {
    /// Empties `queues` (work, dead-letter and retry queues, as far as they exist) and reads the
    /// handler's record.
    ///
    /// The worker must have ended: messages that it still holds would count as lost. Reads empty
    /// queues twice, because a message can move from a retry queue to a work queue that was already
    /// read.
    pub async fn take(
        vhost: &VHost,
        published: impl IntoIterator<Item = String>,
        seen: &Seen,
        queues: &[&str],
    ) -> Self {
        let mut account = Self::new(published, seen);
        let mut empty_looks = 0;
        while empty_looks < 2 {
            empty_looks += 1;
            for queue in queues {
                if !vhost.exists(queue).await {
                    continue;
                }
                for got in vhost.drain_all(queue).await {
                    account.add_left(queue, got.id());
                    empty_looks = 0;
                }
            }
        }
        account
    }

    /// The account before the queues are looked at.
    pub fn new(published: impl IntoIterator<Item = String>, seen: &Seen) -> Self {
        let mut account = Self {
            published: published.into_iter().collect(),
            ..Self::default()
        };
        for exchange in &seen.exchanges {
            let id = exchange.request.message_id().to_owned();
            account.runs.entry(id.clone()).or_default().push(Run {
                id,
                attempt: exchange.request.attempt(),
                started: exchange.request.at,
                ended: exchange.ended,
            });
        }
        account
    }

    /// Notes that a copy of `id` lies in `queue`.
    pub fn add_left(&mut self, queue: &str, id: &str) {
        self.left
            .entry(id.to_owned())
            .or_default()
            .push(queue.to_owned());
    }

    /// The runs of a message, in the order they began.
    pub fn runs_of(&self, id: &str) -> &[Run] {
        self.runs.get(id).map_or(&[], Vec::as_slice)
    }

    /// The queues a message lies in, a name for each copy.
    pub fn queues_of(&self, id: &str) -> &[String] {
        self.left.get(id).map_or(&[], Vec::as_slice)
    }

    /// How many copies `queue` held.
    pub fn left_in(&self, queue: &str) -> usize {
        self.left
            .values()
            .flatten()
            .filter(|name| *name == queue)
            .count()
    }

    /// Messages that were neither handled nor lie in a queue.
    pub fn lost(&self) -> Vec<&str> {
        self.published_where(|id| {
            self.queues_of(id).is_empty() && !self.runs_of(id).iter().any(Run::succeeded)
        })
    }

    /// Messages that were handled.
    pub fn finished(&self) -> impl Iterator<Item = &str> {
        let runs = self.runs.iter();
        runs.filter(|(_, runs)| runs.iter().any(Run::succeeded))
            .map(|(id, _)| id.as_str())
    }

    /// Messages that were handled more than once.
    pub fn handled_twice(&self) -> Vec<&str> {
        self.published_where(|id| {
            self.runs_of(id)
                .iter()
                .filter(|run| run.succeeded())
                .count()
                > 1
        })
    }

    /// Messages with more than one copy, or with a copy although they were handled.
    pub fn duplicated(&self) -> Vec<&str> {
        self.published_where(|id| {
            let succeeded = self
                .runs_of(id)
                .iter()
                .filter(|run| run.succeeded())
                .count();
            succeeded.min(1) + self.queues_of(id).len() > 1
        })
    }

    /// Ids that appear in a run or in a queue, although the test did not publish them.
    pub fn unknown(&self) -> Vec<&str> {
        let seen: BTreeSet<&String> = self.runs.keys().chain(self.left.keys()).collect();
        let unknown = seen.into_iter().filter(|id| !self.published.contains(*id));
        unknown.map(String::as_str).collect()
    }

    /// Asserts the promise: no message is lost. Duplicates are allowed.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        self.assert_none("lost", &self.lost());
        self.assert_none("not published by this test", &self.unknown());
    }

    /// Asserts that no message is lost and none was handled twice, which must hold without crashes.
    #[track_caller]
    pub fn assert_exactly_once(&self) {
        self.assert_nothing_lost();
        self.assert_none("handled more than once", &self.handled_twice());
        self.assert_none("there in more than one form", &self.duplicated());
    }

    fn published_where(&self, is: impl Fn(&str) -> bool) -> Vec<&str> {
        self.published
            .iter()
            .map(String::as_str)
            .filter(|id| is(id))
            .collect()
    }

    #[track_caller]
    fn assert_none(&self, what: &str, ids: &[&str]) {
        assert!(
            ids.is_empty(),
            "{} messages {what}\n{}",
            ids.len(),
            self.story(ids)
        );
    }

    /// The totals, and for the first of `ids` every run and every copy.
    fn story(&self, ids: &[&str]) -> String {
        let runs: usize = self.runs.values().map(Vec::len).sum();
        let left: usize = self.left.values().map(Vec::len).sum();
        let published = self.published.len();
        let mut story =
            format!("published {published}, handler runs {runs}, left in queues {left}");
        for id in ids.iter().take(LISTED) {
            let runs = self.runs_of(id).iter();
            let runs: Vec<_> = runs
                .map(|run| format!("#{} {}", run.attempt, ending(run)))
                .collect();
            let queues = self.queues_of(id).join(", ");
            write!(
                story,
                "\n  {id:?}: runs [{}], in queues [{queues}]",
                runs.join(", ")
            )
            .expect("a string takes any text");
        }
        if ids.len() > LISTED {
            write!(story, "\n  and {} more", ids.len() - LISTED).expect("a string takes any text");
        }
        story
    }
}

/// How a run ended, in a few words.
fn ending(run: &Run) -> String {
    match run.ended {
        None => "still running".to_owned(),
        Some((at, how)) => {
            let after = at.saturating_duration_since(run.started);
            match how {
                Ending::Answered(status) => format!("answered {status} after {after:.1?}"),
                Ending::Abandoned => format!("abandoned after {after:.1?}"),
            }
        }
    }
}
