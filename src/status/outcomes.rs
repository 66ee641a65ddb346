//! The last outcomes of each lane, for whoever looks: every failure, and a few of the rest.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    clock, dead_letters,
    flight::Flight,
    outcome::Outcome,
    policy::Settlement,
    text::{cut, rfc3339},
};

/// Failures kept of each lane.
const FAILURES: usize = 500;
/// Other outcomes kept of each lane.
const OTHERS: usize = 100;
/// Outcomes that are no failures, kept between two calls of [`LaneOutcomes::refill`].
const TOKENS: u32 = 5;
/// Bytes of an error's text.
const ERROR_ROOM: usize = 500;

/// How one handler run ended, and what followed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Outcome)]
#[non_exhaustive]
pub struct OutcomeRecord {
    /// Numbers the outcomes of a worker in the order they were kept in.
    pub seq: u64,
    /// When the run ended.
    #[serde(serialize_with = "as_rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: SystemTime,
    /// The lane.
    pub lane: String,
    /// The message's `message-id` property.
    pub id: Option<String>,
    /// The message's `type` property.
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    /// The number of the attempt: 1 the first time.
    pub attempt: u32,
    /// What it ended in.
    pub kind: OutcomeKind,
    /// What followed. A retry or dead letter that cannot be published becomes a return later.
    pub settlement: SettlementKind,
    /// The wait before the next attempt, where there is one.
    #[serde(rename = "retry_seconds", serialize_with = "as_seconds")]
    #[schema(value_type = Option<f64>)]
    pub retry: Option<Duration>,
    /// Why it is a dead letter, where it is.
    pub reason: Option<&'static str>,
    /// The failure's class.
    pub class: Option<String>,
    /// The failure's status, such as that of an HTTP answer.
    pub status: Option<u16>,
    /// The failure's text, or why the message was dropped; at most 500 bytes.
    pub error: Option<String>,
    /// How long the handler ran; nothing where none did.
    #[serde(rename = "handling_seconds", serialize_with = "as_seconds")]
    #[schema(value_type = Option<f64>)]
    pub handling: Option<Duration>,
    /// The trace it belongs to.
    pub trace_id: Option<String>,
}

fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

fn as_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

/// What a handler run can end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OutcomeKind {
    /// Done.
    Succeeded,
    /// Not wanted.
    Dropped,
    /// It failed.
    Failed,
    /// It ran into the lane's timeout.
    TimedOut,
    /// It panicked.
    Panicked,
    /// We cancelled it.
    Interrupted,
    /// The handler asked for it to come back later.
    Snoozed,
    /// The body is not what the handler takes.
    Undecodable,
    /// No handler takes its type.
    Unroutable,
}

impl From<&Outcome> for OutcomeKind {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Dropped { .. } => Self::Dropped,
            Outcome::Failed(_) => Self::Failed,
            Outcome::TimedOut { .. } => Self::TimedOut,
            Outcome::Panicked { .. } => Self::Panicked,
            Outcome::Interrupted => Self::Interrupted,
            Outcome::Snoozed { .. } => Self::Snoozed,
            Outcome::Undecodable(_) => Self::Undecodable,
            Outcome::Unroutable { .. } => Self::Unroutable,
        }
    }
}

impl OutcomeKind {
    /// Whether it is always kept. The others can be as many as there are messages.
    fn is_always_kept(self) -> bool {
        !matches!(self, Self::Succeeded | Self::Dropped | Self::Snoozed)
    }
}

/// What can follow an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SettlementKind {
    /// It is acked.
    Ack,
    /// It comes back.
    Retry,
    /// It goes to the dead-letter queue.
    DeadLetter,
    /// It goes back to its queue as it is.
    Return,
}

impl From<&Settlement> for SettlementKind {
    fn from(settlement: &Settlement) -> Self {
        match settlement {
            Settlement::Ack => Self::Ack,
            Settlement::Retry { .. } => Self::Retry,
            Settlement::DeadLetter { .. } => Self::DeadLetter,
            Settlement::Return => Self::Return,
        }
    }
}

/// The last outcomes of a worker. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    lanes: BTreeMap<String, Rings>,
}

/// Each kind has a ring of its own, so that neither pushes the other out.
#[derive(Debug, Default)]
struct Rings {
    failures: VecDeque<Arc<OutcomeRecord>>,
    others: VecDeque<Arc<OutcomeRecord>>,
}

impl Outcomes {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a lane leaves its outcomes.
    pub(crate) fn lane(&self, name: &str) -> LaneOutcomes {
        LaneOutcomes {
            all: self.clone(),
            lane: name.into(),
            tokens: AtomicU32::new(0),
        }
    }

    /// The number of the last outcome.
    pub(crate) fn last(&self) -> u64 {
        self.lock().last
    }

    /// Those after number `after`, newest first.
    pub(crate) fn after(
        &self,
        after: u64,
        lane: Option<&str>,
        kind: Option<OutcomeKind>,
        most: usize,
    ) -> Vec<Arc<OutcomeRecord>> {
        let wanted = |record: &&Arc<OutcomeRecord>| {
            record.seq > after && kind.is_none_or(|kind| record.kind == kind)
        };
        let mut found = Vec::new();
        {
            let kept = self.lock();
            let lanes = kept.lanes.iter();
            for (_, rings) in lanes.filter(|(name, _)| lane.is_none_or(|lane| lane == *name)) {
                for ring in [&rings.failures, &rings.others] {
                    found.extend(ring.iter().rev().filter(wanted).take(most).cloned());
                }
            }
        }
        found.sort_unstable_by_key(|record| std::cmp::Reverse(record.seq));
        found.truncate(most);
        found
    }

