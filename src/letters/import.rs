//! Putting the letters of an export into the queue.

use std::{
    future::ready,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::{StreamExt, stream};
use tracing::info;

use super::{DeadLettersError, Progress, archive::from_line, change::Report, desk::Desk};
use crate::broker::Reading;

/// The publishes at a time.
const AT_ONCE: usize = 32;

/// How an import ended.
#[derive(Debug, Default)]
pub struct Imported {
    /// The letters whose publish the broker confirmed.
    pub imported: u64,
    /// Whether the report stopped the import before its end.
    pub stopped: bool,
    /// Why it ended early: the first letter that was not confirmed. A letter that was under way then may be
    /// in the queue as well.
    pub error: Option<DeadLettersError>,
}

/// Publishes the letters of these lines. The order is about that of the lines.
pub(super) async fn import<B: Reading>(
    desk: &Desk<B>,
    lines: &[String],
    by: &str,
    report: Report<'_>,
) -> Result<Imported, DeadLettersError> {
    desk.depth().await?;
    let ends = AtomicBool::new(false);
    let publish = async |line: &String| from_line(line)?.publish(desk).await;
    let under_way = stream::iter(lines)
        .take_while(|_| ready(!ends.load(Ordering::Relaxed)))
        .map(publish)
        .buffer_unordered(AT_ONCE);
    let mut under_way = std::pin::pin!(under_way);
    let mut ended = Imported::default();
    // Those under way are waited for, so that the count is right.
    while let Some(published) = under_way.next().await {
        match published {
            Ok(()) => ended.imported += 1,
            Err(error) => {
                ended.error.get_or_insert(error);
                ends.store(true, Ordering::Relaxed);
            }
        }
        let progress = Progress {
            total: u32::try_from(lines.len()).unwrap_or(u32::MAX),
            seen: ended.imported,
            changed: ended.imported,
            canaries: None,
        };
        if report(progress).is_break() {
            ends.store(true, Ordering::Relaxed);
        }
    }
    ended.stopped = ended.error.is_none() && ended.imported < lines.len() as u64;
    let (queue, imported) = (&desk.queue, ended.imported);
    match &ended.error {
        None => info!(queue, by, imported, "imported dead letters"),
        Some(error) => {
            info!(queue, by, imported, %error, "the import of dead letters ended early");
        }
    }
    Ok(ended)
}
