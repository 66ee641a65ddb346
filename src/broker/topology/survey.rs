//! What exists of a consumer's queues and exchanges, beside what its settings want. Creates nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    Difference, QueuePlan,
    look::{Found, Look},
    plan,
};
use crate::broker::{QueueArgument, QueueSpec, Topology, error::BrokerError};

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueRole {
    /// The queue that the consumer consumes.
    Work,
    /// A retry queue.
    Retry,
    /// The dead-letter queue.
    DeadLetter,
}

/// How an object at the broker compares with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It exists. A queue that is compared is as the settings want it.
    Fits,
    /// It does not exist.
    Missing,
    /// It exists, and differs in this.
    Differs(Vec<Difference>),
    /// The broker does not let this user look: its text.
    Hidden(String),
}

/// One queue of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct SurveyedQueue {
    pub(super) plan: QueuePlan,
    pub(crate) role: QueueRole,
    pub(crate) standing: Standing,
    /// Whether the arguments were compared. Otherwise the queue is used as it is.
    pub(crate) is_compared: bool,
    /// Whether the worker creates the queue if it is missing.
    pub(crate) is_creatable: bool,
}

impl SurveyedQueue {
    fn new(spec: &QueueSpec, plan: QueuePlan, standing: Standing) -> Self {
        let role = match &plan.name {
            name if *name == spec.queue => QueueRole::Work,
            name if *name == spec.dead_letter_queue => QueueRole::DeadLetter,
            _ => QueueRole::Retry,
        };
        let is_theirs = spec.topology == Topology::Attach && role == QueueRole::Work;
        let is_compared = spec.topology != Topology::None && !is_theirs;
        Self {
            plan,
            role,
            standing,
            is_compared,
            is_creatable: is_compared && spec.topology.creates(),
        }
    }

    /// The queue's name.
    pub(crate) fn name(&self) -> &str {
        &self.plan.name
    }

    /// The arguments that the settings want.
    pub(crate) fn arguments(&self) -> &BTreeMap<String, QueueArgument> {
        self.plan.arguments()
    }

    /// What keeps a worker from its start.
    fn differences(&self) -> Vec<Difference> {
        match &self.standing {
            Standing::Differs(differences) => differences.clone(),
            Standing::Missing if !self.is_creatable => {
                let queue = self.name().to_owned();
                vec![Difference::NoQueue { queue }]
            }
            _ => Vec::new(),
        }
    }
}

/// What exists of a consumer's queues and exchanges.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    /// The queues, in the order in which they are declared: the work queue is the last one.
    pub(crate) queues: Vec<SurveyedQueue>,
    /// The exchanges that the bindings name; none with `topology = "none"`.
    pub(crate) exchanges: Vec<(String, Standing)>,
}

impl Survey {
    /// Whether a worker could start.
    ///
    /// # Errors
    /// The refusal or the differences that keep it from its start.
    pub(crate) fn check(&self) -> Result<(), BrokerError> {
        check(std::slice::from_ref(self))
    }

    /// The broker's text, if it refuses a comparison without which a worker does not start.
    fn refusal(&self) -> Option<String> {
        self.queues.iter().find_map(|queue| match &queue.standing {
            Standing::Hidden(text) if queue.is_compared => Some(text.clone()),
            _ => None,
        })
    }

    /// What keeps a worker from its start.
    fn differences(&self) -> Vec<Difference> {
        let queues = self.queues.iter().flat_map(SurveyedQueue::differences);
        let missing = |(exchange, standing): &(String, Standing)| {
            (*standing == Standing::Missing).then(|| Difference::NoExchange {
                exchange: exchange.clone(),
            })
        };
        let exchanges = self.exchanges.iter().filter_map(missing);
        queues.chain(exchanges).collect()
    }

    /// Queues and exchanges that the broker does not let us look at.
    pub(super) fn hidden(&self) -> Vec<&str> {
        let is_hidden = |standing: &Standing| matches!(standing, Standing::Hidden(_));
        let queues = self.queues.iter().filter(|it| is_hidden(&it.standing));
        let exchanges = self.exchanges.iter().filter(|it| is_hidden(&it.1));
        let exchanges = exchanges.map(|(exchange, _)| exchange.as_str());
        queues.map(SurveyedQueue::name).chain(exchanges).collect()
    }

