//! Replaces a work queue by a quorum queue under a new name.
//!
//! Each step may be repeated: the new queue is declared, each binding is made at the new queue before
//! it is taken from the old one, the messages move with a confirm before each ack, and the old queue
//! is deleted only when it is empty and unused. So a migration that was killed goes on where it
//! stopped.

use std::{collections::BTreeSet, ops::ControlFlow, time::Duration};

use serde::Serialize;
use tokio::time::sleep;
use tracing::info;

use super::{
    Bound, Left, TopologyDesk, TopologyError,
    desk::Consumers,
    mover::{Mover, Seen},
    resolve::{Resolved, resolve, without_twins},
};
use crate::{
    broker::{
        Broker, BrokerError, Difference, QueueRole, QueueSpec, Standing, Topology, Unfit, Values,
    },
    letters::Progress,
    retry::{Ladder, RetrySettings},
};

/// The time that a retry may be on its way from a retry queue to the old queue.
const IN_BETWEEN: Duration = Duration::from_millis(500);

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
    returning: Vec<String>,
}

/// How messages move.
#[derive(Clone, Debug)]
pub struct Moving {
    /// The most messages per second; `None`: as fast as the broker confirms them.
    pub rate: Option<f64>,
    /// How long to look after the old queue is empty.
    pub look_for: Duration,
    /// Delete the old queue also where deliveries that are not settled cannot be seen.
    pub blindly: bool,
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
    /// The old queue is empty. The command looks whether it stays so.
    Empty,
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
        self.see_bindings(&mut migration).await;
        migration.missing = self.check_target(&migration).await?;
        migration.is_quorum = self.broker.is_quorum(from).await?;
        let not_taken = self.arguments_left_behind(&migration).await?;
        migration.notes.extend(not_taken);
        Ok(migration)
    }

    /// Adds the bindings that the broker lists.
    async fn see_bindings(&self, migration: &mut Migration) {
        match self.broker.bindings(&migration.from).await {
            Ok(listed) => {
                let known = std::mem::take(&mut migration.bindings);
                let all = listed.clear.into_iter().chain(known).collect();
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
            Err(why) => migration.assumed = Some(why.to_string()),
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

    /// The arguments of the old queue that the new one does not get.
    async fn arguments_left_behind(
        &self,
        migration: &Migration,
    ) -> Result<Vec<String>, TopologyError> {
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
        let Some(Standing::Differs(differences)) = work.map(|it| &it.standing) else {
            return Ok(Vec::new());
        };
        for difference in differences {
            if let Difference::Unfit { why, .. } = difference
                && *why != Unfit::Transient
            {
                let why = format!("{from} {why}. The command does not move its messages");
                return Err(TopologyError::Refused(why));
            }
        }
        let extra = differences.iter().filter_map(|difference| match difference {
            Difference::Argument {
                argument,
                values: Some(Values { has: Some(has), wanted: None, .. }),
                ..
            } => Some(format!(
                "{from} has {argument} = {has}. The settings of {to} do not, so {to} does not get it."
            )),
            _ => None,
        });
        Ok(extra.collect())
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
            deleted: migration.counts.is_none(),
            stopped: false,
            left: None,
        };
        if migrated.deleted {
            return Ok(migrated);
        }
        let (from, to, by) = (&migration.from, &migration.to, &moving.by);
        info!(from, to, by, "migrating a queue");
        self.broker
            .ensure(std::slice::from_ref(&migration.target))
            .await?;
        if !migration.missing.is_empty() {
            tell(Step::Created(&migration.missing));
            migrated.created.clone_from(&migration.missing);
        }
        for bound in &migration.bindings {
            self.broker.rebind(bound, from, to).await?;
            tell(Step::Rebound(bound));
            migrated.rebound.push(bound.clone());
        }
        let mut mover = Mover::new(&self.broker, migration, moving);
        mover.run(report, tell).await?;
        migrated.moved = mover.moved;
        migrated.stopped = mover.is_stopped;
        let left = self.left(migration, mover.seen).await?;
        if !migrated.stopped && left.obstacles(moving.blindly).is_empty() {
            let deleted = self.broker.delete_idle(from).await?;
            migrated.deleted = deleted.is_ok();
            match deleted {
                Ok(()) => tell(Step::Deleted),
                Err(why) => {
                    let failed = vec![format!("the broker does not delete {from}: {why}")];
                    migrated.left = Some(Left { failed, ..left });
                }
            }
        } else {
            migrated.left = Some(left);
        }
        let (moved, deleted) = (migrated.moved, migrated.deleted);
        info!(
            from,
            to, by, moved, deleted, "migrated a queue as far as possible"
        );
        Ok(migrated)
    }

    /// What is left at the old queue. The order of the questions matters: a worker parks a retry before
    /// it settles the delivery, and a retry leaves its retry queue before it is ready.
    async fn left(&self, migration: &Migration, seen: Seen) -> Result<Left, BrokerError> {
        let from = &migration.from;
        let unsettled = self.broker.unsettled(from).await;
        let mut not_seen = unsettled.as_ref().err().cloned();
        let mut names: BTreeSet<String> = migration.returning.iter().cloned().collect();
        match self.broker.returning_to(from).await {
            Ok(returning) => names.extend(returning),
            Err(why) => not_seen = Some(why),
        }
        let parked = self.broker.depths(names.into_iter().collect()).await?;
        let parked = parked
            .into_iter()
            .filter_map(|(name, depth)| Some((name, depth?)));
        // A retry that has just left its retry queue is ready nowhere until its work queue has it.
        sleep(IN_BETWEEN).await;
        let ready = self.broker.counts(from).await?;
        let bindings = match self.broker.bindings(from).await {
            Ok(left) => left.clear.into_iter().chain(left.unclear).collect(),
            Err(why) => {
                not_seen = Some(why);
                migration.unclear.clone()
            }
        };
        let is_seen = not_seen.is_none();
        Ok(Left {
            vhost: self.broker.vhost()?,
            from: from.clone(),
            to: migration.to.clone(),
            ready: ready.map_or(0, |(ready, _)| ready),
            consumers: seen.consumers,
            arrived: seen.arrived,
            unsettled: unsettled.ok().filter(|_| is_seen),
            not_seen: not_seen.map(|why| why.to_string()),
            parked: parked.collect(),
            bindings,
            is_quorum: migration.is_quorum,
            failed: seen.failed,
        })
    }
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
            returning: resolved.returning,
        }
    }
}
