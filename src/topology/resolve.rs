//! What the settings say about a migration: both queues, their bindings, and why it is refused.

use super::{Bound, desk::Consumers, mend};
use crate::{
    broker::{QueueSpec, QueueType, Topology},
    consumer::ConsumerSettings,
};

/// The two queues of a migration.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The queue to replace. Its arguments are not compared.
    pub(super) source: QueueSpec,
    /// The queue that replaces it, without its bindings.
    pub(super) target: QueueSpec,
    /// The bindings in the settings of both queues.
    pub(super) bindings: Vec<Bound>,
    /// The bindings in the settings of the new queue.
    pub(super) of_target: Vec<Bound>,
    /// What a person should know before it begins.
    pub(super) notes: Vec<String>,
}

type Named<'a> = (&'a String, &'a ConsumerSettings);

/// Reads the settings. An error is the reason why the migration is refused.
pub(super) fn resolve(consumers: &Consumers, from: &str, to: &str) -> Result<Resolved, String> {
    let of = |queue: &str| consumers.iter().find(|(_, it)| it.queue == queue);
    if from == to {
        return Err("--to must be another name: a queue cannot change its type".to_owned());
    }
    if let Some(why) = is_taken(consumers, from).or_else(|| is_taken(consumers, to)) {
        return Err(why);
    }
    let (old, new) = (of(from), of(to));
    let (source, mut target) = match (old, new) {
        (None, None) => {
            return Err(format!(
                "the settings have no consumer of {from}, and none of {to}"
            ));
        }
        (Some((_, old)), None) => (old.clone(), renamed(old, to)),
        (None, Some((_, new))) => (renamed(new, from), new.clone()),
        (Some((_, old)), Some((_, new))) => (old.clone(), new.clone()),
    };
    if let Some(why) = old.and_then(|old| binds_again(old, from)) {
        return Err(why);
    }
    if target.queue_type != QueueType::Quorum {
        let (name, _) = new.ok_or("the new queue is a quorum queue")?;
        return Err(format!(
            "consumers.{name}.queue_type is classic: the new queue must be a quorum queue"
        ));
    }
    let of_target: Vec<_> = target.bindings.iter().map(Bound::from).collect();
    let mut bindings: Vec<_> = source.bindings.iter().map(Bound::from).collect();
    bindings.extend(of_target.clone());
    target.bindings.clear();
    Ok(Resolved {
        notes: notes(old, new, (from, to)),
        source: source.queue_spec(),
        target: target.queue_spec(),
        bindings: without_twins(bindings),
        of_target,
    })
}

/// The same bindings, each once.
pub(super) fn without_twins(bindings: Vec<Bound>) -> Vec<Bound> {
    let mut once: Vec<Bound> = Vec::new();
    for bound in bindings {
        if !once.contains(&bound) {
            once.push(bound);
        }
    }
    once
}

/// A consumer's settings for another queue.
fn renamed(consumer: &ConsumerSettings, queue: &str) -> ConsumerSettings {
    ConsumerSettings {
        queue: queue.to_owned(),
        queue_type: QueueType::Quorum,
        topology: Topology::Declare,
        // Retry queues lead back to one queue.
        retry_queue_prefix: None,
        ..consumer.clone()
    }
}

/// Why a queue cannot be a work queue.
fn is_taken(consumers: &Consumers, queue: &str) -> Option<String> {
    consumers.iter().find_map(|(name, consumer)| {
        if consumer.dead_letter_queue() == queue {
            return Some(format!(
                "{queue} is the dead-letter queue of consumers.{name}"
            ));
        }
        let mut rungs = consumer
            .queue_spec()
            .ladder
            .all()
            .collect::<Vec<_>>()
            .into_iter();
        let is_rung = rungs.any(|rung| rung.queue == queue);
        is_rung.then(|| format!("{queue} is a retry queue of consumers.{name}"))
    })
}

/// A worker with these settings would undo the migration at its next reconnect.
fn binds_again((name, old): Named<'_>, from: &str) -> Option<String> {
    let binds = old.topology == Topology::Declare && !old.bindings.is_empty();
    binds.then(|| {
        format!(
            "workers with consumers.{name} bind {from} again whenever they connect: set \
             consumers.{name}.topology = \"attach\", restart them, and run this again"
        )
    })
}

fn notes(old: Option<Named<'_>>, new: Option<Named<'_>>, (from, to): (&str, &str)) -> Vec<String> {
    let mut notes = Vec::new();
    match new {
        None => notes.push(format!(
            "The settings have no consumer of {to}. The new queue gets the settings of {from}. \
             Messages wait in {to} until a worker consumes it."
        )),
        Some((name, new)) if new.topology == Topology::Declare && !new.bindings.is_empty() => {
            notes.push(format!(
                "Workers with consumers.{name} have bound {to} already. Until {from} is unbound, \
                 both queues get each message."
            ));
        }
        Some(_) => {}
    }
    notes.push(format!(
        "Programs that publish to the default exchange with the routing key {from} still reach \
         {from}. Let them publish to {to} before {from} goes: then they reach no queue."
    ));
    let was = old.map(|(_, consumer)| consumer.dead_letter_queue());
    let was = was.unwrap_or_else(|| format!("{from}.dead"));
    notes.push(format!(
        "Letters in {was} name {from} as their source. To replay them later: lapwing dead replay \
         --queue {} --to {}",
        mend::word(&was),
        mend::word(to)
    ));
    notes
}
