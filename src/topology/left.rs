//! What a migration has left, and what has to happen before the old queue can go.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{Bound, mend};

/// What is left at the old queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Left {
    /// The virtual host.
    pub vhost: String,
    /// The old queue.
    pub from: String,
    /// The new queue.
    pub to: String,
    /// Messages that are ready.
    pub ready: u32,
    /// The most consumers while the command looked.
    pub consumers: u32,
    /// Messages that came while the command looked, and were moved.
    pub arrived: u64,
    /// Deliveries that are not settled; `None` if the broker does not show all that matters.
    pub unsettled: Option<u64>,
    /// Why it does not show that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_seen: Option<String>,
    /// The messages in retry queues from which they come back to the old queue.
    pub parked: BTreeMap<String, u32>,
    /// Bindings that could not be moved, or that somebody has made again.
    pub bindings: Vec<Bound>,
    /// Whether the old queue is a quorum queue; `None` if that is not known.
    pub is_quorum: Option<bool>,
    /// Why messages were not moved, or why the broker does not delete the queue.
    pub failed: Vec<String>,
}

/// A reason why the old queue cannot be deleted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// Messages were not moved, or the broker does not delete the queue.
    Failed,
    /// Bindings are left.
    Bound,
    /// Messages came while the command looked.
    Arrives,
    /// Messages are ready.
    Ready,
    /// It has consumers.
    Consumed,
    /// Deliveries are not settled.
    Unsettled,
    /// Deliveries cannot be seen.
    NotSeen,
    /// Messages come back to it.
    Parked,
    /// The command cannot delete a queue of this type safely.
    Quorum,
}

impl Left {
    /// Why the old queue cannot be deleted. `blindly`: also where deliveries that are not settled
    /// cannot be seen.
    #[must_use]
    pub fn obstacles(&self, blindly: bool) -> Vec<Obstacle> {
        let parked = self.parked.values().any(|count| *count > 0);
        let unseen = self.unsettled.is_none() && !blindly;
        let all = [
            (Obstacle::Failed, !self.failed.is_empty()),
            (Obstacle::Bound, !self.bindings.is_empty()),
            (Obstacle::Arrives, self.arrived > 0),
            (Obstacle::Ready, self.ready > 0),
            (Obstacle::Consumed, self.consumers > 0),
            (Obstacle::Unsettled, self.unsettled.is_some_and(|it| it > 0)),
            (Obstacle::NotSeen, unseen),
            (Obstacle::Parked, parked),
            (Obstacle::Quorum, self.is_quorum != Some(false)),
        ];
        let all = all.into_iter().filter(|(_, is)| *is);
        all.map(|(obstacle, _)| obstacle).collect()
    }

    /// What is in the way, and what to do, for people.
    #[must_use]
    pub fn tell(&self, obstacle: &Obstacle) -> String {
        let Self {
            from,
            to,
            ready,
            consumers,
            arrived,
            ..
        } = self;
        let ctl = mend::rabbitmqctl(&self.vhost);
        match obstacle {
            Obstacle::Failed => self.failed.join("; "),
            Obstacle::Bound => format!(
                "{from} is still bound to {}. Bind {to} the same way, and unbind {from}, in the \
                 management page",
                Listed(&self.bindings)
            ),
            Obstacle::Arrives => format!(
                "{} came to {from} while the command looked, moved on at once. Either \
                 they were retries or returned messages, or a program publishes to the default \
                 exchange with the routing key {from}: let it publish to {to}",
                many(*arrived, "message")
            ),
            Obstacle::Ready => format!("{} ready in {from}", many((*ready).into(), "message")),
            Obstacle::Consumed => format!(
                "{from} has {}: take the consumer of {from} out of the settings of the workers, and \
                 restart them",
                many((*consumers).into(), "consumer")
            ),
            Obstacle::Unsettled => format!(
                "{} of {from} delivered and not settled",
                many(self.unsettled.unwrap_or_default(), "message")
            ),
            Obstacle::NotSeen => format!(
                "the command cannot see whether a program still holds messages of {from}, and \
                 whether {from} has other bindings ({}). If `{ctl} list_queues name \
                 messages_unacknowledged` shows 0 for it, and `{ctl} list_bindings` shows no \
                 exchange, run this again with --delete",
                self.not_seen.as_deref().unwrap_or("not known")
            ),
            Obstacle::Parked => format!(
                "{} in {}, and will come back to {from}: run this again when they are back",
                many(self.parked.values().copied().map(u64::from).sum(), "retry"),
                self.waiting_in()
            ),
            Obstacle::Quorum => {
                let kind = match self.is_quorum {
                    Some(true) => "is a quorum queue, which RabbitMQ deletes without a check",
                    _ => "may be a quorum queue, which RabbitMQ deletes without a check",
                };
                format!(
                    "{from} {kind}. When nothing else of this list is left: {ctl} delete_queue {}",
                    mend::word(from)
                )
            }
        }
    }

    fn waiting_in(&self) -> String {
        let full = self.parked.iter().filter(|(_, count)| **count > 0);
        let mut names: Vec<_> = full.map(|(name, _)| name.as_str()).collect();
        let more = names.len().saturating_sub(3);
        names.truncate(3);
        match more {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        }
    }
}

/// A number of things.
fn many(count: u64, thing: &str) -> String {
    match (count, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {thing}s"),
    }
}

struct Listed<'a>(&'a [Bound]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(", "))
    }
}
