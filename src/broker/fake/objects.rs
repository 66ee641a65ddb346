//! Queues as operators and clients change them: declarations, deletions, policies, permissions.

use tokio::time::Instant;

use super::{
    FakeBroker, Model, Release,
    arguments::{Arguments, Limits, Policy},
    queue::Queue,
    timers::Due,
};
use crate::broker::{
    BrokerError, Difference, QueueSpec, Topology,
    topology::{QueuePlan, plan, planned},
};

/// What a user may do with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Permission {
    /// Declare the queue.
    Configure,
    /// Publish. The object is the default exchange, whatever the queue: see
    /// [`DEFAULT_EXCHANGE`].
    Write,
    /// Consume from the queue.
    Read,
}

/// The name of the default exchange in permissions.
pub(crate) const DEFAULT_EXCHANGE: &str = "amq.default";

impl Permission {
    fn refusal(self, object: &str) -> String {
        let (access, kind) = match self {
            Self::Configure => ("configure", "queue"),
            Self::Write => ("write", "exchange"),
            Self::Read => ("read", "queue"),
        };
        format!(
            "ACCESS_REFUSED - {access} access to {kind} '{object}' in vhost '/' refused for user \
             'guest' (403)"
        )
    }
}

impl FakeBroker {
    /// Creates a queue that takes its arguments from a worker's declaration, unless there is a queue
    /// of this name. Until then it is a quorum queue.
    pub(crate) fn declare(&self, queue: &str) {
        self.lock().make(queue, Arguments::default());
    }

    /// Declares a queue.
    ///
    /// # Errors
    /// The arguments in which an existing queue differs.
    pub(crate) fn declare_with(
        &self,
        queue: &str,
        arguments: Arguments,
    ) -> Result<(), Vec<Difference>> {
        let mut model = self.lock();
        if let Some(existing) = model.queues.get(queue) {
            let found = existing.arguments.differences(queue, &arguments);
            return if found.is_empty() { Ok(()) } else { Err(found) };
        }
        model.make(queue, arguments);
        Ok(())
    }

    /// Removes the ready messages of a queue. Returns their number; `None` if there is no queue.
    pub(crate) fn purge(&self, queue: &str) -> Option<usize> {
        let mut model = self.lock();
        let gone = model.queues.get_mut(queue)?.ready.clear();
        model.shrink(queue);
        let count = gone.len();
        model.dropped.extend(gone);
        Some(count)
    }

    /// Takes the next ready message of a queue and acks it, as another client would.
    pub(crate) fn take(&self, queue: &str) -> Option<super::Stored> {
        let mut model = self.lock();
        model.drop_expired(queue);
        let mut taken = model.queues.get_mut(queue)?.ready.pop()?;
        model.drop_expired(queue);
        model.shrink(queue);
        model.watch_expiry(queue);
        if !model.is_quorum(queue) {
            (taken.delivery_count, taken.carried) = (0, 0);
        } else if model.release == Release::V3 {
            taken.without_sent_count();
        }
        Some(taken)
    }

    /// Sets the policy of all queues whose names begin with this text. It replaces an earlier
    /// policy with the same text. Of several that fit, the longest text counts.
    pub(crate) fn set_policy(&self, beginning: &str, policy: Policy) {
        let mut model = self.lock();
        model.policies.insert(beginning.to_owned(), policy);
        model.apply_policies();
    }

    /// Removes a policy.
    pub(crate) fn clear_policy(&self, beginning: &str) {
        let mut model = self.lock();
        model.policies.remove(beginning);
        model.apply_policies();
    }

    /// Takes a permission away from the worker's user.
    pub(crate) fn deny(&self, permission: Permission, object: &str) {
        self.lock().denied.insert((permission, object.to_owned()));
    }

    /// Gives a permission back.
    pub(crate) fn allow(&self, permission: Permission, object: &str) {
        self.lock().denied.remove(&(permission, object.to_owned()));
    }
}

impl Model {
    /// Creates a queue, unless there is one of this name.
    pub(super) fn make(&mut self, name: &str, arguments: Arguments) {
        if self.queues.contains_key(name) {
            return;
        }
        self.last_queue += 1;
        let queue = Queue::new(arguments, self.policy(name), self.release, self.last_queue);
        self.queues.insert(name.to_owned(), queue);
        self.without_consumer(name);
    }

    /// Creates a queue, or gives one that was created without arguments these arguments.
    fn adopt(&mut self, name: &str, arguments: Arguments) {
        let old = self.queues.remove(name);
        self.make(name, arguments);
        let Some(mut queue) = old else {
            return;
        };
        let messages = queue.ready.clear();
        self.dropped.extend(queue.into_messages());
        for message in messages {
            self.store(name, message);
        }
    }

    fn policy(&self, name: &str) -> Option<&Policy> {
        let mut longest = self.policies.iter().rev();
        let fits = longest.find(|(beginning, _)| name.starts_with(beginning.as_str()));
        fits.map(|(_, policy)| policy)
    }

    fn apply_policies(&mut self) {
        let names: Vec<_> = self.queues.keys().cloned().collect();
        for name in names {
            let policy = self.policy(&name).cloned();
            let release = self.release;
            if let Some(queue) = self.queues.get_mut(&name) {
                queue.limits = Limits::new(&queue.arguments, policy.as_ref(), release);
            }
            self.shrink(&name);
            self.without_consumer(&name);
        }
    }

