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
    desk::Consumers,
    mover::{Mover, Seen, WATCH},
    resolve::{Resolved, resolve, without_twins},
};
use crate::{
    broker::{
        Broker, BrokerError, CopyHeaders, Difference, Properties, Publication, QueueRole,
        QueueSpec, Standing, Topology, Unknown, Values, Written,
    },
    letters::Progress,
    retry::{Ladder, RetrySettings},
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
    target: QueueSpec,
    of_target: Vec<Bound>,
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

    /// Looks at both queues. Changes nothing.
    ///
    /// # Errors
    /// [`TopologyError::Refused`] if the settings or the queues do not allow the migration.
    pub async fn migration(
        &self,
        consumers: &Consumers,
        from: &str,
        to: &str,
    ) -> Result<Migration, TopologyError> {
        let resolved = resolve(consumers, from, to).map_err(TopologyError::Refused)?;
        let counts = self.broker.counts(from).await?;
        if counts.is_none() && self.broker.counts(to).await?.is_none() {
            let why = format!("there is neither a queue {from} nor a queue {to}");
            return Err(TopologyError::Refused(why));
        }
        let mut migration = Migration::new(resolved, from, to);
        migration.counts = counts;
        if counts.is_none() {
            return Ok(migration);
        }
        let not_taken = self.check_source(&migration).await?;
        migration.notes.extend(not_taken);
        self.see_bindings(&mut migration).await;
        migration.missing = self.check_target(&migration).await?;
        migration.is_quorum = self.broker.is_quorum(from).await?;
        Ok(migration)
    }

    /// Takes the bindings that the broker lists, in place of those in the settings of the old queue: a
    /// binding that somebody has removed does not come back.
    async fn see_bindings(&self, migration: &mut Migration) {
        match self.broker.bindings(&migration.from).await {
            Ok(listed) => {
                let of_target = migration.of_target.clone();
                let all = listed.clear.into_iter().chain(of_target).collect();
                migration.bindings = without_twins(all);
                migration.unclear = listed.unclear;
                let unknown = |it: &&Bound| !migration.of_target.contains(it);
                let unknown: Vec<_> = migration.bindings.iter().filter(unknown).collect();
                if !unknown.is_empty() {
                    let listed: Vec<_> = unknown.iter().map(ToString::to_string).collect();
                    let (to, listed) = (&migration.to, listed.join(", "));
                    migration.notes.push(format!(
                        "Add the bindings to the settings of {to} afterwards: {listed}"
                    ));
                }
            }
            Err(why) => {
                migration.assumed = Some(why.to_string());
                migration.notes.push(format!(
                    "The command does not see the policies of {}. A policy that removes messages \
                     removes moved ones too.",
                    migration.to
                ));
            }
        }
    }

    /// All checks of the new queue and of the exchanges. Returns the queues that are missing.
    async fn check_target(&self, migration: &Migration) -> Result<Vec<String>, TopologyError> {
        let mut spec = migration.target.clone();
        let exchange = |bound: &Bound| crate::broker::Binding {
            exchange: bound.exchange.clone(),
            routing_key: bound.routing_key.clone(),
        };
        spec.bindings = migration.bindings.iter().map(exchange).collect();
        let survey = self.broker.survey(&spec).await?;
        survey.check()?;
        let missing = survey.queues.iter();
        let missing = missing.filter(|it| it.standing == Standing::Missing);
        Ok(missing.map(|it| it.name().to_owned()).collect())
    }

    /// Refuses an old queue that the broker may delete by itself, and one that it does not let us compare.
    /// Returns notes about arguments that the new queue does not get.
    async fn check_source(&self, migration: &Migration) -> Result<Vec<String>, TopologyError> {
        let Migration {
            from, to, target, ..
        } = migration;
        let without_retries = RetrySettings {
            max_attempts: 1,
            ..RetrySettings::default()
        };
        let spec = QueueSpec {
            queue: from.clone(),
            topology: Topology::Verify,
            ladder: Ladder::new("", &without_retries),
            ..target.clone()
        };
        let survey = self.broker.survey(&spec).await?;
        let work = survey.queues.iter().find(|it| it.role == QueueRole::Work);
        let refused = |why: &str| {
            let why = format!("{from} {why}. The command does not move its messages");
            Err(TopologyError::Refused(why))
        };
        let differences = match work.map(|it| &it.standing) {
            Some(Standing::Fits) => return Ok(Vec::new()),
            Some(Standing::Differs(differences)) => differences,
            Some(Standing::Hidden(text)) => {
                return refused(&format!("cannot be compared: {}", visible(text)));
            }
            Some(Standing::Missing) | None => return refused("is gone"),
        };
        let mut notes = Vec::new();
        for difference in differences {
            match difference {
                Difference::Argument {
                    argument,
                    values:
                        Some(Values {
                            has: Some(has),
                            wanted: None,
                            ..
                        }),
                    ..
                } => notes.push(format!(
                    "{from} has {} = {}. The settings of {to} do not, so {to} does not get it.",
                    visible(argument),
                    visible(has)
                )),
                Difference::Argument { .. } => {}
                other => return refused(&visible(&other.problem())),
            }
        }
        Ok(notes)
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
            unbound.map_err(|error| TopologyError::BoundTwice {
                from: from.clone(),
                to: to.clone(),
                bound: bound.clone(),
                error,
            })?;
            tell(Step::Rebound(bound));
            migrated.rebound.push(bound.clone());
        }
        Ok(())
    }

    /// Refuses a new queue whose policies remove messages, unless those of the old queue do so too.
    async fn check_policies(&self, from: &str, to: &str) -> Result<(), TopologyError> {
        let refused = |why: String| Err(TopologyError::Refused(why));
        let of_target = match self.broker.removing(to).await {
            Ok(of_target) => of_target,
            // The plan has a note about it.
            Err(Unknown::NoManagement) => return Ok(()),
            Err(why) => return refused(format!("the policies of {to} are not known ({why})")),
        };
        if of_target.is_empty() {
            return Ok(());
        }
        let of_source = self.broker.removing(from).await.unwrap_or_default();
        let mut new = of_target.iter().filter(|it| !of_source.contains(it));
        match new.next() {
            None => Ok(()),
            Some(definition) => refused(format!(
                "a policy of {to} sets {definition}, which removes messages: no message was moved. \
                 Change the policy, or choose another name"
            )),
        }
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

impl Migration {
    fn new(resolved: Resolved, from: &str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            counts: None,
            is_quorum: None,
            missing: Vec::new(),
            bindings: resolved.bindings,
            assumed: None,
            unclear: Vec::new(),
            notes: resolved.notes,
            source: resolved.source,
            target: resolved.target,
            of_target: resolved.of_target,
        }
    }
}
