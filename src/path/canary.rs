//! Reports of canaries: a replay of dead letters waits for the first outcome of its first letters.
//!
//! A report is a courtesy. A task of its own publishes it, tries once, and has few seconds for it, so the
//! settlement of the canary does not wait for its report. The copies of all messages use the same publishing
//! channels, so the worker publishes one report at a time: a slow broker cannot make reports take the
//! channels from retries and dead letters. Without the queue for the report nothing happens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use tracing::debug;

use super::Lane;
use crate::{
    broker::{Broker, CopyHeaders, Properties, Publication, Written},
    chance,
    dead_letters::{Canary, CanaryReport, class},
    flight::Flight,
    outcome::Ending,
    policy::Settlement,
    text::cut,
};

/// The longest that a report may hold a publishing channel. Shorter than the time for which a copy waits for
/// one (`timeouts.checkout`, 5 s by default).
const LONGEST: Duration = Duration::from_secs(3);
/// The longest that a report waits for the reports before it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most reports of a lane under way. A replay has at most 100 canaries.
const MOST: usize = 128;
/// The longest error in a report, in bytes.
const ERROR_ROOM: usize = 512;

/// Reports the first outcome of a canary. A delivery that goes back to its queue has had none.
pub(super) fn report<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    ending: &Ending,
    settlement: &Settlement,
) {
    let Some(canary) = Canary::read(&flight.message.properties) else {
        return;
    };
    if *settlement == Settlement::Return || !flight.is_first_outcome() {
        return;
    }
    let Some(place) = Place::take(&lane.live.reports) else {
        return;
    };
    let error = ending.failure().map_or_else(String::new, |failure| {
        let error = cut(&failure.error, ERROR_ROOM);
        format!("{}: {error}", class(&failure))
    });
    let report = CanaryReport {
        number: canary.number,
        outcome: ending.kind().name().to_owned(),
        settlement: settlement.kind().name().to_owned(),
        error,
        worker: lane.worker.to_string(),
    };
    let (broker, reports) = (lane.broker.clone(), Arc::clone(&lane.reports));
    lane.runtime.spawn(async move {
        let _place = place;
        let Ok(Ok(_permit)) = timeout(PATIENCE, reports.acquire()).await else {
            debug!("the report of a canary waited too long for others");
            return;
        };
        send(&broker, &canary.queue, &report).await;
    });
}

async fn send<B: Broker>(broker: &B, queue: &str, report: &CanaryReport) {
    let body = serde_json::to_vec(report).unwrap_or_default();
    let id = chance::message_id().to_string();
    let properties = Properties::new(&id, Some("application/json"), None, &[]);
    // The program that replays believes only reports that name a user it trusts.
    let named = CopyHeaders {
        is_named: true,
        ..CopyHeaders::default()
    };
    let publication = Publication {
        exchange: "",
        routing_key: queue,
        body: &body,
        properties: Written::Copy(&properties, named),
    };
    match timeout(LONGEST, broker.publish(&publication)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(queue, %error, "failed to report the outcome of a canary"),
        Err(_) => debug!(queue, "the broker took too long for the report of a canary"),
    }
}

/// The place of a report among those under way. Dropping it frees the place.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(reports: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(reports));
        (reports.fetch_add(1, Ordering::AcqRel) < MOST).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
