//! Keys in PostgreSQL, for handlers whose effect is elsewhere.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::{Claim, Epoch, InboxSettings, InboxStore, Table, Terms};
use crate::{
    chance,
    handler::{HandlerError, HandlerSettings, Reached},
    lock::lock,
    postgres::{Database, Session, Target, Trouble},
};

/// The most sessions of an inbox, unless the settings say otherwise: each is busy for two round trips a
/// message.
const SESSIONS: u16 = 32;
/// How often rows that have expired are deleted, more or less: workers that start together must not
/// sweep together.
const SWEEP: Duration = Duration::from_mins(1);
/// The wait between two sweeps that find rows.
const SWEEP_ON: Duration = Duration::from_millis(100);
/// The longest wait for one sweep, and for a session for it.
const SWEEP_LIMIT: Duration = Duration::from_secs(30);
/// How long the look at the database may take at the start of a worker. After this time it starts
/// without.
const LOOK: Duration = Duration::from_secs(10);

/// A table in a database, and sessions there.
pub(super) struct Postgres {
    database: Arc<Database>,
    table: Arc<Table>,
    migrate: bool,
    sweeper: Sweeper,
}

impl Postgres {
    pub(super) fn new(
        target: Target,
        table: &Arc<Table>,
        settings: &InboxSettings,
        concurrency: u16,
    ) -> Result<Self, String> {
        let sessions = settings.sessions.unwrap_or(concurrency.min(SESSIONS));
        Ok(Self {
            database: Arc::new(Database::new(target, sessions.max(1).into())?),
            table: Arc::clone(table),
            migrate: settings.migrate,
            sweeper: Sweeper::default(),
        })
    }

    pub(super) async fn start(&self) -> Result<(), HandlerError> {
        let work = async |session: &mut Session| self.table.be_there(session, self.migrate).await;
        match look(&self.database, work).await {
            Ok(found) => found.unwrap_or(Ok(()))?,
            Err(trouble) => {
                return Err(HandlerError::new(format!("idempotency: {trouble}")));
            }
        }
        self.sweeper.start(&self.database, &self.table);
        Ok(())
    }

    pub(super) async fn stop(&self) {
        self.sweeper.stop();
        self.database.stop().await;
    }

    pub(super) async fn claim(&self, terms: &Terms, key: &str) -> Result<Claim, Trouble> {
        let work = async |session: &mut Session| {
            let claim = self.table.lease(session, terms, key).await;
            match claim {
                // The database was away when the worker started.
                Err(trouble) if self.migrate && trouble.is_missing_table() => {
                    self.table.migrate(session).await?;
                    self.table.lease(session, terms, key).await
                }
                claim => claim,
            }
        };
        self.within(terms, work).await
    }

    pub(super) async fn note(
        &self,
        terms: &Terms,
        key: &str,
        epoch: Epoch,
        is_done: bool,
    ) -> Result<bool, Trouble> {
        let work = async |session: &mut Session| match is_done {
            true => self.table.done(session, terms, key, epoch).await,
            false => {
                let released = self.table.release(session, terms, key, epoch).await;
                released.map(|()| true)
            }
        };
        self.within(terms, work).await
    }

    /// Does a piece of work in a session, for at most the time that the store may take.
    async fn within<T>(
        &self,
        terms: &Terms,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let late = |what: &str, limit: Duration| {
            let text = format!("{what} within {limit:?}");
            Trouble::no_connection(self.database.target(), &text)
        };
        // One may have to be free first, and then a new one to be opened.
        let limit = terms.limit * 2;
        let session = timeout(limit, self.database.lend()).await;
        let mut session = session.map_err(|_| late("no session", limit))??;
        let done = timeout(terms.limit, work(&mut session)).await;
        let done = done.map_err(|_| late("no answer", terms.limit))??;
        session.give_back();
        Ok(done)
    }
}

/// Looks at a database at the start of a worker. `None`: the database is away, and the worker starts.
///
/// # Errors
/// What will not be better later.
pub(in crate::handler) async fn look<T>(
    database: &Database,
    work: impl AsyncFnOnce(&mut Session) -> Result<T, Trouble>,
) -> Result<Option<T>, Trouble> {
    /// The connection, a read-only server, locks, resources, shutdown and start, failures of the
    /// system.
    const LATER: [&str; 8] = ["08", "25", "40", "53", "55", "57", "58", "XX"];
    let looked = async {
        let mut session = database.lend().await?;
        let looked = work(&mut session).await?;
        session.give_back();
        Ok::<_, Trouble>(looked)
    };
    let trouble = match timeout(LOOK, looked).await {
        Ok(Ok(looked)) => return Ok(Some(looked)),
        Ok(Err(trouble)) => trouble,
        Err(_) => Trouble::no_connection(database.target(), &format!("no answer within {LOOK:?}")),
    };
    let is_later = |code: &String| LATER.iter().any(|class| code.starts_with(class));
    if !trouble.code.as_ref().is_none_or(is_later) {
        return Err(trouble);
    }
    warn!(error = %trouble, "failed to look at the database: messages wait until it takes them");
    Ok(None)
}