    pub(super) fn refused(&self, permission: Permission, object: &str) -> Option<String> {
        let is_denied = self.denied.contains(&(permission, object.to_owned()));
        is_denied.then(|| permission.refusal(object))
    }

    /// Whether the worker may consume from this queue.
    pub(super) fn may_read(&self, name: &str) -> Result<(), BrokerError> {
        if let Some(text) = self.refused(Permission::Read, name) {
            return Err(BrokerError::Refused(text));
        }
        if !self.queues.contains_key(name) {
            let text = format!("NOT_FOUND - no queue '{name}' (404)");
            return Err(BrokerError::Lost(text));
        }
        Ok(())
    }

    /// Deletes a queue. Its messages are lost, and its consumers are cancelled.
    pub(super) fn delete(&mut self, name: &str) {
        if let Some(queue) = self.queues.remove(name) {
            self.dropped.extend(queue.into_messages());
        }
        self.cancel_consumers(name);
        self.forget_queue(name);
    }

    /// Forgets a deleted queue for delivered messages too. Their deliveries can still be settled,
    /// but the messages go nowhere.
    fn forget_queue(&mut self, name: &str) {
        let channels = self.channels.values_mut();
        let unacked = channels.flat_map(|channel| channel.unacked.values_mut());
        let gone = unacked.filter(|unacked| unacked.queue == name);
        gone.for_each(|unacked| unacked.queue.clear());
    }

    /// Books the deletion of a queue that has no consumer, if it expires.
    pub(super) fn without_consumer(&mut self, name: &str) {
        let Some(queue) = self.queues.get(name) else {
            return;
        };
        if let (Some(expires), true) = (queue.limits.expires, queue.entitled.is_empty()) {
            let due = Due::Unused(name.to_owned(), queue.born);
            self.timers.at(Instant::now() + expires, due);
        }
    }

    pub(super) fn delete_unused(&mut self, name: &str, born: u64) {
        let Some(queue) = self.queues.get(name) else {
            return;
        };
        let expires = queue.limits.expires.is_some();
        if queue.born == born && expires && queue.entitled.is_empty() {
            self.delete(name);
        }
    }

    /// Declares the queues that the consumer needs, or compares those that exist. Every check comes
    /// before the first declaration.
    pub(super) fn ensure(&mut self, spec: &QueueSpec) -> Result<(), BrokerError> {
        let (mut found, mut wanted) = (Vec::new(), Vec::new());
        for plan in plan(spec) {
            let is_theirs = spec.topology == Topology::Attach && plan.name == spec.queue;
            if spec.topology == Topology::None || is_theirs {
                found.extend(self.existing(plan.name));
                continue;
            }
            match self.compare(&plan)? {
                Found::Same => {}
                Found::Differs(differences) => found.extend(differences),
                Found::Missing if !spec.topology.creates() => {
                    found.push(Difference::NoQueue { queue: plan.name });
                }
                Found::Missing | Found::Undeclared => wanted.push(plan),
            }
        }
        if !found.is_empty() {
            return Err(BrokerError::Topology(found));
        }
        for plan in wanted {
            self.adopt(&plan.name, Arguments::planned(&plan));
        }
        Ok(())
    }

    /// Declares a retry queue or the dead-letter queue if it is missing.
    pub(super) fn restore(&mut self, spec: &QueueSpec, queue: &str) -> Result<(), BrokerError> {
        let Some(plan) = planned(spec, queue).filter(|plan| plan.name != spec.queue) else {
            return Ok(());
        };
        match self.compare(&plan)? {
            Found::Differs(differences) => return Err(BrokerError::Topology(differences)),
            Found::Missing => self.make(&plan.name, Arguments::planned(&plan)),
            Found::Same | Found::Undeclared => {}
        }
        Ok(())
    }

    /// Compares a queue with its plan.
    fn compare(&self, plan: &QueuePlan) -> Result<Found, BrokerError> {
        if let Some(text) = self.refused(Permission::Configure, &plan.name) {
            return Err(BrokerError::Refused(text));
        }
        let Some(queue) = self.queues.get(&plan.name) else {
            return Ok(Found::Missing);
        };
        if queue.arguments == Arguments::default() {
            return Ok(Found::Undeclared);
        }
        let wanted = Arguments::planned(plan);
        let differences = queue.arguments.differences(&plan.name, &wanted);
        Ok(match differences.is_empty() {
            true => Found::Same,
            false => Found::Differs(differences),
        })
    }

    /// The lack of a queue whose arguments are the user's. A queue that the worker may not look at
    /// counts as there.
    fn existing(&self, queue: String) -> Option<Difference> {
        let is_seen = self.refused(Permission::Configure, &queue).is_none();
        (is_seen && !self.queues.contains_key(&queue)).then_some(Difference::NoQueue { queue })
    }
}

/// What a comparison of a queue with its plan found.
enum Found {
    Missing,
    /// The queue takes its arguments from the worker's declaration: see [`FakeBroker::declare`].
    Undeclared,
    Same,
    Differs(Vec<Difference>),
}