    fn keep(&self, mut record: OutcomeRecord) {
        let (most, always) = match record.kind.is_always_kept() {
            true => (FAILURES, true),
            false => (OTHERS, false),
        };
        let mut kept = self.lock();
        kept.last += 1;
        record.seq = kept.last;
        if !kept.lanes.contains_key(&record.lane) {
            kept.lanes.insert(record.lane.clone(), Rings::default());
        }
        let Some(rings) = kept.lanes.get_mut(&record.lane) else {
            return;
        };
        let ring = match always {
            true => &mut rings.failures,
            false => &mut rings.others,
        };
        let spare = (ring.len() + 1).saturating_sub(most);
        ring.drain(..spare);
        ring.push_back(Arc::new(record));
    }
}

/// A lane's part of [`Outcomes`].
#[derive(Debug)]
pub(crate) struct LaneOutcomes {
    all: Outcomes,
    lane: Box<str>,
    /// How many that are no failures may be kept. Nothing but a load of this is what they cost once
    /// it is used up.
    tokens: AtomicU32,
}

impl LaneOutcomes {
    pub(crate) fn refill(&self) {
        self.tokens.store(TOKENS, Ordering::Relaxed);
    }

    fn has_token(&self) -> bool {
        let one_less = |tokens: u32| tokens.checked_sub(1);
        self.tokens.load(Ordering::Relaxed) > 0
            && self
                .tokens
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
    }

    pub(crate) fn note(&self, flight: &Flight, outcome: &Outcome, settlement: &Settlement) {
        let kind = OutcomeKind::from(outcome);
        if kind.is_always_kept() || self.has_token() {
            self.all
                .keep(record(&self.lane, flight, outcome, settlement));
        }
    }
}

fn record(
    lane: &str,
    flight: &Flight,
    outcome: &Outcome,
    settlement: &Settlement,
) -> OutcomeRecord {
    let failure = outcome.failure();
    let error = match (&failure, outcome) {
        (Some(failure), _) => Some(failure.error.as_str()),
        (None, Outcome::Dropped { reason }) => Some(reason.as_ref()),
        _ => None,
    };
    OutcomeRecord {
        seq: 0,
        at: clock::now(),
        lane: lane.to_owned(),
        id: flight.message.id().map(str::to_owned),
        message_type: flight.message.message_type().map(str::to_owned),
        attempt: flight.attempt(),
        kind: outcome.into(),
        settlement: settlement.into(),
        retry: match settlement {
            Settlement::Retry { after, .. } => Some(*after),
            _ => None,
        },
        reason: match settlement {
            Settlement::DeadLetter { reason } => Some(reason.as_str()),
            _ => None,
        },
        class: failure
            .as_ref()
            .map(|failure| dead_letters::class(failure).to_owned()),
        status: failure.as_ref().and_then(|failure| failure.status),
        error: error.map(|error| cut(error, ERROR_ROOM).to_owned()),
        handling: flight.handling_for().or_else(|| flight.handled_for()),
        trace_id: flight.trace_id(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(lane: &str, kind: OutcomeKind) -> OutcomeRecord {
        OutcomeRecord {
            seq: 0,
            at: SystemTime::UNIX_EPOCH,
            lane: lane.to_owned(),
            id: None,
            message_type: None,
            attempt: 1,
            kind,
            settlement: SettlementKind::Ack,
            retry: Some(Duration::from_millis(1500)),
            reason: None,
            class: None,
            status: None,
            error: None,
            handling: None,
            trace_id: None,
        }
    }

    #[test]
    fn a_flood_of_one_kind_or_lane_pushes_out_no_other() {
        let outcomes = Outcomes::default();
        outcomes.keep(kept("a", OutcomeKind::Succeeded));
        outcomes.keep(kept("b", OutcomeKind::Failed));
        for _ in 0..2 * FAILURES {
            outcomes.keep(kept("a", OutcomeKind::TimedOut));
        }
        let all = outcomes.after(0, None, None, 10_000);
        assert_eq!(all.len(), FAILURES + 2);
        let seqs: Vec<_> = all.iter().map(|record| record.seq).collect();
        assert!(seqs.is_sorted_by(|a, b| a > b), "newest first");
        assert_eq!(seqs[0], outcomes.last());
        assert_eq!(seqs[FAILURES..], [2, 1]);
        assert_eq!(outcomes.after(0, Some("b"), None, 9).len(), 1);
        let succeeded = Some(OutcomeKind::Succeeded);
        assert_eq!(outcomes.after(0, None, succeeded, 9).len(), 1);
        assert_eq!(outcomes.after(seqs[3], None, None, 9).len(), 3);
        assert_eq!(outcomes.after(0, None, None, 7).len(), 7);
    }

    #[test]
    fn tokens_let_a_few_through_until_they_are_refilled() {
        let lane = Outcomes::default().lane("a");
        let through = || (0..100).filter(|_| lane.has_token()).count();
        assert_eq!(through(), 0);
        lane.refill();
        assert_eq!(through(), TOKENS as usize);
        assert_eq!(through(), 0);
    }

    #[test]
    fn times_are_rfc_3339_and_durations_seconds() {
        let json = serde_json::to_value(kept("a", OutcomeKind::TimedOut)).unwrap();
        assert_eq!(json["at"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["retry_seconds"], 1.5);
        assert_eq!(json["kind"], "timed-out");
        assert!(json["handling_seconds"].is_null());
    }
}
