//! What a migration has left, and what has to happen before the old queue can go.

use std::fmt;

use serde::Serialize;

use super::{Bound, mend};
use crate::text::visible;

/// What is left at the old queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Left {
    /// The virtual host.
    pub vhost: String,
    /// The old queue.
    pub from: String,
    /// The new queue.
    pub to: String,
    /// Whether the old queue was gone before the command began.
    pub is_gone: bool,
    /// Messages that are ready.
    pub ready: u32,
    /// Consumers.
    pub consumers: u32,
    /// Messages that came while the command ran, and were moved.
    pub arrived: u64,
    /// Deliveries that are not settled; `None` if the broker does not show them.
    pub unsettled: Option<u64>,
    /// The queues that dead-letter to the old queue, or may do so; `None` if the broker does not show
    /// them.
    pub leading: Option<Vec<String>>,
    /// Bindings that could not be moved, or that somebody has made again; `None` if the broker does not
    /// show them.
    pub bindings: Option<Vec<Bound>>,
    /// Why the broker does not show one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_seen: Option<String>,
    /// Whether the old queue is a quorum queue; `None` if that is not known.
    pub is_quorum: Option<bool>,
    /// Why messages were not moved, or why the broker does not delete the queue.
    pub failed: Vec<String>,
}

/// A reason why the command does not delete the old queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// Messages were not moved, or the broker does not delete the queue.
    Failed,
    /// Bindings are left.
    Bound,
    /// Messages came while the command ran.
    Arrives,
    /// Messages are ready.
    Ready,
    /// It has consumers.
    Consumed,
    /// Deliveries are not settled.
    Unsettled,
    /// Other queues dead-letter to it.
    Leading,
    /// The command does not see all that matters.
    NotSeen,
    /// The command cannot delete a queue of this type safely.
    Quorum,
}

impl Left {
    /// Why the command does not delete the old queue. All that matters must be seen.
    #[must_use]
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let holds = |it: &Option<Vec<Bound>>| it.as_ref().is_some_and(|it| !it.is_empty());
        let is_led = self.leading.as_ref().is_some_and(|it| !it.is_empty());
        let not_seen = match self.is_gone {
            true => self.leading.is_none(),
            false => self.leading.is_none() || self.bindings.is_none() || self.unsettled.is_none(),
        };
        let all = [
            (Obstacle::Failed, !self.failed.is_empty()),
            (Obstacle::Bound, holds(&self.bindings)),
            (Obstacle::Arrives, self.arrived > 0),
            (Obstacle::Ready, self.ready > 0),
            (Obstacle::Consumed, self.consumers > 0),
            (Obstacle::Unsettled, self.unsettled.is_some_and(|it| it > 0)),
            (Obstacle::Leading, is_led),
            (Obstacle::NotSeen, not_seen),
            (
                Obstacle::Quorum,
                !self.is_gone && self.is_quorum != Some(false),
            ),
        ];
        let all = all.into_iter().filter(|(_, is)| *is);
        all.map(|(obstacle, _)| obstacle).collect()
    }

    /// What is in the way, and what to do, for people.
    #[must_use]
    pub fn tell(&self, obstacle: Obstacle) -> String {
        let Self {
            from,
            to,
            ready,
            consumers,
            arrived,
            ..
        } = self;
        match obstacle {
            Obstacle::Failed => self.failed.join("; "),
            Obstacle::Bound => format!(
                "{from} is still bound to {}. Bind {to} the same way, and unbind {from}, in the \
                 management page",
                Listed(self.bindings.as_deref().unwrap_or_default())
            ),
            Obstacle::Arrives => format!(
                "{} came to {from} while the command ran, and moved on. They were retries or \
                 returned messages, or a program publishes to the default exchange with the routing \
                 key {from}: let it publish to {to}",
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
            Obstacle::Leading => self.tell_leading(),
            Obstacle::NotSeen => self.tell_not_seen(),
            Obstacle::Quorum => {
                let kind = match self.is_quorum {
                    Some(true) => "is a quorum queue",
                    _ => "may be a quorum queue",
                };
                format!(
                    "{from} {kind}, which RabbitMQ deletes without a check. So the command does not \
                     delete it. When nothing else of this list is left: {}",
                    self.by_hand()
                )
            }
        }
    }

    fn tell_leading(&self) -> String {
        let (from, to) = (&self.from, &self.to);
        let ctl = mend::rabbitmqctl(&self.vhost);
        let names = self.leading.iter().flatten();
        let names: Vec<_> = names.map(|name| visible(name)).collect();
        let names = names.join(", ");
        let what = match self.is_gone {
            false => format!("Messages in them come back to {from}"),
            true => format!(
                "{from} is gone, so messages in them stay there or are lost. If one has messages, \
                 declare {from} again and run this again"
            ),
        };
        format!(
            "these queues dead-letter to {from}, or may do so: {names}. {what}. Let queues of other \
             programs dead-letter to {to}. Delete a retry queue with `{ctl} delete_queue NAME` when no \
             worker uses it and `{ctl} list_queues name messages` shows 0 for it, twice and 10 \
             minutes apart"
        )
    }

    fn tell_not_seen(&self) -> String {
        let from = &self.from;
        let why = self.not_seen.as_deref().unwrap_or("not known");
        if self.is_gone {
            let ctl = mend::rabbitmqctl(&self.vhost);
            return format!(
                "the command does not see whether queues dead-letter to {from} ({why}). If `{ctl} \
                 list_queues name messages arguments effective_policy_definition` shows one that has \
                 messages: declare {from} again, and run this again"
            );
        }
        format!(
            "the command does not see all that matters ({why}), so it does not delete {from}. Set \
             broker.management_url (the user needs the tag management), and run this again. Or, when \
             nothing else of this list is left: {}",
            self.by_hand()
        )
    }

    /// What to check before somebody deletes the old queue, and the command.
    fn by_hand(&self) -> String {
        let ctl = mend::rabbitmqctl(&self.vhost);
        let from = &self.from;
        let name = mend::word(from);
        let conditions = match self.is_quorum {
            Some(true) => "",
            _ => " --if-empty --if-unused",
        };
        format!(
            "check that `{ctl} list_queues name messages consumers` shows 0 and 0 for {from}, twice \
             and a minute apart, that `{ctl} list_bindings source_name destination_name` shows no \
             exchange for it, and that `{ctl} list_queues name arguments \
             effective_policy_definition` shows no queue that dead-letters to it. Then: {ctl} \
             delete_queue {name}{conditions}"
        )
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
