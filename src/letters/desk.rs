//! The queue that the commands work on, and the connections to its broker.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{
    Changed, DeadLettersError, Edit, Filter, Imported, Letter, Look, Looked, Plan, Replay,
    change::{self, Report},
    edit, import, look, plan, replay,
};
use crate::broker::{
    Broker, BrokerError, BrokerSettings, Links, Rabbit, Reading, TimeoutSettings, Version,
};

/// The delivery limit with which a worker declares its dead-letter queue.
pub const DECLARED_LIMIT: u64 = 100_000;

/// The publishes that a command has under way at a time.
pub(super) const CHANNELS: usize = 32;

/// Hears the ids of the letters of each batch that has left the queue.
pub(super) type Gone = Box<dyn Fn(Vec<String>) + Send + Sync>;

/// A queue of dead letters at a broker.
pub(super) struct Desk<B> {
    pub(super) broker: B,
    pub(super) queue: String,
    /// The delivery limit, once it is known.
    limit: OnceCell<Option<u64>>,
    pub(super) gone: Option<Gone>,
}

impl<B: Broker + Reading> Desk<B> {
    /// `limit` is the delivery limit of the queue, if the settings say it.
    pub(super) fn new(broker: B, queue: &str, limit: Option<u64>) -> Self {
        Self {
            broker,
            queue: queue.to_owned(),
            limit: limit.map_or_else(OnceCell::new, |limit| OnceCell::from(Some(limit))),
            gone: None,
        }
    }

    /// The letters that are ready.
    pub(super) async fn depth(&self) -> Result<u32, DeadLettersError> {
        let depths = self.broker.depths(vec![self.queue.clone()]).await?;
        let depth = depths.into_iter().next().and_then(|(_, depth)| depth);
        depth.ok_or_else(|| DeadLettersError::NoQueue(self.queue.clone()))
    }

    /// How often a letter may be returned; `None` without limit.
    pub(super) async fn limit(&self) -> Result<Option<u64>, BrokerError> {
        let ask = || self.broker.delivery_limit(&self.queue);
        self.limit.get_or_try_init(ask).await.copied()
    }
}

/// The dead letters of one queue.
pub struct DeadLetters {
    desk: Desk<Rabbit>,
    links: Links,
    timeouts: Arc<TimeoutSettings>,
}

impl DeadLetters {
    /// Connects. `limit` is the delivery limit of the queue, if it is known; else the broker is
    /// asked.
    ///
    /// # Errors
    /// When the first attempt to connect fails.
    pub async fn connect(
        broker: &BrokerSettings,
        timeouts: &TimeoutSettings,
        queue: &str,
        limit: Option<u64>,
    ) -> Result<Self, BrokerError> {
        let timeouts = Arc::new(timeouts.clone());
        let name = format!("{} dead letters", broker.name);
        let links = Links::start(&Arc::new(broker.clone()), &timeouts, &name);
        if let Err(error) = links.connected().await {
            links.close(timeouts.close).await;
            return Err(error);
        }
        let desk = Desk::new(links.broker(CHANNELS, &timeouts), queue, limit);
        Ok(Self {
            desk,
            links,
            timeouts,
        })
    }

    /// Calls `gone` with the ids of the letters of each batch that a change has taken out of the queue.
    pub(crate) fn on_gone(&mut self, gone: impl Fn(Vec<String>) + Send + Sync + 'static) {
        self.desk.gone = Some(Box::new(gone));
    }

    /// The queue's name.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.desk.queue
    }

    /// The broker's version, if the broker has named one.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.desk.broker.version()
    }

    /// Whether a look costs each letter a delivery that counts.
    #[must_use]
    pub fn looks_count(&self) -> bool {
        let free = |version| version >= Version::RETURNS_FREELY;
        !self.version().is_some_and(free)
    }

    /// The letters that are ready.
    ///
    /// # Errors
    /// When the queue does not exist or the broker cannot be asked.
    pub async fn depth(&self) -> Result<u32, DeadLettersError> {
        self.desk.depth().await
    }

    /// Reads letters, and returns them to the queue. `see` gets each letter that the filter
    /// selects.
    ///
    /// # Errors
    /// When the queue cannot be read to the end.
    pub async fn look(
        &self,
        look: &Look,
        see: &mut (dyn FnMut(&Letter) + Send),
        report: Report<'_>,
    ) -> Result<Looked, DeadLettersError> {
        look::look(&self.desk, look, see, report).await
    }

    /// Publishes letters again, and takes each out of the queue when its copy is confirmed.
    ///
    /// # Errors
    /// When the queue cannot be read to the end. What was replayed before stays replayed.
    pub async fn replay(
        &self,
        replay: &Replay,
        report: Report<'_>,
    ) -> Result<Changed, DeadLettersError> {
        replay::replay(&self.desk, replay, report).await
    }

    /// Drops the letters that the filter selects, at most `limit`. `by` says who, for the log.
    ///
    /// # Errors
    /// When the queue cannot be read to the end. What was dropped before stays dropped.
    pub async fn drop(
        &self,
        filter: &Filter,
        limit: Option<usize>,
        by: &str,
        report: Report<'_>,
    ) -> Result<Changed, DeadLettersError> {
        change::drop(&self.desk, filter, limit, by, report).await
    }

    /// Says what a replay would do, and changes nothing.
    ///
    /// # Errors
    /// When the queue cannot be read to the end.
    pub async fn plan(
        &self,
        replay: &Replay,
        report: Report<'_>,
    ) -> Result<Plan, DeadLettersError> {
        plan::plan(&self.desk, replay, report).await
    }

    /// Puts the letters of an export into the queue, each line one that [`to_line`](super::to_line) wrote.
    /// `by` says who, for the log.
    ///
    /// # Errors
    /// When the queue does not exist. An import that ends early is no error: see [`Imported::error`].
    pub async fn import(
        &self,
        lines: &[String],
        by: &str,
        report: Report<'_>,
    ) -> Result<Imported, DeadLettersError> {
        import::import(&self.desk, lines, by, report).await
    }

    /// Replaces a letter by its edited copy, which goes to the end of the queue. If the report stops it
    /// before, nothing has changed.
    ///
    /// # Errors
    /// When the letter is not found as it was, or its copy is not confirmed. Then it stays.
    pub async fn edit(&self, edit: &Edit, report: Report<'_>) -> Result<Changed, DeadLettersError> {
        edit::edit(&self.desk, edit, report).await
    }

    /// Closes the connections.
    pub async fn close(self) {
        self.links.close(self.timeouts.close).await;
    }
}
