//! The inbox: it remembers which messages are done, so that a message that comes twice has its effect
//! once.
//!
//! [`Once`] is a handler around another one. It takes the message's key before the run, and marks the
//! key as done after a success. The kind `sql` writes the key in its own transaction instead.

mod lease;
mod memory;
mod postgres;
mod settings;
mod table;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::task::TaskTracker;
use tracing::warn;

pub use postgres::InboxTable;
pub(super) use postgres::{Sweeper, look};
pub use settings::{InboxSettings, InboxStore};
pub(super) use table::{BEGIN, InTransaction, Table};

use super::{
    Context, Handler, HandlerError, HandlerFuture, HandlerSettings, Requirements,
    source::{Datum, Source, Values},
};
use crate::{
    lock::lock,
    outcome::{Failure, Outcome},
    postgres::{Session, Trouble},
};
use lease::Lease;
use memory::Memory;
use postgres::Postgres;

/// The class of a failure of the store.
pub(crate) const INBOX: &str = "inbox";
/// The class of a message whose key cannot be one.
const KEY: &str = "inbox-key";
/// What a lease lasts beyond the longest run.
const MARGIN: Duration = Duration::from_secs(10);
/// The most bytes of a key.
const LONGEST: usize = 512;
/// A message that runs elsewhere is tried again after a time between these.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// If it may run for longer than this, it is tried again after half of it.
const LONG: Duration = Duration::from_mins(1);
/// The number of one claim of a key, which no other claim has.
type Epoch = i64;

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The run may begin.
    Mine(Epoch),
    /// The message was done before.
    Done,
    /// The message runs elsewhere, for at most this time.
    Runs(Duration),
}

/// What does not change from message to message.
pub(super) struct Terms {
    key: Source,
    scope: String,
    ttl: Duration,
    /// How long a claim lasts: longer than a run.
    lease: Duration,
    /// The longest wait for an answer of the store.
    limit: Duration,
}

impl Terms {
    /// The key of a message.
    ///
    /// # Errors
    /// The outcome of a message that has no key.
    pub(super) fn key(&self, context: &Context) -> Result<String, Failure> {
        let failed = |text: &str| Failure::permanent(KEY, format!("the message's key {text}"));
        let values = Values::of(context, [&self.key]);
        let datum = self.key.read(&values).map_err(Failure::undecodable)?;
        let key: Cow<'_, str> = match datum {
            None => return Err(failed("is missing")),
            Some(Datum::Text(text)) => text,
            Some(Datum::Bytes(_)) => return Err(failed("is no text")),
            Some(Datum::Json(json)) => match json.as_bytes().first() {
                Some(b'"') => match serde_json::from_str::<String>(&json) {
                    Ok(text) => text.into(),
                    Err(_) => return Err(failed("is no text")),
                },
                Some(b'-' | b'0'..=b'9') => json,
                _ => return Err(failed("is neither text nor a number")),
            },
        };
        if key.is_empty() || key.len() > LONGEST || key.contains('\0') {
            return Err(failed("is empty, has a NUL, or has more than 512 bytes"));
        }
        Ok(key.into_owned())
    }
}

/// What it means for a message that the store failed.
fn failed(trouble: &Trouble) -> Failure {
    let text = format!("inbox: {trouble}");
    match trouble.code.as_deref().unwrap_or_default() {
        // The database cannot hold the key: in its encoding, for example.
        code if code.starts_with("22") => Failure::permanent(KEY, text),
        // A deadlock or a serialization failure is over at the next try.
        code if code.starts_with("40") => Failure::retryable(INBOX, text),
        _ => Failure::unavailable(INBOX, text),
    }
}

/// The outcome of a message that was done before, or that runs elsewhere.
pub(super) fn not_mine(claim: Claim) -> Outcome {
    let [least, most] = AGAIN;
    match claim {
        Claim::Runs(left) if left > LONG => Outcome::snooze(LONG / 2),
        Claim::Runs(left) => Outcome::snooze(left.clamp(least, most)),
        Claim::Done | Claim::Mine(_) => Outcome::Duplicate,
    }
}

