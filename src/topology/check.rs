//! What a migration looks at before it begins, and why it is refused.

use super::{
    Bound, Migration, TopologyDesk, TopologyError,
    desk::Consumers,
    resolve::{Resolved, resolve, without_twins},
};
use crate::{
    broker::{Difference, QueueRole, QueueSpec, Standing, Topology, Unknown, Values},
    retry::{Ladder, RetrySettings},
    text::visible,
};

const EXPIRES: &str = "expires, so the broker deletes it with its messages when it has no consumer for a \
                       while";

/// Whether a queue with another value of this argument may lose messages that are moved into it.
fn loses(argument: &str) -> bool {
    [
        "x-queue-type",
        "x-expires",
        "x-message-ttl",
        "x-max-length",
        "x-max-length-bytes",
    ]
    .contains(&argument)
}

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
        let work = survey.queues.iter().find(|it| it.role == QueueRole::Work);
        if work.is_some_and(|it| it.standing == Standing::Fits && !it.is_compared) {
            self.check_used_as_it_is(&spec).await?;
        }
        let missing = survey.queues.iter();
        let missing = missing.filter(|it| it.standing == Standing::Missing);
        Ok(missing.map(|it| it.name().to_owned()).collect())
    }

    /// How the work queue of `spec` compares with one that a worker declares.
    async fn work_queue(&self, spec: &QueueSpec) -> Result<Standing, TopologyError> {
        let without_retries = RetrySettings {
            max_attempts: 1,
            ..RetrySettings::default()
        };
        let spec = QueueSpec {
            topology: Topology::Verify,
            ladder: Ladder::new("", &without_retries),
            ..spec.clone()
        };
        let survey = self.broker.survey(&spec).await?;
        let work = survey
            .queues
            .into_iter()
            .find(|it| it.role == QueueRole::Work);
        Ok(work.map_or(Standing::Missing, |it| it.standing))
    }

    /// Refuses a new queue that workers use as it is, if its own arguments remove messages or make it no quorum
    /// queue.
    async fn check_used_as_it_is(&self, spec: &QueueSpec) -> Result<(), TopologyError> {
        let queue = &spec.queue;
        let refused = |why: String| {
            let why = format!("{queue} {why}. The command moves no messages into it");
            Err(TopologyError::Refused(why))
        };
        let differences = match self.work_queue(spec).await? {
            Standing::Fits => return Ok(()),
            Standing::Differs(differences) => differences,
            Standing::Hidden(text) => {
                return refused(format!("cannot be compared: {}", visible(&text)));
            }
            Standing::Missing => return refused("is gone".to_owned()),
        };
        for difference in differences {
            match difference {
                Difference::Argument { ref argument, .. } if !loses(argument) => {}
                other => {
                    return refused(format!("may lose messages: {}", visible(&other.problem())));
                }
            }
        }
        Ok(())
    }

    /// Refuses an old queue that the broker may delete by itself while the command holds its messages,
    /// and one that the broker does not let us compare. Returns notes about arguments that the new queue does not get.
    async fn check_source(&self, migration: &Migration) -> Result<Vec<String>, TopologyError> {
        let Migration {
            from, to, target, ..
        } = migration;
        let spec = QueueSpec {
            queue: from.clone(),
            ..target.clone()
        };
        let standing = self.work_queue(&spec).await?;
        let refused = |why: &str| {
            let why = format!("{from} {why}. The command does not move its messages");
            Err(TopologyError::Refused(why))
        };
        let policies = self.broker.removing(from).await.unwrap_or_default();
        if policies.contains(&"expires") {
            return refused(EXPIRES);
        }
        let differences = match &standing {
            Standing::Fits => return Ok(Vec::new()),
            Standing::Differs(differences) => differences,
            Standing::Hidden(text) => {
                return refused(&format!("cannot be compared: {}", visible(text)));
            }
            Standing::Missing => return refused("is gone"),
        };
        let mut notes = Vec::new();
        for difference in differences {
            match difference {
                Difference::Argument { argument, .. } if argument == "x-expires" => {
                    return refused(EXPIRES);
                }
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

    /// Refuses a new queue whose policies remove messages, unless those of the old queue do so too.
    pub(super) async fn check_policies(&self, from: &str, to: &str) -> Result<(), TopologyError> {
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
