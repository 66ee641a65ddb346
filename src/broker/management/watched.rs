//! What a queue tolerates, kept up to date.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{task::AbortHandle, time::sleep};
use tracing::warn;

use crate::{
    broker::{Tolerance, connection::Connection},
    lock::lock,
};

/// The time until the next question: a policy can change.
const AGAIN: Duration = Duration::from_secs(60);
/// The time until the next question about a queue that is new.
const SOON: Duration = Duration::from_secs(1);

/// What a queue tolerates. With a management API it is kept up to date while this value lives.
pub(in crate::broker) struct Watched {
    tolerance: Arc<Mutex<Tolerance>>,
    asking: Option<AbortHandle>,
}

impl Watched {
    /// A queue that tolerates this, by its arguments. Waits for the first answer of the API.
    pub(in crate::broker) async fn new(
        connection: &Arc<Connection>,
        queue: &str,
        first: Tolerance,
    ) -> Self {
        let tolerance = Arc::new(Mutex::new(first));
        if connection.management().is_none() {
            let asking = None;
            return Self { tolerance, asking };
        }
        let (connection, queue) = (Arc::clone(connection), queue.to_owned());
        let mut told = false;
        let next = ask(&connection, &queue, &tolerance, &mut told).await;
        let known = Arc::clone(&tolerance);
        let asking = tokio::spawn(async move {
            let mut next = next;
            loop {
                sleep(next).await;
                next = ask(&connection, &queue, &known, &mut told).await;
            }
        });
        let asking = Some(asking.abort_handle());
        Self { tolerance, asking }
    }

    pub(in crate::broker) fn tolerance(&self) -> Tolerance {
        *lock(&self.tolerance)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

/// Asks the management API once. Returns the time until the next question.
async fn ask(
    connection: &Connection,
    queue: &str,
    tolerance: &Mutex<Tolerance>,
    told: &mut bool,
) -> Duration {
    let Some(management) = connection.management() else {
        return AGAIN;
    };
    match management.delivery_limit(queue).await {
        Ok(Some(limit)) => {
            lock(tolerance).limit = limit;
            *told = false;
            AGAIN
        }
        Ok(None) => SOON,
        Err(error) => {
            if !mem::replace(told, true) {
                warn!(queue, %error, "broker.management_url does not tell the delivery limit of the queue: the worker goes by what it knows");
            }
            AGAIN
        }
    }
}
