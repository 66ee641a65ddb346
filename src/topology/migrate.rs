//! Replaces a work queue by a quorum queue under a new name.
//!
//! Each step may be repeated: the new queue is declared, each binding is made at the new queue before
//! it is taken from the old one, and the messages move with a confirm before each ack. So a migration
//! that was killed goes on where it stopped. The old queue is deleted only if the command has seen
//! that nothing can come back to it. In every other case the command says what to check.

use std::ops::ControlFlow;

use serde::Serialize;
use tracing::info;

use super::{
    Bound, Left, TopologyDesk, TopologyError,
    mover::{Mover, Seen, WATCH},
};
use crate::{
    broker::{
        Broker, BrokerError, CopyHeaders, Properties, Publication, QueueSpec, Unknown, Written,
    },
    letters::Progress,
    text::visible,
};

/// What a migration would do.
#[derive(Clone, Debug)]
pub struct Migration {
    /// The queue to replace.
    pub from: String,
    /// The quorum queue that replaces it.
    pub to: String,
    /// The messages that are ready in the old queue, and its consumers; `None`: the old queue does not
    /// exist any more.
    pub counts: Option<(u32, u32)>,
    /// Whether the old queue is a quorum queue; `None` if that is not known.
    pub is_quorum: Option<bool>,
    /// The queues that do not exist yet.
    pub missing: Vec<String>,
    /// The bindings that the old queue loses and the new one gets.
    pub bindings: Vec<Bound>,
    /// Why only the bindings of the settings are known; `None`: all are known.
    pub assumed: Option<String>,
    /// Bindings that cannot be moved, because their arguments are not known exactly.
    pub unclear: Vec<Bound>,
    /// What a person should know before it begins.
    pub notes: Vec<String>,
    pub(super) source: QueueSpec,
    pub(super) target: QueueSpec,
    pub(super) of_target: Vec<Bound>,
}

/// How messages move.
#[derive(Clone, Debug)]
pub struct Moving {
    /// The most messages per second; `None`: as fast as the broker confirms them.
    pub rate: Option<f64>,
    /// Who migrates, for the log.
    pub by: String,
}

