//! Policies and arguments that remove messages from queues.

use super::{
    check::{Check, Found, Grade, Needs},
    in_force::InForce,
    queues::consumers,
    scene::Scene,
};
use crate::{
    broker::{QueueRole, QueueShown, Standing, SurveyedQueue},
    consumer::ConsumerSettings,
};

pub(super) const CHECKS: &[Check] = &[Check {
    name: "policies",
    why: "the broker then removes messages that no handler has seen",
    needs: Needs::Connection,
    look: policies,
}];

fn policies(scene: &Scene<'_>, found: &mut Found) {
    let (mut policies_seen, mut arguments_seen) = (true, false);
    for (name, consumer, seen) in consumers(scene) {
        for queue in &seen.queues {
            let shown = seen.shown.get(queue.name());
            let values = InForce::new(queue, shown);
            policies_seen &= values.has_policies() || queue.standing == Standing::Missing;
            arguments_seen |= values.has_arguments();
            let owned = Owned {
                consumer,
                queue,
                values,
            };
            for problem in owned.removing() {
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
                found.add(grade, queue.name(), text, mend);
            }
        }
    }
    found.ok(match (policies_seen, arguments_seen) {
        (true, _) => "nothing removes messages from the queues",
        (false, true) => "no argument removes messages from the queues; policies are not seen",
        (false, false) => "no queue shows arguments or policies",
    });
}

/// Something that removes messages from a queue.
struct Problem {
    grade: Grade,
    key: &'static str,
    is_policy: bool,
    text: String,
}

/// A queue with its arguments and policies.
struct Owned<'a> {
    consumer: &'a ConsumerSettings,
    queue: &'a SurveyedQueue,
    values: InForce<'a>,
}

impl Owned<'_> {
    fn removing(&self) -> Vec<Problem> {
        let is_retry = self.queue.role == QueueRole::Retry;
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
        let overflow = self.values.value("overflow");
        if overflow.is_none_or(|it| it == "drop-head") {
            problems.extend(
                ["max-length", "max-length-bytes"]
                    .into_iter()
                    .filter_map(|key| {
                        let (most, is_policy) = self.unasked(key)?;
                        Some(Problem {
                            grade: match self.queue.role {
                                QueueRole::Work => Grade::Warn,
                                QueueRole::DeadLetter | QueueRole::Retry => Grade::Fail,
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
        let is_work = self.queue.role == QueueRole::Work;
        let is_theirs = !self.queue.is_compared;
        let is_wanted = is_work && self.consumer.arguments.contains_key(&format!("x-{key}"));
        match self.values.argument(key) {
            Some(value) => (is_theirs && !is_wanted).then_some((value, false)),
            None => self.values.policy(key).map(|value| (value, true)),
        }
    }
}
