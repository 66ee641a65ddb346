//! What arguments and policies say of a queue.

use super::scene::ConsumerSeen;
use crate::broker::{QueueShown, SurveyedQueue};

/// The arguments and policies of a queue, as far as they are seen.
pub(super) struct InForce<'a> {
    queue: &'a SurveyedQueue,
    shown: Option<&'a QueueShown>,
}

impl<'a> InForce<'a> {
    pub(super) fn new(queue: &'a SurveyedQueue, shown: Option<&'a QueueShown>) -> Self {
        Self { queue, shown }
    }

    /// The values of one of the consumer's queues.
    pub(super) fn of(seen: &'a ConsumerSeen, queue: &'a SurveyedQueue) -> Self {
        Self::new(queue, seen.shown.get(queue.name()))
    }

    /// Whether the arguments are seen.
    pub(super) fn has_arguments(&self) -> bool {
        self.queue.has.is_some() || self.shown.is_some()
    }

    /// Whether the policies are seen: only the management API shows them.
    pub(super) fn has_policies(&self) -> bool {
        self.shown.is_some_and(QueueShown::shows_policies)
    }

    /// An argument, named without `x-`.
    pub(super) fn argument(&self, key: &str) -> Option<String> {
        let compared = self.queue.has.as_ref();
        let compared = compared.and_then(|it| it.get(&format!("x-{key}")).cloned());
        compared.or_else(|| self.shown?.argument(key).map(text))
    }

    /// What a policy says.
    pub(super) fn policy(&self, key: &str) -> Option<String> {
        self.shown?.policy(key).map(text)
    }

    /// The value in force of a key that arguments set with precedence over policies.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        self.argument(key).or_else(|| self.policy(key))
    }
}

fn text(value: &serde_json::Value) -> String {
    let text = value.as_str().map(str::to_owned);
    text.unwrap_or_else(|| value.to_string())
}