/// Where keys are kept.
enum Store {
    Memory(Memory),
    Postgres(Postgres),
}

/// An inbox, which the handlers of a consumer share.
pub(crate) struct Inbox {
    terms: Arc<Terms>,
    table: Arc<Table>,
    settings: InboxSettings,
    /// `None`: the handlers, all of kind `sql`, have it in their own database.
    store: Option<Store>,
    /// The keys of messages that are done, which the store does not know yet.
    done: Mutex<BTreeSet<String>>,
    /// The claims and ends that are on their way to the store.
    notes: TaskTracker,
    /// The log has said that a handler publishes.
    publishes: AtomicBool,
}

impl Inbox {
    /// The inbox of a consumer whose runs end after the `longest` time. `None`: it has none. `place`
    /// names its virtual host and queue, if they are known.
    ///
    /// # Errors
    /// If the database's URL or files cannot be used.
    pub(crate) fn of(
        settings: &InboxSettings,
        place: impl FnOnce() -> Option<String>,
        longest: Duration,
        concurrency: u16,
    ) -> Result<Option<Arc<Self>>, HandlerError> {
        let Some(terms) = settings.terms(place, longest)? else {
            return Ok(None);
        };
        let table = Arc::new(Table::new(&settings.table));
        let store = match (settings.store, settings.target()) {
            (InboxStore::Memory, _) => Some(Store::Memory(Memory::new(settings.max_keys))),
            (_, Some(target)) => {
                let made = Postgres::new(target, &table, settings, concurrency);
                let failed = |error| HandlerError::new(format!("idempotency: url {error}"));
                Some(Store::Postgres(made.map_err(failed)?))
            }
            (_, None) => None,
        };
        Ok(Some(Arc::new(Self {
            terms: Arc::new(terms),
            table,
            settings: settings.clone(),
            store,
            done: Mutex::default(),
            notes: TaskTracker::new(),
            publishes: AtomicBool::new(false),
        })))
    }

    /// The handler that the settings name, around which this inbox is.
    ///
    /// # Errors
    /// If the handler cannot be made.
    pub(crate) fn make(
        self: &Arc<Self>,
        handler: &HandlerSettings,
        concurrency: u16,
    ) -> Result<Option<Arc<dyn Handler>>, HandlerError> {
        if let HandlerSettings::Sql(sql) = handler {
            let target = self.settings.target();
            let is_own = target.is_none_or(|target| target.is_same(&sql.target()));
            if self.settings.store == InboxStore::Postgres && is_own {
                let row = Row {
                    terms: Arc::clone(&self.terms),
                    table: Arc::clone(&self.table),
                    migrate: self.settings.migrate,
                };
                return Ok(Some(Arc::new(sql.handler(concurrency, Some(row))?)));
            }
            warn!(
                "`idempotency` keeps its keys apart from the database of an sql handler, as far as the URLs tell: an effect can happen twice. Without `idempotency.url` both are in one transaction"
            );
        }
        let made = handler.make(concurrency)?;
        Ok(made.map(|handler| self.around(handler)))
    }

    /// A handler that runs this one once for each key.
    pub(crate) fn around(self: &Arc<Self>, handler: Arc<dyn Handler>) -> Arc<dyn Handler> {
        Arc::new(Once {
            inner: handler,
            inbox: Arc::clone(self),
        })
    }

    async fn start(&self) -> Result<(), HandlerError> {
        match &self.store {
            None => Err(HandlerError::new("idempotency: `url` is missing")),
            Some(Store::Memory(_)) => Ok(()),
            Some(Store::Postgres(postgres)) => postgres.start().await,
        }
    }

    async fn stop(&self) {
        self.notes.close();
        self.notes.wait().await;
        if let Some(Store::Postgres(postgres)) = &self.store {
            postgres.stop().await;
        }
    }

