//! What exists of a consumer's queues and exchanges, beside what its settings want. Creates nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

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
    /// It exists. A queue that was compared is as the settings want it.
    Fits,
    /// It does not exist.
    Missing,
    /// It exists, and differs in this.
    Differs(Vec<Difference>),
    /// The broker does not tell, because this user may not look, or for another reason: its text.
    Hidden(String),
}

/// One queue of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct SurveyedQueue {
    pub(super) plan: QueuePlan,
    pub(crate) role: QueueRole,
    pub(crate) standing: Standing,
    /// Whether a start compares the arguments. Otherwise the worker uses the queue as it is.
    pub(crate) is_compared: bool,
    /// Whether the worker creates the queue if it is missing.
    pub(crate) is_creatable: bool,
    /// The arguments that the queue has, if they were compared and the broker shows them.
    pub(crate) has: Option<BTreeMap<String, String>>,
    /// The broker's text, if the user may not declare the queue.
    pub(crate) refused: Option<String>,
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
            has: None,
            refused: None,
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

    /// The time that a message waits in this retry queue; `None` for any other queue.
    pub(crate) fn waits(&self) -> Option<Duration> {
        match self.plan.argument("x-message-ttl") {
            Some(QueueArgument::Int(millis)) if self.role == QueueRole::Retry => {
                Some(Duration::from_millis(millis.unsigned_abs()))
            }
            _ => None,
        }
    }

    /// The arguments of a queue that was compared: the planned ones, but for the differences.
    fn seen(&self) -> Option<BTreeMap<String, String>> {
        let differences = match &self.standing {
            Standing::Fits => &[][..],
            Standing::Differs(differences) => differences.as_slice(),
            Standing::Missing | Standing::Hidden(_) => return None,
        };
        let planned = self.arguments().iter();
        let planned = planned.map(|(name, value)| (name.clone(), text(value)));
        let mut known: BTreeMap<_, _> = planned.collect();
        for difference in differences {
            match difference {
                Difference::Argument {
                    argument,
                    values: Some(values),
                    ..
                } => match &values.has {
                    Some(has) => drop(known.insert(argument.clone(), has.clone())),
                    None => drop(known.remove(argument)),
                },
                // The comparison ended here.
                _ => return None,
            }
        }
        Some(known)
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

/// The value of an argument, as the broker writes it.
fn text(argument: &QueueArgument) -> String {
    match argument {
        QueueArgument::Text(text) => text.clone(),
        QueueArgument::Int(number) => number.to_string(),
        QueueArgument::Bool(is) => is.to_string(),
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

/// Looks at all queues and exchanges of a consumer, as a worker does at its start: a queue that the worker uses
/// as it is is not compared.
pub(super) async fn survey(look: &mut Look<'_>, spec: &QueueSpec) -> Result<Survey, BrokerError> {
    let mut queues = Vec::new();
    for plan in plan(spec) {
        queues.push(at_start(look, SurveyedQueue::new(spec, plan, Standing::Fits)).await?);
    }
    let mut exchanges = Vec::new();
    for exchange in exchanges_of(spec) {
        let standing = exchange_standing(look.exchange_exists(exchange).await?);
        exchanges.push((exchange.to_owned(), standing));
    }
    Ok(Survey { queues, exchanges })
}

/// Looks more closely, for a doctor: compares each queue, also those that the worker uses as they are. What the
/// broker does not tell is hidden.
pub(super) async fn examine(look: &mut Look<'_>, spec: &QueueSpec) -> Survey {
    let mut queues = Vec::new();
    for plan in plan(spec) {
        queues.push(whole(look, SurveyedQueue::new(spec, plan, Standing::Fits)).await);
    }
    let mut exchanges = Vec::new();
    for exchange in exchanges_of(spec) {
        let exists = look.exchange_exists(exchange).await;
        let hidden = |error: BrokerError| Standing::Hidden(error.to_string());
        let standing = exists.map_or_else(hidden, exchange_standing);
        exchanges.push((exchange.to_owned(), standing));
    }
    Survey { queues, exchanges }
}

/// The exchanges that the bindings name. With `none` the worker does not look at them.
fn exchanges_of(spec: &QueueSpec) -> BTreeSet<&str> {
    let bindings = spec.bindings.iter();
    let bindings = bindings.filter(|_| spec.topology != Topology::None);
    bindings.map(|it| it.exchange.as_str()).collect()
}

fn exchange_standing(exists: Option<bool>) -> Standing {
    match exists {
        Some(true) => Standing::Fits,
        Some(false) => Standing::Missing,
        None => Standing::Hidden(NOT_SHOWN.to_owned()),
    }
}

/// What stands for the broker's text where only the reply code is known.
const NOT_SHOWN: &str = "the broker does not let this user look (403)";

async fn at_start(
    look: &mut Look<'_>,
    mut queue: SurveyedQueue,
) -> Result<SurveyedQueue, BrokerError> {
    queue.standing = match queue.is_compared {
        true => match look.compare(&queue.plan).await {
            Ok(found) => found.into(),
            Err(BrokerError::Refused(text)) => Standing::Hidden(text),
            Err(error) => return Err(error),
        },
        false => existing(look, queue.role == QueueRole::Work, queue.name()).await?,
    };
    Ok(queue)
}

async fn whole(look: &mut Look<'_>, mut queue: SurveyedQueue) -> SurveyedQueue {
    queue.standing = match look.compare(&queue.plan).await {
        Ok(found) => {
            queue.standing = found.into();
            queue.has = queue.seen();
            return queue;
        }
        Err(BrokerError::Refused(text)) => {
            queue.refused = Some(text);
            match look.queue_exists(queue.name()).await {
                Ok(Some(true)) => Standing::Fits,
                Ok(Some(false)) => Standing::Missing,
                Ok(None) => Standing::Hidden("the user may not look at the queue".to_owned()),
                Err(error) => Standing::Hidden(error.to_string()),
            }
        }
        Err(error) => Standing::Hidden(error.to_string()),
    };
    queue
}

impl From<Found> for Standing {
    fn from(found: Found) -> Self {
        match found {
            Found::Same => Self::Fits,
            Found::Missing => Self::Missing,
            Found::Differs(differences) => Self::Differs(differences),
        }
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
impl SurveyedQueue {
    /// A queue of a consumer with these settings that stands so.
    pub(crate) fn standing_so(spec: &QueueSpec, queue: &str, standing: Standing) -> Self {
        let plan = plan(spec).into_iter().find(|plan| plan.name == queue);
        Self::new(spec, plan.expect("a queue of the consumer"), standing)
    }

    /// The same queue, seen with these settings.
    pub(crate) fn under(&self, spec: &QueueSpec) -> Self {
        Self {
            has: self.has.clone(),
            refused: self.refused.clone(),
            ..Self::new(spec, self.plan.clone(), self.standing.clone())
        }
    }
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