impl Table {
    /// Makes the table if `migrate` says so, or says that it is missing.
    pub(in crate::handler) async fn be_there(
        &self,
        session: &mut Session,
        migrate: bool,
    ) -> Result<Result<(), HandlerError>, Trouble> {
        if migrate {
            self.migrate(session).await?;
            return Ok(Ok(()));
        }
        Ok(match self.is_missing(session).await? {
            None => Ok(()),
            Some(why) => Err(HandlerError::new(format!(
                "idempotency: {why}: run `lapwing migrate`, or set `idempotency.migrate`"
            ))),
        })
    }
}

/// Deletes rows that have expired, from time to time.
#[derive(Default)]
pub(in crate::handler) struct Sweeper(Mutex<Option<AbortOnDropHandle<()>>>);

impl Sweeper {
    pub(in crate::handler) fn start(&self, database: &Arc<Database>, table: &Arc<Table>) {
        let sweep = sweep(Arc::clone(database), Arc::clone(table));
        *lock(&self.0) = Some(AbortOnDropHandle::new(tokio::spawn(sweep)));
    }

    pub(in crate::handler) fn stop(&self) {
        *lock(&self.0) = None;
    }
}

async fn sweep(database: Arc<Database>, table: Arc<Table>) {
    let mut wait = SWEEP.mul_f64(0.5 + chance::fraction());
    loop {
        sleep(wait).await;
        // Handlers may use the same sessions: a sweep takes one for a short time, and then waits for its
        // turn like everybody.
        let swept = async {
            let mut session = database.lend().await?;
            let has_more = table.sweep(&mut session).await?;
            session.give_back();
            Ok::<_, Trouble>(has_more)
        };
        let late = || {
            let text = format!("no answer within {SWEEP_LIMIT:?}");
            Err(Trouble::no_connection(database.target(), &text))
        };
        let swept = timeout(SWEEP_LIMIT, swept).await;
        wait = match swept.unwrap_or_else(|_| late()) {
            Ok(true) => SWEEP_ON,
            Ok(false) => SWEEP,
            Err(error) => {
                warn!(%error, "failed to delete inbox rows that have expired");
                SWEEP
            }
        };
    }
}

/// The table of an inbox, for `lapwing migrate`.
#[derive(Debug)]
pub struct InboxTable {
    target: Target,
    table: String,
    /// Whether a worker makes it at its start.
    migrate: bool,
}

impl InboxTable {
    /// The tables that the inbox of a consumer with these handlers needs.
    pub(crate) fn of<'a>(
        settings: &InboxSettings,
        handlers: impl Iterator<Item = &'a HandlerSettings>,
    ) -> Vec<Self> {
        if settings.store != InboxStore::Postgres {
            return Vec::new();
        }
        let own = handlers.filter_map(|handler| match handler {
            HandlerSettings::Sql(sql) => Some(sql.target()),
            _ => None,
        });
        let targets = match settings.target() {
            Some(target) => vec![target],
            None => own.collect(),
        };
        let of = |target| Self {
            target,
            table: settings.table.clone(),
            migrate: settings.migrate,
        };
        targets.into_iter().map(of).collect()
    }

    /// Whether both are the same table.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.table == other.table && self.target.is_same(&other.target)
    }

    /// Whether the table is there.
    pub(crate) async fn reach(&self) -> Result<Reached, HandlerError> {
        let failed = |text: String| HandlerError::new(text);
        let reached = |what: String, is_away| Reached {
            what,
            certificates: Vec::new(),
            is_away,
        };
        let database = Database::new(self.target.clone(), 1).map_err(failed)?;
        let looked = async {
            let mut session = database.lend().await?;
            let missing = Table::new(&self.table).is_missing(&mut session).await?;
            session.give_back();
            Ok::<_, Trouble>(missing)
        };
        let looked = looked.await;
        database.stop().await;
        match looked {
            Ok(None) => Ok(reached(format!("{self} is there"), false)),
            Ok(Some(why)) if self.migrate => {
                Ok(reached(format!("{why}: the worker makes it"), false))
            }
            Ok(Some(why)) => Err(failed(why)),
            Err(trouble) if trouble.code.is_none() => Ok(reached(trouble.to_string(), true)),
            Err(trouble) => Err(failed(trouble.to_string())),
        }
    }

    /// Makes or updates the table. Several programs may do so at once. Returns the number of steps that
    /// were missing: 0 if the table was up to date.
    ///
    /// # Errors
    /// If the database cannot be reached, or refuses it.
    pub async fn migrate(&self) -> Result<usize, HandlerError> {
        let failed = |text: String| HandlerError::new(text);
        let database = Database::new(self.target.clone(), 1).map_err(failed)?;
        let migrated = async {
            let mut session = database.lend().await?;
            let steps = Table::new(&self.table).migrate(&mut session).await?;
            session.give_back();
            Ok::<_, Trouble>(steps)
        };
        let migrated = migrated
            .await
            .map_err(|trouble| failed(trouble.to_string()));
        database.stop().await;
        migrated
    }
}

impl std::fmt::Display for InboxTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, table {}", self.target.name(), self.table)
    }
}