    /// Takes a key. If the caller is dropped meanwhile, the claim is released.
    async fn claim(self: &Arc<Self>, key: String) -> Result<(Claim, Option<Lease>), Failure> {
        if lock(&self.done).contains(&key) {
            return Ok((Claim::Done, None));
        }
        let inbox = Arc::clone(self);
        // A claim that is dropped on its way to the database could succeed there, and nobody would
        // release it.
        let claimed = self.notes.spawn(async move {
            let claim = match &inbox.store {
                None => return Err(Failure::unavailable(INBOX, "inbox: it has no store")),
                Some(Store::Memory(memory)) => memory.claim(&key, &inbox.terms),
                Some(Store::Postgres(postgres)) => {
                    let claim = postgres.claim(&inbox.terms, &key).await;
                    claim.map_err(|trouble| failed(&trouble))?
                }
            };
            let lease = match claim {
                Claim::Mine(epoch) => Some(Lease::of(inbox, key, epoch)),
                Claim::Done | Claim::Runs(_) => None,
            };
            Ok((claim, lease))
        });
        let lost = |error| Err(Failure::unavailable(INBOX, format!("inbox: {error}")));
        claimed.await.unwrap_or_else(lost)
    }

    /// Notes the end of a run. False: another run has taken the key meanwhile.
    async fn note(&self, key: &str, epoch: Epoch, is_done: bool) -> Result<bool, Trouble> {
        match &self.store {
            None => Ok(true),
            Some(Store::Memory(memory)) => Ok(match is_done {
                true => memory.done(key, epoch, self.terms.ttl),
                false => {
                    memory.release(key, epoch);
                    true
                }
            }),
            Some(Store::Postgres(postgres)) => {
                postgres.note(&self.terms, key, epoch, is_done).await
            }
        }
    }
}

/// What the kind `sql` needs to write the inbox row in its own transaction.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) terms: Arc<Terms>,
    pub(super) table: Arc<Table>,
    pub(super) migrate: bool,
}

impl Row {
    /// Prepares what the transaction of a message needs.
    pub(super) async fn prepare(&self, session: &mut Session) -> Result<InTransaction, Trouble> {
        match self.table.prepare_in_transaction(session).await {
            // The database was away when the worker started.
            Err(trouble) if self.migrate && trouble.is_missing_table() => {
                self.table.migrate(session).await?;
                self.table.prepare_in_transaction(session).await
            }
            prepared => prepared,
        }
    }
}

/// A handler that runs another one once for each key.
struct Once {
    inner: Arc<dyn Handler>,
    inbox: Arc<Inbox>,
}

impl Once {
    async fn run(&self, context: Context) -> Result<Outcome, Failure> {
        let key = self.inbox.terms.key(&context)?;
        let (claim, lease) = self.inbox.claim(key).await?;
        let Some(lease) = lease else {
            context.asks_nothing();
            return Ok(not_mine(claim));
        };
        let outcome = self.inner.handle(context.clone()).await;
        let mut is_done = matches!(outcome, Outcome::Succeeded | Outcome::Dropped { .. });
        if is_done && context.outbox().publishes() {
            // If the worker ends before they are published, the message must run again.
            is_done = false;
            if !self.inbox.publishes.swap(true, Ordering::Relaxed) {
                warn!(
                    consumer = context.consumer(),
                    "a message whose handler publishes is not remembered as done; logged once"
                );
            }
        }
        lease.end(is_done, &context).await;
        Ok(outcome)
    }
}

impl Handler for Once {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move { self.run(context).await.unwrap_or_else(Outcome::Failed) })
    }

    fn start(&self) -> HandlerFuture<'_, Result<(), HandlerError>> {
        Box::pin(async {
            self.inbox.start().await?;
            self.inner.start().await
        })
    }

    fn stop(&self) -> HandlerFuture<'_, ()> {
        Box::pin(async {
            self.inner.stop().await;
            self.inbox.stop().await;
        })
    }

    fn health(&self) -> Result<(), HandlerError> {
        self.inner.health()
    }

    fn requirements(&self, requirements: &mut Requirements) {
        self.inner.requirements(requirements);
    }

    fn wants_checked_json(&self) -> bool {
        self.inner.wants_checked_json()
    }
}
