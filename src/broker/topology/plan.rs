//! The queues that a consumer needs, with their arguments.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldTable};

use crate::{
    broker::{QueueSpec, QueueType, headers::short},
    retry::Rung,
};

/// A queue as the consumer needs it: durable, not exclusive, not auto-deleted, with these
/// arguments.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::broker) struct QueuePlan {
    pub(in crate::broker) name: String,
    arguments: BTreeMap<&'static str, Argument>,
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::broker) enum Argument {
    Text(String),
    Int(i64),
    /// We set no such argument, but existing queues may have some.
    Bool(bool),
}

impl From<&Argument> for AMQPValue {
    fn from(argument: &Argument) -> Self {
        match argument {
            Argument::Text(text) => Self::LongString(text.as_str().into()),
            Argument::Int(n) => Self::LongLongInt(*n),
            Argument::Bool(is) => Self::Boolean(*is),
        }
    }
}

impl QueuePlan {
    fn new(name: &str, queue_type: QueueType) -> Self {
        let name = name.to_owned();
        let queue_type = match queue_type {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        };
        let arguments = BTreeMap::new();
        Self { name, arguments }.text("x-queue-type", queue_type)
    }

    fn text(mut self, key: &'static str, value: &str) -> Self {
        self.arguments.insert(key, Argument::Text(value.to_owned()));
        self
    }

    fn int(mut self, key: &'static str, value: i64) -> Self {
        self.arguments.insert(key, Argument::Int(value));
        self
    }

    /// Dead-letters to `target` through the default exchange. A quorum queue dead-letters with
    /// confirms (RabbitMQ: at-least-once dead-lettering), which needs `reject-publish` as its
    /// overflow.
    fn dead_letters_to(self, target: &str, queue_type: QueueType) -> Self {
        let plan = self
            .text("x-dead-letter-exchange", "")
            .text("x-dead-letter-routing-key", target);
        match queue_type {
            QueueType::Classic => plan,
            QueueType::Quorum => plan
                .text("x-dead-letter-strategy", "at-least-once")
                .text("x-overflow", "reject-publish"),
        }
    }

    /// The value of one argument.
    pub(in crate::broker) fn argument(&self, key: &str) -> Option<&Argument> {
        self.arguments.get(key)
    }

    pub(super) fn table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (key, value) in &self.arguments {
            table.insert(short(key), value.into());
        }
        table
    }
}

/// All queues of a consumer: its queue, its retry queues and its dead-letter queue.
pub(in crate::broker) fn plan(spec: &QueueSpec) -> Vec<QueuePlan> {
    let dead = &spec.dead_letter_queue;
    let queue_type = spec.queue_type;
    // A safety net under our own dead-lettering: a message that kills the process again and again
    // still ends in the dead-letter queue.
    let mut work = QueuePlan::new(&spec.queue, queue_type).dead_letters_to(dead, queue_type);
    if queue_type == QueueType::Quorum {
        work = work.int("x-delivery-limit", i64::from(spec.delivery_limit));
    }
    let rungs = spec.ladder.rungs().map(|rung| rung_plan(&rung, spec));
    // People look at dead letters and put them back, which RabbitMQ 3.10 and 4.0 count as
    // redeliveries. At 4.x's default limit of 20 the broker would drop them. -1 (no limit)
    // misbehaves on 3.x.
    let dead = QueuePlan::new(dead, QueueType::Quorum).int("x-delivery-limit", 100_000);
    [dead, work].into_iter().chain(rungs).collect()
}

/// The plan of one queue of a consumer, also of a retry queue outside of its schedule.
pub(in crate::broker) fn planned(spec: &QueueSpec, queue: &str) -> Option<QueuePlan> {
    let mut plans = plan(spec).into_iter();
    let others = || {
        let mut rungs = spec.ladder.all();
        let rung = rungs.find(|rung| rung.queue == queue)?;
        Some(rung_plan(&rung, spec))
    };
    plans.find(|plan| plan.name == queue).or_else(others)
}

/// A retry queue. It has no consumers and no `x-expires`: a queue that expires takes its messages
/// along.
fn rung_plan(rung: &Rung, spec: &QueueSpec) -> QueuePlan {
    let length = i64::try_from(rung.length.as_millis()).unwrap_or(i64::MAX);
    QueuePlan::new(&rung.queue, spec.queue_type)
        .int("x-message-ttl", length)
        .dead_letters_to(&spec.queue, spec.queue_type)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        broker::Topology,
        retry::{Ladder, RetrySettings},
    };

    #[test]
    fn a_lane_gets_its_queue_a_net_below_and_a_ladder() {
        let retry = RetrySettings {
            cap: Duration::from_secs(4),
            ..RetrySettings::default()
        };
        let mut spec = QueueSpec {
            queue: "q".to_owned(),
            prefetch: 64,
            topology: Topology::Declare,
            queue_type: QueueType::Quorum,
            bindings: Vec::new(),
            dead_letter_queue: "q.dead".to_owned(),
            delivery_limit: 100,
            ladder: Ladder::new("q", &retry),
        };
        let names: Vec<_> = plan(&spec).into_iter().map(|plan| plan.name).collect();
        assert_eq!(
            names,
            ["q.dead", "q", "q.retry.1s", "q.retry.2s", "q.retry.4s"]
        );
        let work = &plan(&spec)[1];
        assert_eq!(
            work.arguments["x-dead-letter-routing-key"],
            Argument::Text("q.dead".into())
        );
        assert_eq!(work.arguments["x-delivery-limit"], Argument::Int(100));
        spec.queue_type = QueueType::Classic;
        let classic = plan(&spec);
        assert_eq!(
            classic[2].arguments["x-queue-type"],
            Argument::Text("classic".into())
        );
        assert!(!classic[2].arguments.contains_key("x-dead-letter-strategy"));
        assert_eq!(
            classic[0].arguments["x-queue-type"],
            Argument::Text("quorum".into())
        );
    }
}
