//! The handler of kind `sql`, with a real PostgreSQL.

mod outcomes;
mod values;

use lapwing::Ledger;

use crate::support::{
    Consumers, DEADLINE, Database, Postgres, RunningWorker, VHost, consumer, vhost,
};

/// The table of most tests.
const ORDERS: &str = "CREATE TABLE orders (id text PRIMARY KEY, sum numeric)";

/// A virtual host, and a database with a table.
struct Setup {
    vhost: VHost,
    database: Database,
}

impl Setup {
    async fn new(tables: &str) -> Self {
        Self::at(&Postgres::suite().await, tables).await
    }

    async fn at(postgres: &Postgres, tables: &str) -> Self {
        let database = postgres.database().await;
        database.run(tables).await;
        let vhost = vhost().await;
        Self { vhost, database }
    }

    /// The consumer `q`, whose handler runs this statement. `rest` is more of `[consumers.q]`.
    fn consumer(&self, statement: &str, parameters: &str, rest: &str) -> Consumers {
        let url = &self.database.url;
        let handler = format!(
            "consumers.q.handler = {{ kind = 'sql', url = '{url}', statement = '''{statement}''', \
             parameters = {{ {parameters} }} }}"
        );
        let rest = format!("[consumers.q]\n{rest}");
        consumer(&self.vhost, "q").with(&handler).with(&rest)
    }

    /// The only dead letter: its reason and error.
    async fn dead_letter(&self) -> (String, String) {
        self.vhost.wait_for_counts("q.dead", 1, 0, DEADLINE).await;
        let dead = self.vhost.drain_all("q.dead").await.remove(0);
        let text = |name| dead.header(name).as_str().unwrap_or_default().to_owned();
        (text("lapwing-reason"), text("lapwing-error"))
    }
}

async fn drained(worker: RunningWorker) -> Ledger {
    worker.drain().await.ledger()
}