/// A step that is done.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Step<'a> {
    /// These queues were created.
    Created(&'a [String]),
    /// The new queue has this binding, and the old one has lost it.
    Rebound(&'a Bound),
    /// This many messages were moved in one pass.
    Moved(u64),
    /// Nothing is in the way. The command looks for this long whether it stays so.
    Watching(std::time::Duration),
    /// The old queue is deleted.
    Deleted,
}

/// How a migration ended.
#[derive(Clone, Debug, Serialize)]
pub struct Migrated {
    /// The queues that were created.
    pub created: Vec<String>,
    /// The bindings that were moved.
    pub rebound: Vec<Bound>,
    /// The messages that were moved.
    pub moved: u64,
    /// Whether the old queue is gone.
    pub deleted: bool,
    /// Whether the command was stopped.
    pub stopped: bool,
    /// What is left at the old queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
}

/// Hears of the progress of moving, and may stop it.
pub(super) type Report<'a> = &'a mut (dyn FnMut(Progress) -> ControlFlow<()> + Send);
/// Hears of each step.
pub(super) type Tell<'a> = &'a mut (dyn FnMut(Step<'_>) + Send);

impl TopologyDesk {
    /// Keeps every other migration of this queue away until the connection ends.
    ///
    /// An exclusive queue does that, which the broker deletes with its connection. A message to that queue
    /// shows whether this user may publish, and under which name the broker knows the user: the records
    /// of retries are believed by that name.
    ///
    /// # Errors
    /// [`TopologyError::Refused`] if another migration runs, or this user may not publish.
    pub async fn reserve(&self, from: &str) -> Result<(), TopologyError> {
        let queue = format!("lapwing.migrate.{from}");
        if !self.broker.reserve(&queue).await? {
            let why = format!("another migration of {from} runs");
            return Err(TopologyError::Refused(why));
        }
        let properties = Properties::new("lapwing-migrate", None, None, &[]);
        let named = CopyHeaders {
            is_named: true,
            ..CopyHeaders::default()
        };
        let message = Publication {
            exchange: "",
            routing_key: &queue,
            body: b"",
            properties: Written::Copy(&properties, named),
        };
        let published = self.broker.publish(&message).await;
        published.map_err(|error| {
            TopologyError::Refused(format!("this user cannot publish messages: {error}"))
        })
    }

    /// Carries out a migration, or goes on with one.
    ///
    /// # Errors
    /// When the broker refuses a request or cannot be reached. A later run goes on.
    pub async fn migrate(
        &self,
        migration: &Migration,
        moving: &Moving,
        report: Report<'_>,
        tell: Tell<'_>,
    ) -> Result<Migrated, TopologyError> {
        let mut migrated = Migrated {
            created: Vec::new(),
            rebound: Vec::new(),
            moved: 0,
            deleted: false,
            stopped: false,
            left: None,
        };
        let (from, to, by) = (&migration.from, &migration.to, &moving.by);
        self.reserve(from).await?;
        if migration.counts.is_none() {
            migrated.deleted = true;
            migrated.left = Some(self.left(migration, Seen::default()).await?);
            return Ok(migrated);
        }
        info!(from, to, by, "migrating a queue");
        self.make(migration, &mut migrated, tell).await?;
        let mut mover = Mover::new(&self.broker, migration, moving);
        mover.drain(report, tell).await?;
        let mut left = self.left(migration, mover.seen.clone()).await?;
        if !mover.is_stopped && left.obstacles().is_empty() {
            tell(Step::Watching(WATCH));
            mover.watch(report, tell).await?;
            // The connection, and with it the reservation, may have been lost meanwhile.
            self.reserve(from).await?;
            left = self.left(migration, mover.seen.clone()).await?;
        }
        migrated.moved = mover.moved;
        migrated.stopped = mover.is_stopped;
        if !migrated.stopped && left.obstacles().is_empty() {
            match self.broker.delete_idle(from).await? {
                Ok(()) => {
                    migrated.deleted = true;
                    tell(Step::Deleted);
                }
                Err(why) => {
                    let why = format!("the broker does not delete {from}: {}", visible(&why));
                    left.failed.push(why);
                }
            }
        }
        migrated.left = Some(left);
        let (moved, deleted) = (migrated.moved, migrated.deleted);
        info!(
            from,
            to, by, moved, deleted, "migrated a queue as far as possible"
        );
        Ok(migrated)
    }

    /// Declares the new queue, and moves the bindings to it.
    async fn make(
        &self,
        migration: &Migration,
        migrated: &mut Migrated,
        tell: Tell<'_>,
    ) -> Result<(), TopologyError> {
        let (from, to) = (&migration.from, &migration.to);
        let target = std::slice::from_ref(&migration.target);
        self.broker.ensure(target).await?;
        if !migration.missing.is_empty() {
            tell(Step::Created(&migration.missing));
            migrated.created.clone_from(&migration.missing);
        }
        self.check_policies(from, to).await?;
        for bound in &migration.bindings {
            self.broker.bind(to, bound).await?;
            let unbound = self.broker.unbind(from, bound).await;
            unbound.map_err(|error| {
                TopologyError::BoundTwice(format!(
                    "{from} was not unbound from {bound}: {}. {to} has the same binding, so each \
                     message comes to both queues until you run the command again, or unbind one of \
                     them",
                    visible(&error.to_string())
                ))
            })?;
            tell(Step::Rebound(bound));
            migrated.rebound.push(bound.clone());
        }
        Ok(())
    }

    /// What is left at the old queue.
    async fn left(&self, migration: &Migration, seen: Seen) -> Result<Left, BrokerError> {
        let from = &migration.from;
        let is_gone = migration.counts.is_none();
        let mut not_seen = None;
        let leading = known(self.broker.leading_to(from).await, &mut not_seen);
        let (mut bindings, mut unsettled, mut ready) = (None, None, None);
        if !is_gone {
            let all = self.broker.bindings(from).await;
            let all = all.map(|it| it.clear.into_iter().chain(it.unclear).collect());
            bindings = known(all, &mut not_seen);
            unsettled = known(self.broker.unsettled(from).await, &mut not_seen);
            ready = self.broker.counts(from).await?;
        }
        Ok(Left {
            vhost: self.broker.vhost()?,
            from: from.clone(),
            to: migration.to.clone(),
            is_gone,
            ready: ready.map_or(0, |(ready, _)| ready),
            consumers: ready
                .map_or(0, |(_, consumers)| consumers)
                .max(seen.consumers),
            arrived: seen.arrived,
            unsettled,
            leading,
            bindings,
            not_seen: not_seen.map(|why| visible(&why.to_string()).into_owned()),
            is_quorum: migration.is_quorum,
            failed: seen.failed,
        })
    }
}

/// What the broker shows. Otherwise keeps the reason.
fn known<T>(answer: Result<T, Unknown>, not_seen: &mut Option<Unknown>) -> Option<T> {
    answer.map_err(|why| *not_seen = Some(why)).ok()
}
