//! Policies and arguments that remove messages from queues.

use serde_json::Value;

use super::{
    check::{Check, Found, Grade, Needs},
    queues::consumers,
    scene::Scene,
};
use crate::{
    broker::{QueueSeen, QueueShown, Role, Topology},
    consumer::ConsumerSettings,
};

pub(super) const CHECKS: &[Check] = &[Check {
    name: "policies",
    why: "the broker then removes messages that no handler has seen",
    needs: Needs::Connection,
    look: policies,
}];

fn policies(scene: &Scene<'_>, found: &mut Found) {
    let mut is_seen = false;
    for (name, consumer, seen) in consumers(scene) {
        for queue in &seen.queues {
            let shown = seen.shown.get(&queue.queue);
            is_seen |= shown.is_some() || queue.arguments.is_some();
            let values = Values {
                consumer,
                queue,
                shown,
            };
            for problem in values.removing() {
                let Problem {
                    grade, key, text, ..
                } = problem;
                let mend = match problem.is_policy {
                    true => {
                        let policies = shown.map(QueueShown::policies).unwrap_or_default();
                        format!("remove {key} from the policy `{policies}`")
                    }
                    false => format!(
                        "give consumers.{name} a queue without x-{key}: arguments cannot be changed"
                    ),
                };
                found.add(grade, &queue.queue, text, mend);
            }
        }
    }
    found.ok(match is_seen {
        true => "nothing removes messages from the queues",
        false => "no queue shows arguments or policies",
    });
}

/// Something that removes messages from a queue.
struct Problem {
    grade: Grade,
    key: &'static str,
    is_policy: bool,
    text: String,
}

/// The arguments and policies of a queue.
struct Values<'a> {
    consumer: &'a ConsumerSettings,
    queue: &'a QueueSeen,
    shown: Option<&'a QueueShown>,
}

impl Values<'_> {
    fn removing(&self) -> Vec<Problem> {
        let is_retry = matches!(self.queue.role, Role::Retry(_));
        let mut problems = Vec::new();
        if let Some((millis, is_policy)) = self.unasked("expires") {
            problems.push(Problem {
                grade: Grade::Fail,
                key: "expires",
                is_policy,
                text: format!(
                    "the broker deletes the queue with its messages after {millis} ms without a \
                     consumer"
                ),
            });
        }
        if let Some((millis, is_policy)) = self.unasked("message-ttl").filter(|_| !is_retry) {
            problems.push(Problem {
                grade: Grade::Warn,
                key: "message-ttl",
                is_policy,
                text: format!(
                    "messages that wait longer than {millis} ms leave the queue unhandled"
                ),
            });
        }
        let overflow = self
            .argument("overflow")
            .or_else(|| self.policy("overflow"));
        if overflow.is_none_or(|it| it == "drop-head") {
            problems.extend(
                ["max-length", "max-length-bytes"]
                    .into_iter()
                    .filter_map(|key| {
                        let (most, is_policy) = self.unasked(key)?;
                        Some(Problem {
                            grade: match self.queue.role {
                                Role::Work => Grade::Warn,
                                Role::DeadLetters | Role::Retry(_) => Grade::Fail,
                            },
                            key,
                            is_policy,
                            text: format!(
                                "beyond {key} = {most} the queue drops its oldest messages"
                            ),
                        })
                    }),
            );
        }
        problems
    }

    /// The value in force, and whether a policy sets it. `None` as well if the settings ask for it, or if
    /// the worker compares the arguments: the check `queues` tells of those.
    fn unasked(&self, key: &str) -> Option<(String, bool)> {
        let is_work = self.queue.role == Role::Work;
        let is_theirs = match self.consumer.topology {
            Topology::None => true,
            Topology::Attach => is_work,
            Topology::Declare | Topology::Verify => false,
        };
        let is_wanted = is_work && self.consumer.arguments.contains_key(&format!("x-{key}"));
        match self.argument(key) {
            Some(value) => (is_theirs && !is_wanted).then_some((value, false)),
            None => self.policy(key).map(|value| (value, true)),
        }
    }

    fn argument(&self, key: &str) -> Option<String> {
        let compared = self.queue.arguments.as_ref();
        let compared = compared.and_then(|it| it.get(&format!("x-{key}")).cloned());
        compared.or_else(|| self.shown?.argument(key).map(text))
    }

    fn policy(&self, key: &str) -> Option<String> {
        self.shown?.policy(key).map(text)
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
