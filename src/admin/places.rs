//! Where a message is, for each consumer that had it: what this worker saw last.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{api::App, views::FlightStory};
use crate::{SettlementKind, text::rfc3339};

/// An ack is known to about two seconds.
const ABOUT: Duration = Duration::from_secs(2);

/// What this worker saw last of a message, in one of its consumers.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MessagePlace)]
pub(super) struct Place {
    /// The consumer.
    consumer: String,
    /// Where the message is, or was when this worker saw it last.
    state: PlaceState,
    /// When this was: when the worker received it, was done with it, or when its last run ended. When it was done
    /// is known to about two seconds.
    #[schema(format = DateTime)]
    at: String,
    /// When the next attempt is due, if there is one.
    #[schema(format = DateTime)]
    due_at: Option<String>,
    /// The queue that the message went to: its retry queue, the dead-letter queue, or the queue that it came
    /// from. Null if it went to none, or is unknown.
    queue: Option<String>,
    /// Why the message was dead-lettered.
    reason: Option<String>,
    /// Whether this consumer may have acked the message since `at`: it has acked more messages since than this
    /// worker remembers, or it acked this id within two seconds of `at`.
    may_be_acked: bool,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = MessagePlaceState)]
enum PlaceState {
    /// In this worker: `in_flight` has it.
    InFlight,
    /// Its handler succeeded or did not want it, and the ack follows. If the connection is lost before that, the
    /// broker delivers the message again.
    Handled,
    /// It waits for its next attempt.
    Waiting,
    /// Its next attempt was due, and this worker has not seen it since. It is in a queue, in another worker, or
    /// done there.
    Due,
    /// It was dead-lettered, and this worker has not seen it since.
    DeadLettered,
    /// It went back to its queue, and this worker has not seen it since.
    Returned,
}

/// The last outcome of the message in a consumer.
#[derive(Deserialize)]
struct Last {
    consumer: String,
    at: String,
    settlement: SettlementKind,
    retry_seconds: Option<f64>,
    retry_queue: Option<String>,
    reason: Option<String>,
}

/// The acks that a consumer remembers.
struct Remembered {
    /// When it acked the message, if it remembers that.
    acked: Option<SystemTime>,
    /// It remembers all acks since then.
    since: SystemTime,
    queue: String,
    dead_letter_queue: String,
}

/// The places of a message, and since when all consumers of the worker remember their acks. `outcomes` are
/// those of the message, newest first.
pub(super) fn places(
    app: &App,
    id: &str,
    in_flight: &[FlightStory],
    outcomes: &[Value],
    now: SystemTime,
) -> (Vec<Place>, String) {
    let figures = app.worker.consumers();
    let figures = figures.filter_map(|name| Some((name, app.worker.figures(name)?)));
    let remembered: BTreeMap<_, _> = figures
        .map(|(name, figures)| {
            let acks = figures.outcomes.acks();
            let remembered = Remembered {
                acked: acks.of(id),
                since: acks.known_since(),
                queue: figures.settings.queue.clone(),
                dead_letter_queue: figures.settings.dead_letter_queue(),
            };
            (name.to_owned(), remembered)
        })
        .collect();
    let since = remembered.values().map(|it| it.since).max();
    let mut last = last_of(outcomes);
    let mut names: Vec<&String> = remembered.keys().chain(last.keys()).collect();
    names.extend(in_flight.iter().map(|it| &it.message.consumer));
    names.sort();
    names.dedup();
    let names: Vec<String> = names.into_iter().cloned().collect();
    let places = names.iter().filter_map(|name| {
        if let Some(flight) = in_flight.iter().find(|it| it.message.consumer == *name) {
            let at = flight.received_at.clone();
            return Some(Place::new(name, PlaceState::InFlight, at));
        }
        Place::of_past(name, last.remove(name), remembered.get(name), now)
    });
    let places = places.collect();
    (places, rfc3339(since.unwrap_or(app.started_at)))
}

/// The last outcome in each consumer.
fn last_of(outcomes: &[Value]) -> BTreeMap<String, Last> {
    let mut last = BTreeMap::new();
    for outcome in outcomes {
        // A line of the file may be of another version.
        if let Ok(outcome) = Last::deserialize(outcome)
            && !last.contains_key(&outcome.consumer)
        {
            last.insert(outcome.consumer.clone(), outcome);
        }
    }
    last
}

impl Place {
    fn new(consumer: &str, state: PlaceState, at: String) -> Self {
        Self {
            consumer: consumer.to_owned(),
            state,
            at,
            due_at: None,
            queue: None,
            reason: None,
            may_be_acked: false,
        }
    }

