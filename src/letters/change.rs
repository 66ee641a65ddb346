//! Taking letters out of the queue, each after its successor was confirmed.

use std::{collections::BTreeMap, ops::ControlFlow, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, join_all};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use utoipa::ToSchema;

use super::{
    Canaries, DeadLettersError, Filter, Letter, Looked, Waiting,
    desk::Desk,
    walk::{Copied, Walk, plain},
};
use crate::broker::Reading;

/// The letters of a batch when one ack covers them all. While the acks of a batch are on their way,
/// the next batch is published: if the connection is lost then, both are there twice.
const BATCH: usize = 50;
/// The letters of a batch when each needs an ack of its own. A quorum queue takes about 32 commands
/// of a channel at a time. The channel keeps the rest, and throws it away when it closes.
const SINGLES: usize = 32;

/// The longest wait between two looks whether the command is stopped.
pub(super) const STEP: Duration = Duration::from_millis(100);

/// How far a command is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Progress {
    /// The letters that were ready at the start.
    pub total: u32,
    /// The letters that were read.
    pub seen: u64,
    /// The letters that were taken out of the queue.
    pub changed: u64,
    /// How far the wait for the canaries is; `None` while the replay does not wait for them.
    pub canaries: Option<Waiting>,
}

/// Hears of the progress, and may stop the command: it ends after the batch under way.
pub(crate) type Report<'a> = &'a mut (dyn FnMut(Progress) -> ControlFlow<()> + Send);

/// How a change ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// What was read.
    pub looked: Looked,
    /// The letters that left the queue.
    pub changed: u64,
    /// The letters that were selected and stayed: why, and how many.
    pub kept: BTreeMap<String, u64>,
    /// Whether the command ended before the end of the queue: the report stopped it, a whole batch
    /// failed, or a letter failed and the order matters.
    pub stopped: bool,
    /// How the canaries ended; `None` for a change without canaries.
    pub canaries: Option<Canaries>,
}

impl Changed {
    fn keep(&mut self, why: String) {
        *self.kept.entry(why).or_default() += 1;
    }

    /// Adds what a second change of the same queue did. It has met again what the first one left, so that
    /// does not count twice: what the first one read, and what it kept.
    pub(super) fn then(self, later: Self) -> Self {
        let seen = self.looked.seen.max(self.changed + later.looked.seen);
        let selected = self.changed + later.looked.selected;
        Self {
            looked: Looked {
                total: self.looked.total,
                seen,
                selected,
                ..later.looked
            },
            changed: self.changed + later.changed,
            canaries: self.canaries,
            ..later
        }
    }

    /// The letters that were selected and stayed.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept.values().sum()
    }
}

/// What happens to the letters of a change.
pub(super) trait Change: Sync {
    /// Which letters the change is about.
    fn filter(&self) -> &Filter;

    /// The most letters to change.
    fn most(&self) -> u64 {
        u64::MAX
    }

    /// The most letters in a batch.
    fn batch(&self) -> usize {
        usize::MAX
    }

    /// The most letters to hold at a time.
    fn window(&self) -> usize {
        usize::MAX
    }

    /// When the next batch may begin; `None`: at once.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Why a letter that is selected stays where it is.
    fn refuses(&self, _letter: &Letter) -> Option<String> {
        None
    }

    /// Whether a letter may leave the queue only after all letters before it. Then the change ends at the
    /// first letter that fails.
    fn keeps_order(&self) -> bool {
        false
    }

    /// The copy that replaces a letter which stays, and has no delivery left.
    fn copy(&self, letter: &Letter) -> Copied {
        plain(letter)
    }

    /// Publishes the successor of a letter, and waits for the confirm. An error is the reason why
    /// the letter stays.
    fn succeed<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), String>>;

    /// The same for a batch: a result for each letter.
    fn succeed_all<'a>(&'a self, letters: &'a [Letter]) -> BoxFuture<'a, Vec<Result<(), String>>> {
        join_all(letters.iter().map(|letter| self.succeed(letter))).boxed()
    }
}

/// Carries out a change of the whole queue.
pub(super) async fn change<B: Reading>(
    desk: &Desk<B>,
    change: &impl Change,
    report: Report<'_>,
) -> Result<Changed, DeadLettersError> {
    let copier = |letter: &Letter| change.copy(letter);
    let mut walk = Walk::begin(desk, false, &copier).await?;
    let mut changed = Changed::default();
    changed.looked.total = walk.total;
    let through = through(&mut walk, change, &mut changed, report).await;
    // Also after an error: what was read goes back in its order.
    let walked = walk.end().await;
    through?;
    changed.looked.note(walked?);
    Ok(changed)
}

