//! Keys in PostgreSQL, for handlers whose effect is elsewhere.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::{Claim, Epoch, InboxSettings, InboxStore, Row, Table, Terms};
use crate::{
    handler::{HandlerError, HandlerSettings, Reached},
    lock::lock,
    postgres::{Database, Session, Target, Trouble},
};

/// The most sessions of an inbox: each is busy for less than a millisecond a message.
const SESSIONS: u16 = 8;
/// How often rows that have expired are deleted.
const SWEEP: Duration = Duration::from_mins(1);

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
        migrate: bool,
        concurrency: u16,
    ) -> Result<Self, String> {
        let sessions = concurrency.clamp(1, SESSIONS).into();
        Ok(Self {
            database: Arc::new(Database::new(target, sessions)?),
            table: Arc::clone(table),
            migrate,
            sweeper: Sweeper::default(),
        })
    }

    pub(super) async fn start(&self) -> Result<(), HandlerError> {
        match self.database.lend().await {
            Ok(mut session) => {
                self.table.be_there(&mut session, self.migrate).await?;
                session.give_back();
            }
            Err(trouble) => later(&trouble)?,
        }
        self.sweeper.start(&self.database, &self.table);
        Ok(())
    }

    pub(super) async fn stop(&self) {
        self.sweeper.stop();
        self.database.stop().await;
    }

    pub(super) async fn claim(&self, terms: &Terms, key: &str) -> Result<Claim, String> {
        let work = async |session: &mut Session| self.table.lease(session, terms, key).await;
        self.within(terms, work).await
    }

    pub(super) async fn note(
        &self,
        terms: &Terms,
        key: &str,
        epoch: Epoch,
        is_done: bool,
    ) -> Result<bool, String> {
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
    ) -> Result<T, String> {
        let work = async {
            let mut session = self.database.lend().await?;
            let done = work(&mut session).await?;
            session.give_back();
            Ok::<_, Trouble>(done)
        };
        // Two waits: for a session, and for the answer.
        match timeout(terms.limit * 2, work).await {
            Ok(done) => done.map_err(|trouble| trouble.to_string()),
            Err(_) => Err(format!("no answer within {:?}", terms.limit * 2)),
        }
    }
}

/// Whether a worker may start although it got no session: yes, if the database is away. Its messages
/// wait for it.
pub(in crate::handler) fn later(trouble: &Trouble) -> Result<(), HandlerError> {
    /// Wrong user or password, no such database.
    const WRONG: [&str; 2] = ["28", "3D"];
    let is_wrong = |code: &String| WRONG.iter().any(|class| code.starts_with(class));
    if trouble.code.as_ref().is_some_and(is_wrong) {
        return Err(HandlerError::new(trouble.to_string()));
    }
    warn!(error = %trouble, "the database is away: messages wait until it is back");
    Ok(())
}

impl Table {
    /// Makes the table if `migrate` says so, or says that it is missing.
    pub(in crate::handler) async fn be_there(
        &self,
        session: &mut Session,
        migrate: bool,
    ) -> Result<(), HandlerError> {
        let failed = |trouble: Trouble| HandlerError::new(format!("idempotency: {trouble}"));
        if migrate {
            self.migrate(session).await.map_err(failed)?;
            return Ok(());
        }
        match self.is_missing(session).await.map_err(failed)? {
            None => Ok(()),
            Some(why) => Err(HandlerError::new(format!(
                "idempotency: {why}: run `lapwing migrate`, or set `idempotency.migrate`"
            ))),
        }
    }
}

impl Row {
    /// Makes the table if the settings say so, or says that it is missing.
    pub(in crate::handler) async fn start(
        &self,
        session: &mut Session,
    ) -> Result<(), HandlerError> {
        self.table.be_there(session, self.migrate).await
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
    loop {
        sleep(SWEEP).await;
        let swept = async {
            let mut session = database.lend().await?;
            table.sweep(&mut session).await?;
            session.give_back();
            Ok::<_, Trouble>(())
        };
        if let Err(error) = swept.await {
            warn!(%error, "failed to delete inbox rows that have expired");
        }
    }
}

/// The table of an inbox, for `lapwing migrate`.
#[derive(Debug, PartialEq)]
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