    /// The place of a message that is not in flight. `None`: the consumer knows nothing of it.
    fn of_past(
        consumer: &str,
        last: Option<Last>,
        remembered: Option<&Remembered>,
        now: SystemTime,
    ) -> Option<Self> {
        let ended = last
            .as_ref()
            .and_then(|it| humantime::parse_rfc3339(&it.at).ok());
        let acked = remembered.and_then(|it| it.acked);
        // An ack is noted with a time that is at most ABOUT too early. A run that ended later is of another
        // message with this id. If the two are that close, a retry has come to its end, most likely; of
        // anything else it is not known which was first.
        let is = |kind| last.as_ref().is_some_and(|last| last.settlement == kind);
        let is_retry = is(SettlementKind::Retry);
        let is_near = |acked: SystemTime| ended.is_none_or(|ended| acked + ABOUT >= ended);
        let is_last = |acked: SystemTime| ended.is_none_or(|ended| acked >= ended);
        let near = acked.filter(|acked| is_near(*acked) && !is(SettlementKind::Ack));
        if let Some(acked) = near.filter(|acked| is_retry || is_last(*acked)) {
            return Some(Self::new(consumer, PlaceState::Handled, rfc3339(acked)));
        }
        let (last, ended) = (last?, ended?);
        let past = Self {
            may_be_acked: near.is_some() || remembered.is_none_or(|it| it.since > ended),
            ..Self::new(consumer, PlaceState::Handled, last.at)
        };
        Some(match last.settlement {
            SettlementKind::Ack => Self {
                may_be_acked: false,
                ..past
            },
            SettlementKind::Retry => {
                let delay = Duration::try_from_secs_f64(last.retry_seconds.unwrap_or(0.0));
                let due = ended + delay.unwrap_or_default();
                Self {
                    state: match due > now {
                        true => PlaceState::Waiting,
                        false => PlaceState::Due,
                    },
                    due_at: Some(rfc3339(due)),
                    queue: last.retry_queue,
                    may_be_acked: past.may_be_acked && due <= now,
                    ..past
                }
            }
            SettlementKind::DeadLetter => Self {
                state: PlaceState::DeadLettered,
                queue: remembered.map(|it| it.dead_letter_queue.clone()),
                reason: last.reason,
                ..past
            },
            SettlementKind::Return => Self {
                state: PlaceState::Returned,
                queue: remembered.map(|it| it.queue.clone()),
                ..past
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn last(settlement: SettlementKind, ended: u64) -> Option<Last> {
        Some(Last {
            consumer: "orders".to_owned(),
            at: rfc3339(at(ended)),
            settlement,
            retry_seconds: Some(10.0),
            retry_queue: Some("orders.retry.16s".to_owned()),
            reason: Some("max-attempts".to_owned()),
        })
    }

    fn remembered(acked: Option<u64>, since: u64) -> Remembered {
        Remembered {
            acked: acked.map(at),
            since: at(since),
            queue: "orders".to_owned(),
            dead_letter_queue: "orders.dead".to_owned(),
        }
    }

    fn place(last: Option<Last>, remembered: &Remembered) -> Option<Place> {
        Place::of_past("orders", last, Some(remembered), at(1000))
    }

    #[test]
    fn an_ack_is_told_from_what_is_not_known() {
        assert_eq!(place(None, &remembered(None, 0)), None);
        let acked = place(None, &remembered(Some(900), 0)).unwrap();
        assert_eq!(
            (acked.state, acked.at),
            (PlaceState::Handled, rfc3339(at(900)))
        );
    }

    #[test]
    fn a_failure_before_an_ack_is_not_where_the_message_is() {
        for settlement in SettlementKind::ALL {
            let acked = place(last(*settlement, 899), &remembered(Some(900), 0)).unwrap();
            assert_eq!(acked.state, PlaceState::Handled, "{settlement:?}");
        }
        let failed = last(SettlementKind::DeadLetter, 950);
        let again = place(failed, &remembered(Some(900), 0)).unwrap();
        assert_eq!(again.state, PlaceState::DeadLettered, "the id came twice");
    }

    #[test]
    fn a_dead_letter_is_not_hidden_by_an_ack_just_before_it() {
        for ended in [901, 902] {
            let dead = last(SettlementKind::DeadLetter, ended);
            let dead = place(dead, &remembered(Some(900), 0)).unwrap();
            assert_eq!(dead.state, PlaceState::DeadLettered);
            assert!(dead.may_be_acked, "nobody knows which was first");
            let retried = last(SettlementKind::Retry, ended);
            let retried = place(retried, &remembered(Some(900), 0)).unwrap();
            assert_eq!(retried.state, PlaceState::Handled);
        }
        let before = last(SettlementKind::DeadLetter, 903);
        assert!(
            !place(before, &remembered(Some(900), 0))
                .unwrap()
                .may_be_acked
        );
    }

    #[test]
    fn a_retry_waits_until_it_is_due() {
        let waits = place(last(SettlementKind::Retry, 995), &remembered(None, 0)).unwrap();
        assert_eq!(
            (waits.state, waits.may_be_acked),
            (PlaceState::Waiting, false)
        );
        assert_eq!(waits.due_at, Some(rfc3339(at(1005))));
        assert_eq!(waits.queue.as_deref(), Some("orders.retry.16s"));
        let due = place(last(SettlementKind::Retry, 980), &remembered(None, 0)).unwrap();
        assert_eq!((due.state, due.may_be_acked), (PlaceState::Due, false));
    }

    #[test]
    fn an_ack_that_may_be_forgotten_is_said() {
        for (settlement, state, queue) in [
            (SettlementKind::Retry, PlaceState::Due, "orders.retry.16s"),
            (
                SettlementKind::DeadLetter,
                PlaceState::DeadLettered,
                "orders.dead",
            ),
            (SettlementKind::Return, PlaceState::Returned, "orders"),
        ] {
            let place = place(last(settlement, 100), &remembered(None, 101)).unwrap();
            assert_eq!((place.state, place.may_be_acked), (state, true));
            assert_eq!(place.queue.as_deref(), Some(queue));
        }
        let gone = Place::of_past("gone", last(SettlementKind::Retry, 100), None, at(1000));
        assert!(gone.unwrap().may_be_acked, "no consumer of this name");
    }
}
