//! PostgreSQL for tests: a server that the tests share, with a database for each of them, or a server
//! of a test's own. `scripts/postgres` starts and stops the servers.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_postgres::{Client, NoTls, types::FromSqlOwned};

use super::wait::{DEADLINE, wait_until, within};

/// The server that the tests share.
const SUITE: &str = "suite";

/// How long the script may take, the installation included.
const SCRIPT: Duration = Duration::from_secs(240);

/// Runs `scripts/postgres` with these arguments.
async fn script(args: &[&str]) -> String {
    let called = format!("scripts/postgres {}", args.join(" "));
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut command = tokio::process::Command::new(root.join("scripts/postgres"));
    command.args(args).current_dir(root).kill_on_drop(true);
    command.stdin(Stdio::null());
    let output = tokio::time::timeout(SCRIPT, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{called} took longer than {SCRIPT:?}"));
    read(&called, &output.expect("the script starts"))
}

/// The standard output of a run, which must have succeeded.
fn read(called: &str, output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(status.success(), "{called}: {status}\n{stdout}{stderr}");
    stdout
}

/// A server.
#[derive(Debug)]
pub struct Postgres {
    name: String,
    url: String,
    /// The authority that has signed its certificate.
    pub ca: PathBuf,
}

impl Postgres {
    /// The server that the tests share. A test must not stop it.
    pub async fn suite() -> Self {
        Self::up(SUITE).await
    }

    /// A server of this test's own, which is deleted when dropped.
    pub async fn own(name: &str) -> Self {
        Self::up(&format!("{SUITE}-{name}")).await
    }

    async fn up(name: &str) -> Self {
        let printed = script(&["up", name]).await;
        let value = |key: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(key));
            let line = line.and_then(|line| line.strip_prefix('='));
            // The lines are written for a shell, with a backslash before special characters.
            line.expect("the script prints it").replace('\\', "")
        };
        Self {
            name: name.to_owned(),
            url: value("POSTGRES_URL"),
            ca: value("POSTGRES_CA").into(),
        }
    }

    /// A new database.
    pub async fn database(&self) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}_{number}", std::process::id());
        let client = connected(&self.url).await;
        let create = format!("CREATE DATABASE {name}");
        within("a database", client.batch_execute(&create))
            .await
            .expect("the database can be made");
        let server = self.url.trim_end_matches("/postgres");
        let url = format!("{server}/{name}?sslmode=disable");
        let client = connected(&url).await;
        Database { url, client }
    }

    /// Stops the server cleanly: open transactions are rolled back.
    pub async fn stop(&self) {
        script(&["stop", &self.name]).await;
    }

    /// Ends the server and its sessions with SIGKILL.
    pub async fn kill(&self) {
        script(&["kill", &self.name]).await;
    }

    /// Starts the server again, with its data and its port.
    pub async fn start(&self) {
        script(&["start", &self.name]).await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.name == SUITE {
            return;
        }
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut command = std::process::Command::new(root.join("scripts/postgres"));
        command.args(["down", &self.name]).current_dir(root);
        if let Err(error) = command.status() {
            eprintln!("scripts/postgres down {}: {error}", self.name);
        }
    }
}

/// A session at this URL. The server may have been started just now.
async fn connected(url: &str) -> Client {
    let connecting = async {
        loop {
            match tokio_postgres::connect(url, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) if error.as_db_error().is_some() => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("no session at {url}: {error}"),
            }
        }
    };
    within("a session", connecting).await
}

/// A database of a test.
pub struct Database {
    /// Where it is, with the password.
    pub url: String,
    client: Client,
}

impl Database {
    /// Runs statements.
    pub async fn run(&self, statements: &str) {
        let run = self.client.batch_execute(statements);
        let run = within("statements", run).await;
        run.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The only value of the only row of a query.
    pub async fn value<T: FromSqlOwned>(&self, query: &str) -> T {
        let row = within("a query", self.client.query_one(query, &[])).await;
        row.unwrap_or_else(|error| panic!("{query}: {error:?}"))
            .get(0)
    }

    /// Waits until the only value of a query is this one.
    pub async fn wait_for<T: FromSqlOwned + PartialEq + std::fmt::Debug>(
        &self,
        query: &str,
        value: T,
    ) {
        let look = async || self.value::<T>(query).await;
        wait_until(query, DEADLINE, look, |seen| *seen == value).await;
    }

    /// The number of sessions that run a statement with this text now, apart from this one.
    pub async fn running(&self, text: &str) -> i64 {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' \
             AND pid <> pg_backend_pid() AND query LIKE '%{text}%'"
        );
        self.value(&query).await
    }

    /// A new session, after the server was started again.
    pub async fn again(&mut self) {
        self.client = connected(&self.url).await;
    }
}
