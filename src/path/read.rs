//! Reading a message before its handler runs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::sleep};

use super::{dispatch::Route, execute::panicked};
use crate::{
    decode::{Seen, Unread},
    flight::Flight,
    outcome::{Ending, Failure},
};

/// The class of an attempt whose reading takes longer than the attempt may.
const TOO_SLOW: &str = "decode-timeout";

/// The permits of a worker for readings on threads of their own. They compute, so more than there are cores
/// would make none faster, and all would need memory at once.
pub(crate) fn reading_permits() -> Arc<Semaphore> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
}

/// The message as the route's handler sees it, or how the attempt ends without a run.
pub(super) async fn read(
    permits: &Arc<Semaphore>,
    flight: &Arc<Flight>,
    route: &Route,
) -> Result<Seen, Ending> {
    let wants_json = route.handler.wants_checked_json();
    let at_once = || route.reader.read(&flight.message, wants_json, true);
    match catch_unwind(AssertUnwindSafe(at_once)) {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(Unread::TakesLong)) => {
            Box::pin(read_aside(permits, flight, route, wants_json)).await
        }
        Ok(Err(unread)) => Err(ending(unread, route)),
        Err(payload) => Err(panicked(payload)),
    }
}

/// Reads a message on a thread for work that blocks. An attempt that ends before the reading does leaves
/// it alone: the reading ends by itself, with its permit, and nobody uses what it read.
async fn read_aside(
    permits: &Arc<Semaphore>,
    flight: &Arc<Flight>,
    route: &Route,
    wants_json: bool,
) -> Result<Seen, Ending> {
    flight.cancel.begin();
    // A message is not at fault for the readings before it, so the wait has no limit. They all end.
    let permit = tokio::select! {
        biased;
        permit = Arc::clone(permits).acquire_owned() => permit,
        _ = flight.cancel.requested() => return Err(Ending::Interrupted),
    };
    let (reader, theirs) = (Arc::clone(&route.reader), Arc::clone(flight));
    let reading = spawn_blocking(move || {
        let _permit = permit;
        reader.read(&theirs.message, wants_json, false)
    });
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
    Ending::Undecodable(Failure {
        retryable: true,
        ..Failure::undecodable(text).of_class(TOO_SLOW)
    })
}
