//! What a worker would create, what it would refuse, and what nobody can see.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Bound, QueueRole, mend};
use crate::broker::{
    Binding, Difference, QueueArgument, QueueSpec, Standing, Survey, SurveyedQueue, Topology,
    Unknown,
};

/// The kind of an object at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Object {
    /// A queue.
    Queue,
    /// The exchange of a binding.
    Exchange,
    /// A binding of the work queue.
    Binding,
}

/// What to apply the plan would do about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing: the object is as the settings want it.
    None,
    /// Create the queue.
    Create,
    /// Bind the queue.
    Bind,
    /// It cannot do anything: a worker does not start, or somebody has to bind the queue.
    Cannot,
    /// It is not known whether there is something to do. A worker starts all the same.
    Unknown,
}

/// An object that a consumer needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// The kind.
    pub object: Object,
    /// The name; for a binding that of its queue.
    pub name: String,
    /// What a queue is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<QueueRole>,
    /// The exchange and the key of a binding.
    #[serde(flatten)]
    pub bound: Option<Bound>,
    /// What there is to do.
    pub action: Action,
    /// How the object differs, or why it is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// Commands and settings that mend it: each line is one way, or one step of the way before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mend: Vec<String>,
    /// The arguments that a missing queue gets.
    #[serde(rename = "arguments", skip_serializing_if = "BTreeMap::is_empty")]
    pub wanted: BTreeMap<String, QueueArgument>,
}

/// The objects of one consumer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConsumerPlan {
    /// The consumer's name.
    pub consumer: String,
    /// Its queue.
    pub queue: String,
    /// What its worker does about its queues.
    pub topology: Topology,
    /// The objects: queues, exchanges, bindings.
    pub items: Vec<Item>,
}

/// What exists and what is wanted, of all consumers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// How many objects would be created or bound.
    pub changes: usize,
    /// How many objects keep a worker from its start, or need somebody to change them.
    pub blocked: usize,
    /// How many objects could not be seen.
    pub unknown: usize,
    /// The consumers.
    pub consumers: Vec<ConsumerPlan>,
}

/// What the broker said about a consumer.
pub(super) struct Facts<'a> {
    pub(super) consumer: &'a str,
    pub(super) survey: Survey,
    /// The bindings of the work queue.
    pub(super) bindings: Result<Vec<Bound>, Unknown>,
    pub(super) vhost: String,
    pub(super) user: Option<String>,
}

impl Plan {
    /// Leaves out of later consumers what an earlier one lists.
    pub(super) fn new(mut consumers: Vec<ConsumerPlan>) -> Self {
        let mut seen = BTreeSet::new();
        let mut counts = BTreeMap::new();
        for consumer in &mut consumers {
            consumer.items.retain(|item| {
                let bound = item.bound.as_ref();
                let bound = bound.map(|it| (it.exchange.clone(), it.routing_key.clone()));
                // The same queue can differ from what another consumer wants.
                seen.insert((item.object, item.name.clone(), bound, item.action))
            });
            for item in &consumer.items {
                *counts.entry(item.action).or_default() += 1;
            }
        }
        let count = |action| counts.get(&action).copied().unwrap_or_default();
        Self {
            changes: count(Action::Create) + count(Action::Bind),
            blocked: count(Action::Cannot),
            unknown: count(Action::Unknown),
            consumers,
        }
    }
}

impl ConsumerPlan {
    pub(super) fn new(spec: &QueueSpec, facts: &Facts<'_>) -> Self {
        let queues = facts.survey.queues.iter();
        let queues = queues.map(|queue| queue_item(spec, facts, queue));
        let exchanges = facts.survey.exchanges.iter();
        let exchanges = exchanges.map(|(name, standing)| exchange_item(facts, name, standing));
        let work = facts.survey.queues.last();
        let is_new = work.is_some_and(|work| work.standing == Standing::Missing);
        let bindings = spec
            .bindings
            .iter()
            .filter(|_| spec.topology != Topology::None);
        let bindings = bindings.map(|binding| binding_item(spec, facts, binding, is_new));
        Self {
            consumer: facts.consumer.to_owned(),
            queue: spec.queue.clone(),
            topology: spec.topology,
            items: queues.chain(exchanges).chain(bindings).collect(),
        }
    }
}

fn queue_item(spec: &QueueSpec, facts: &Facts<'_>, queue: &SurveyedQueue) -> Item {
    let action = match &queue.standing {
        Standing::Fits => Action::None,
        Standing::Missing if queue.is_creatable => Action::Create,
        Standing::Hidden(_) if !queue.is_compared => Action::Unknown,
        Standing::Missing | Standing::Differs(_) | Standing::Hidden(_) => Action::Cannot,
    };
    let why = match &queue.standing {
        Standing::Fits => Vec::new(),
        Standing::Missing => match action {
            Action::Create => Vec::new(),
            _ => vec!["is missing, and this topology does not create it".to_owned()],
        },
        Standing::Differs(differences) => problems(differences),
        Standing::Hidden(text) => vec![text.clone()],
    };
    let is_missing = queue.standing == Standing::Missing;
    Item {
        object: Object::Queue,
        name: queue.name().to_owned(),
        role: Some(queue.role),
        bound: None,
        action,
        why,
        mend: match action {
            Action::Cannot => mend::queue(spec, facts, queue),
            _ => Vec::new(),
        },
        wanted: match is_missing {
            true => queue.arguments().clone(),
            false => BTreeMap::new(),
        },
    }
}

/// The differences of a queue. Another type comes first: it explains most others.
fn problems(differences: &[Difference]) -> Vec<String> {
    let mut problems: Vec<_> = differences.iter().map(Difference::problem).collect();
    problems.sort_by_key(|problem| !problem.starts_with("x-queue-type"));
    problems
}

fn exchange_item(facts: &Facts<'_>, name: &str, standing: &Standing) -> Item {
    let (action, why) = match standing {
        Standing::Missing => (Action::Cannot, vec!["is missing".to_owned()]),
        Standing::Hidden(text) => (Action::Unknown, vec![text.clone()]),
        Standing::Fits | Standing::Differs(_) => (Action::None, Vec::new()),
    };
    Item {
        object: Object::Exchange,
        name: name.to_owned(),
        role: None,
        bound: None,
        action,
        why,
        mend: match action {
            Action::Cannot => mend::exchange(facts, name),
            _ => Vec::new(),
        },
        wanted: BTreeMap::new(),
    }
}

fn binding_item(spec: &QueueSpec, facts: &Facts<'_>, binding: &Binding, is_new: bool) -> Item {
    let bound = Bound::from(binding);
    let binds = spec.topology == Topology::Declare;
    let (action, why) = match &facts.bindings {
        Ok(known) if known.contains(&bound) => (Action::None, Vec::new()),
        Err(why) if !is_new => (Action::Unknown, vec![why.to_string()]),
        _ if binds => (Action::Bind, Vec::new()),
        _ => {
            let why = "is missing, and this topology does not bind";
            (Action::Cannot, vec![why.to_owned()])
        }
    };
    Item {
        object: Object::Binding,
        name: spec.queue.clone(),
        role: None,
        mend: match action {
            Action::Cannot => mend::binding(facts, &spec.queue, &bound),
            _ => Vec::new(),
        },
        bound: Some(bound),
        action,
        why,
        wanted: BTreeMap::new(),
    }
}
