//! Reading a message before its handler runs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::{task::spawn_blocking, time::sleep};

use super::{dispatch::Route, execute::panicked};
use crate::{
    decode::{Seen, Unread},
    flight::Flight,
    outcome::{Ending, Failure, Outcome},
};

/// The message as the route's handler sees it, or how the attempt ends without a run.
pub(super) async fn read(flight: &Arc<Flight>, route: &Route) -> Result<Seen, Ending> {
    let wants_json = route.handler.wants_checked_json();
    let at_once = || route.reader.read(&flight.message, wants_json, true);
    match catch_unwind(AssertUnwindSafe(at_once)) {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(Unread::TakesLong)) => Box::pin(read_aside(flight, route, wants_json)).await,
        Ok(Err(unread)) => Err(ending(unread, route)),
        Err(payload) => Err(panicked(payload)),
    }
}

/// Reads a message on a thread for work that blocks. An attempt that ends before the reading does leaves
/// it alone: the reading ends by itself, and nobody uses what it read.
async fn read_aside(flight: &Arc<Flight>, route: &Route, wants_json: bool) -> Result<Seen, Ending> {
    flight.cancel.begin();
    let (reader, theirs) = (Arc::clone(&route.reader), Arc::clone(flight));
    let reading = spawn_blocking(move || reader.read(&theirs.message, wants_json, false));
    tokio::select! {
        biased;
        read = reading => match read {
            Ok(read) => read.map_err(|unread| ending(unread, route)),
            // Without a panic, the runtime stops.
            Err(error) => Err(error.try_into_panic().map_or(Ending::Interrupted, panicked)),
        },
        _ = flight.cancel.requested() => Err(Ending::Interrupted),
        () = sleep(route.limits.timeout) => Err(too_slow(route)),
    }
}

/// How an attempt ends whose message was not read.
fn ending(unread: Unread, route: &Route) -> Ending {
    match unread {
        Unread::Failed(failure) => Ending::Undecodable(failure),
        Unread::TakesLong => too_slow(route),
    }
}

fn too_slow(route: &Route) -> Ending {
    let limit = crate::text::seconds(route.limits.timeout);
    let text = format!("the worker could not unpack and check the body within {limit}");
    Ending::Handled(Outcome::Failed(Failure::retryable("decode", text)))
}
