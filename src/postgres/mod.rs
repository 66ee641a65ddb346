//! Connections to PostgreSQL: where a database is, a pool of sessions, and what an error means.

mod session;
mod target;
mod trouble;

use std::sync::Arc;

use deadpool::{
    Runtime,
    managed::{Pool, PoolError, RecycleError},
};
use tokio_util::task::TaskTracker;

pub(crate) use session::{Lent, Session};
pub(crate) use target::Target;
pub(crate) use trouble::Trouble;

use session::Sessions;

/// A database, with a pool of sessions.
pub(crate) struct Database {
    target: Arc<Target>,
    pool: Pool<Sessions>,
    /// Statements of cancelled handlers that are being cancelled at the server.
    cancels: TaskTracker,
}

impl Database {
    /// Makes a pool of at most so many sessions. Opens none.
    ///
    /// # Errors
    /// If the URL or a file cannot be used.
    pub(crate) fn new(target: Target, sessions: usize) -> Result<Self, String> {
        target.config()?;
        let target = Arc::new(target);
        let limit = target.connect_timeout;
        let pool = Pool::builder(Sessions::new(Arc::clone(&target)))
            .max_size(sessions)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(limit))
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            target,
            pool,
            cancels: TaskTracker::new(),
        })
    }

    /// Where the database is, for people.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// A session for one piece of work. It waits until one is free.
    pub(crate) async fn lend(&self) -> Result<Lent, Trouble> {
        match self.pool.get().await {
            Ok(session) => Ok(Lent::new(session, self.cancels.clone())),
            Err(PoolError::Backend(trouble)) => Err(trouble),
            Err(PoolError::PostCreateHook(_) | PoolError::NoRuntimeSpecified) => {
                Err(Trouble::no_connection(&self.target, "no session was made"))
            }
            Err(PoolError::Timeout(_)) => {
                let limit = self.target.connect_timeout;
                let text = format!("no answer within {limit:?}");
                Err(Trouble::no_connection(&self.target, &text))
            }
            Err(PoolError::Closed) => Err(Trouble::no_connection(&self.target, "it is stopped")),
        }
    }

    /// Closes the idle sessions, and waits until cancelled statements have ended.
    pub(crate) async fn stop(&self) {
        self.pool.close();
        self.cancels.close();
        self.cancels.wait().await;
    }
}

/// The error of a session that cannot be lent again.
fn unusable(text: &'static str) -> RecycleError<Trouble> {
    RecycleError::message(text)
}