async fn through<B: Reading>(
    walk: &mut Walk<'_, B>,
    change: &impl Change,
    changed: &mut Changed,
    report: Report<'_>,
) -> Result<(), DeadLettersError> {
    loop {
        let wanted = change.most().saturating_sub(changed.changed);
        if wanted == 0 {
            // Before the walk is asked whether it may end: the letter that this may bring counts.
            walk.prove().await?;
        }
        let most = match (wanted, walk.may_end()) {
            (0, true) => return Ok(()),
            // Without a filter the next letters are the ones.
            (1.., true) if change.filter().is_all() => {
                usize::try_from(wanted).unwrap_or(usize::MAX)
            }
            _ => usize::MAX,
        };
        let letters = walk.window(most.min(change.window())).await?;
        if letters.is_empty() {
            return Ok(());
        }
        changed.looked.seen += letters.len() as u64;
        let (chosen, others) = choose(letters, change, changed);
        walk.keep(others).await?;
        if take_chosen(walk, chosen, change, changed, report)
            .await?
            .is_break()
        {
            changed.stopped = true;
            return Ok(());
        }
    }
}

/// Those of the letters that leave the queue, and the others.
fn choose(
    letters: Vec<Letter>,
    change: &impl Change,
    changed: &mut Changed,
) -> (Vec<Letter>, Vec<Letter>) {
    let (mut chosen, mut others) = (Vec::new(), Vec::new());
    for letter in letters {
        let is_wanted = changed.changed + (chosen.len() as u64) < change.most();
        if !is_wanted || !change.filter().fits(&letter) {
            others.push(letter);
            continue;
        }
        changed.looked.selected += 1;
        match change.refuses(&letter) {
            Some(why) => {
                changed.keep(why);
                others.push(letter);
            }
            None => chosen.push(letter),
        }
    }
    (chosen, others)
}

/// Takes these letters out of the queue, batch by batch.
async fn take_chosen<B: Reading>(
    walk: &mut Walk<'_, B>,
    chosen: Vec<Letter>,
    change: &impl Change,
    changed: &mut Changed,
    report: Report<'_>,
) -> Result<ControlFlow<()>, DeadLettersError> {
    let mut chosen = chosen.into_iter();
    let mut end = report(progress(walk, changed));
    while !chosen.as_slice().is_empty() {
        if end.is_continue() {
            end = wait(change.due(), progress(walk, changed), report).await;
        }
        if end.is_break() {
            walk.keep(chosen.collect()).await?;
            return Ok(end);
        }
        let is_alone = walk.holds_nothing();
        let size = change.batch().min(if is_alone { BATCH } else { SINGLES });
        let batch: Vec<_> = chosen.by_ref().take(size).collect();
        let count = batch.len();
        let succeeded = change.succeed_all(&batch).await;
        let (mut tags, mut ids, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (letter, succeeded) in batch.into_iter().zip(succeeded) {
            match succeeded {
                Ok(()) => {
                    tags.push(letter.tag);
                    ids.push(letter.summary.id);
                }
                Err(why) => {
                    changed.keep(why);
                    failed.push(letter);
                }
            }
        }
        let is_prefix = failed.is_empty() || change.keeps_order();
        walk.take(&tags, is_alone && is_prefix).await?;
        changed.changed += tags.len() as u64;
        walk.tell_gone(ids);
        let ends = failed.len() == count || (change.keeps_order() && !failed.is_empty());
        walk.keep(failed).await?;
        end = report(progress(walk, changed));
        if ends {
            end = ControlFlow::Break(());
        }
    }
    Ok(end)
}

/// Waits until a batch is due, unless the report stops the command.
async fn wait(due: Option<Instant>, progress: Progress, report: Report<'_>) -> ControlFlow<()> {
    let left = || due.map(|due| due.saturating_duration_since(Instant::now()));
    while let Some(left) = left().filter(|left| !left.is_zero()) {
        sleep(left.min(STEP)).await;
        if report(progress).is_break() {
            return ControlFlow::Break(());
        }
    }
    ControlFlow::Continue(())
}

fn progress<B: Reading>(walk: &Walk<'_, B>, changed: &Changed) -> Progress {
    Progress {
        total: walk.total,
        seen: changed.looked.seen,
        changed: changed.changed,
        canaries: None,
    }
}

/// Letters that leave the queue without a successor.
struct Drop<'a> {
    filter: &'a Filter,
    limit: Option<usize>,
}

impl Change for Drop<'_> {
    fn filter(&self) -> &Filter {
        self.filter
    }

    fn most(&self) -> u64 {
        self.limit.map_or(u64::MAX, |limit| limit as u64)
    }

    fn succeed<'a>(&'a self, _: &'a Letter) -> BoxFuture<'a, Result<(), String>> {
        std::future::ready(Ok(())).boxed()
    }
}

pub(super) async fn drop<B: Reading>(
    desk: &Desk<B>,
    filter: &Filter,
    limit: Option<usize>,
    by: &str,
    report: Report<'_>,
) -> Result<Changed, DeadLettersError> {
    let dropped = change(desk, &Drop { filter, limit }, report).await;
    let queue = &desk.queue;
    match &dropped {
        Ok(it) => info!(
            queue,
            by,
            dropped = it.changed,
            %filter,
            "dropped dead letters"
        ),
        Err(error) => warn!(queue, by, %filter, %error, "dropping dead letters ended early"),
    }
    dropped
}
