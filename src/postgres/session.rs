//! Sessions at a database, and the pool's rules for them.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use deadpool::managed::{Manager, Metrics, Object, RecycleResult};
use tokio::{runtime::Handle, task::JoinHandle, time::timeout};
use tokio_postgres::{Client, Statement, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::{Target, Trouble, unusable};

/// How long the server may take to cancel a statement, and the session to close after that.
const CANCEL: Duration = Duration::from_secs(5);

/// What a session asks of the server, unless its user, the database or the server's own file say
/// something else: that a worker which is gone, or stands still, holds no transaction open.
const CAREFUL: &str = "SELECT set_config(known.name, wanted.value, false)
    FROM pg_settings AS known
    JOIN (VALUES ('idle_in_transaction_session_timeout', '60s'), ('tcp_keepalives_idle', '30'),
        ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3')) AS wanted(name, value)
    ON wanted.name = known.name WHERE known.source = 'default'";
/// As [`CAREFUL`], for servers that can look at their connections while a statement runs.
const WATCHFUL: &str = "SELECT set_config(name, '5s', false)
    FROM pg_settings WHERE name = 'client_connection_check_interval' AND source = 'default'";

/// A session: one connection, and the statements that are prepared on it.
pub(crate) struct Session {
    client: Client,
    /// The task that reads and writes the connection.
    connection: JoinHandle<()>,
    tls: MakeRustlsConnect,
    prepared: Vec<(Arc<str>, Statement)>,
}

impl Session {
    /// The prepared statement of this text.
    pub(crate) async fn prepare(&mut self, text: &Arc<str>) -> Result<Statement, Trouble> {
        let known = self.prepared.iter().find(|(known, _)| known == text);
        if let Some((_, statement)) = known {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(text).await?;
        self.prepared.push((Arc::clone(text), statement.clone()));
        Ok(statement)
    }

    /// Runs statements that take no parameters and give no rows.
    pub(crate) async fn run(&self, statements: &str) -> Result<(), Trouble> {
        Ok(self.client.batch_execute(statements).await?)
    }

    /// Runs a statement: the number of its rows.
    pub(crate) async fn execute(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Trouble> {
        Ok(self.client.execute(statement, parameters).await?)
    }

    /// Runs a statement: its first row.
    pub(crate) async fn row(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<tokio_postgres::Row>, Trouble> {
        let rows = self.client.query(statement, parameters).await?;
        Ok(rows.into_iter().next())
    }

    /// Cancels what the session does at the server, and closes the session. A transaction that is not
    /// committed is rolled back. `is_there`: whether the server takes connections.
    async fn abandon(self, is_there: impl FnOnce(bool)) {
        let token = self.client.cancel_token();
        let cancelled = timeout(CANCEL, token.cancel_query(self.tls.clone())).await;
        is_there(matches!(cancelled, Ok(Ok(()))));
        match cancelled {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "failed to cancel a statement"),
            Err(_) => debug!("failed to cancel a statement: no answer"),
        }
        self.close().await;
    }

    async fn close(mut self) {
        drop(self.client);
        // The task ends when the server has taken the end of the session.
        if timeout(CANCEL, &mut self.connection).await.is_err() {
            self.connection.abort();
        }
    }
}

/// Opens sessions.
pub(super) struct Sessions {
    target: Arc<Target>,
}

impl Sessions {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target }
    }
}

impl Manager for Sessions {
    type Type = Session;
    type Error = Trouble;

    async fn create(&self) -> Result<Session, Trouble> {
        let target = Arc::clone(&self.target);
        let files = tokio::task::spawn_blocking(move || target.open()).await;
        let opened = files.unwrap_or_else(|error| Err(error.to_string()));
        let failed = |text: String| Trouble::no_connection(&self.target, &text);
        let (config, tls) = opened.map_err(failed)?;
        let connected = config.connect(tls.clone()).await;
        let (client, connection) =
            connected.map_err(|error| Trouble::refused(&self.target, &error))?;
        let connection = tokio::spawn(async move {
            // Whoever waits for an answer gets the error too.
            if let Err(error) = connection.await {
                debug!(%error, "a session at the database has ended");
            }
        });
        let session = Session {
            client,
            connection,
            tls,
            prepared: Vec::new(),
        };
        session.run(CAREFUL).await?;
        // A server on a system that cannot do this refuses it.
        if let Err(trouble @ Trouble { code: None, .. }) = session.run(WATCHFUL).await {
            return Err(trouble);
        }
        Ok(session)
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Trouble> {
        match session.client.is_closed() {
            true => Err(unusable("the connection is lost")),
            false => Ok(()),
        }
    }
}

/// A session that is lent for one piece of work. Unless the work gives it back, what it does at the
/// server is cancelled and the session closed: nobody knows in which state it is.
pub(crate) struct Lent {
    session: Option<Object<Sessions>>,
    cancels: TaskTracker,
}

/// Why a [`Lent`] always has a session.
const LENT: &str = "only `give_back` and `drop` take the session, and nothing follows them";

impl Lent {
    pub(super) fn new(session: Object<Sessions>, cancels: TaskTracker) -> Self {
        Self {
            session: Some(session),
            cancels,
        }
    }

    /// The work has ended, and no transaction is open.
    pub(crate) fn give_back(mut self) {
        drop(self.session.take());
    }

    /// The server has answered everything, and the session must not be used again.
    pub(crate) fn close(mut self) {
        if let (Some(session), Ok(runtime)) = (self.session.take(), Handle::try_current()) {
            let session = Object::take(session);
            self.cancels.spawn_on(session.close(), &runtime);
        }
    }
}

impl Deref for Lent {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect(LENT)
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect(LENT)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        let pool = Object::pool(&session);
        let session = Object::take(session);
        if session.client.is_closed() {
            return;
        }
        // Without a runtime the process ends, and the server sees that.
        match Handle::try_current() {
            Ok(runtime) => {
                let is_there = move |is_there: bool| {
                    // Then the idle sessions lead nowhere either, although they look alive.
                    if let (false, Some(pool)) = (is_there, pool) {
                        pool.retain(|_, _| false);
                    }
                };
                self.cancels.spawn_on(session.abandon(is_there), &runtime);
            }
            Err(_) => drop(session),
        }
    }
}