    /// The queues that a worker creates.
    pub(super) fn to_create(&self) -> impl Iterator<Item = &QueuePlan> {
        let missing = self.queues.iter();
        let missing = missing.filter(|it| it.standing == Standing::Missing && it.is_creatable);
        missing.map(|it| &it.plan)
    }
}

/// Whether a worker with all these consumers could start.
pub(super) fn check(surveys: &[Survey]) -> Result<(), BrokerError> {
    if let Some(text) = surveys.iter().find_map(Survey::refusal) {
        return Err(BrokerError::Refused(text));
    }
    let differences: Vec<_> = surveys.iter().flat_map(Survey::differences).collect();
    match differences.is_empty() {
        true => Ok(()),
        false => Err(BrokerError::Topology(differences)),
    }
}

/// Looks at all queues and exchanges of a consumer.
pub(super) async fn survey(look: &mut Look<'_>, spec: &QueueSpec) -> Result<Survey, BrokerError> {
    let mut queues = Vec::new();
    for plan in plan(spec) {
        queues.push(queue(look, spec, plan).await?);
    }
    let mut exchanges = Vec::new();
    if spec.topology != Topology::None {
        let names = spec.bindings.iter().map(|it| it.exchange.as_str());
        for exchange in names.collect::<BTreeSet<_>>() {
            let standing = match look.exchange_exists(exchange).await? {
                Some(true) => Standing::Fits,
                Some(false) => Standing::Missing,
                None => Standing::Hidden(NOT_SHOWN.to_owned()),
            };
            exchanges.push((exchange.to_owned(), standing));
        }
    }
    Ok(Survey { queues, exchanges })
}

/// What stands for the broker's text where only the reply code is known.
const NOT_SHOWN: &str = "the broker does not let this user look (403)";

async fn queue(
    look: &mut Look<'_>,
    spec: &QueueSpec,
    plan: QueuePlan,
) -> Result<SurveyedQueue, BrokerError> {
    let seen = SurveyedQueue::new(spec, plan, Standing::Fits);
    let standing = match seen.is_compared {
        true => compared(look, &seen.plan).await?,
        false => existing(look, seen.role == QueueRole::Work, &seen.plan.name).await?,
    };
    Ok(SurveyedQueue { standing, ..seen })
}

async fn compared(look: &mut Look<'_>, plan: &QueuePlan) -> Result<Standing, BrokerError> {
    match look.compare(plan).await {
        Ok(Found::Same) => Ok(Standing::Fits),
        Ok(Found::Missing) => Ok(Standing::Missing),
        Ok(Found::Differs(differences)) => Ok(Standing::Differs(differences)),
        Err(BrokerError::Refused(text)) => Ok(Standing::Hidden(text)),
        Err(error) => Err(error),
    }
}

/// A queue whose arguments are the user's.
async fn existing(
    look: &mut Look<'_>,
    is_consumed: bool,
    queue: &str,
) -> Result<Standing, BrokerError> {
    let hidden = || Standing::Hidden(NOT_SHOWN.to_owned());
    match look.queue_exists(queue).await? {
        Some(true) if is_consumed => {}
        Some(true) => return Ok(Standing::Fits),
        Some(false) => return Ok(Standing::Missing),
        None => return Ok(hidden()),
    }
    Ok(match look.unfit(queue).await? {
        Some(Some(why)) => {
            let queue = queue.to_owned();
            Standing::Differs(vec![Difference::Unfit { queue, why }])
        }
        Some(None) => Standing::Fits,
        None => hidden(),
    })
}

#[cfg(test)]
impl Survey {
    /// What a survey of these queues is, if each stands so.
    pub(crate) fn standing(spec: &QueueSpec, standing: impl Fn(&str) -> Standing) -> Self {
        let queues = plan(spec).into_iter().map(|plan| {
            let standing = standing(&plan.name);
            SurveyedQueue::new(spec, plan, standing)
        });
        Self {
            queues: queues.collect(),
            exchanges: Vec::new(),
        }
    }
}
