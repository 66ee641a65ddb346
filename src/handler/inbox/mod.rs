//! The inbox: it remembers which messages are done, so that a message that comes twice has its effect
//! once.
//!
//! [`Once`] is a handler around another one. It takes the message's key before the run, and marks the
//! key as done after a success. The kind `sql` writes the key in its own transaction instead.

mod memory;
mod postgres;
mod settings;
mod table;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use tracing::warn;

pub use postgres::InboxTable;
pub(super) use postgres::{Sweeper, later};
pub use settings::{InboxSettings, InboxStore};
pub(super) use table::{InTransaction, Table};

use super::{
    Context, Handler, HandlerError, HandlerFuture, HandlerSettings, Requirements,
    source::{Datum, Source, Values},
};
use crate::outcome::{Failure, Outcome};
use memory::Memory;
use postgres::Postgres;

/// What a lease lasts beyond the longest run.
const MARGIN: Duration = Duration::from_secs(10);
/// The most bytes of a key.
const LONGEST: usize = 512;
/// A message that runs elsewhere is tried again after a time between these.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// The wait before a run's end is noted again.
const NOTE_AGAIN: Duration = Duration::from_millis(500);

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
        let failed =
            |text: &str| Failure::permanent("inbox-key", format!("the message's key {text}"));
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

/// The outcome of a message that was done before, or that runs elsewhere.
pub(super) fn not_mine(claim: Claim) -> Outcome {
    let [least, most] = AGAIN;
    match claim {
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
    /// The claims and ends that are on their way to the store.
    notes: TaskTracker,
}

impl Inbox {
    /// The inbox of a consumer of this queue, whose runs end after the `longest` time. `None`: it has
    /// none.
    ///
    /// # Errors
    /// If the database's URL or files cannot be used.
    pub(crate) fn of(
        settings: &InboxSettings,
        queue: &str,
        longest: Duration,
        concurrency: u16,
    ) -> Result<Option<Arc<Self>>, HandlerError> {
        let Some(terms) = settings.terms(queue, longest) else {
            return Ok(None);
        };
        let table = Arc::new(Table::new(&settings.table));
        let store = match (settings.store, settings.target()) {
            (InboxStore::Memory, _) => Some(Store::Memory(Memory::new(settings.max_keys))),
            (_, Some(target)) => {
                let made = Postgres::new(target, &table, settings.migrate, concurrency);
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
            notes: TaskTracker::new(),
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
        let inbox = Arc::clone(self);
        // A claim that is dropped on its way to the database could succeed there, and nobody would
        // release it.
        let claimed = self.notes.spawn(async move {
            let claim = match &inbox.store {
                None => return Err("it has no store".to_owned()),
                Some(Store::Memory(memory)) => memory.claim(&key, &inbox.terms),
                Some(Store::Postgres(postgres)) => postgres.claim(&inbox.terms, &key).await?,
            };
            let lease = match claim {
                Claim::Mine(epoch) => Some(Lease(Some((inbox, key, epoch)))),
                Claim::Done | Claim::Runs(_) => None,
            };
            Ok((claim, lease))
        });
        let claimed = claimed.await.unwrap_or_else(|error| Err(error.to_string()));
        claimed.map_err(|error| Failure::unavailable("inbox", format!("inbox: {error}")))
    }

    /// Notes the end of a run. False: another run has taken the key meanwhile.
    async fn note(&self, key: &str, epoch: Epoch, is_done: bool) -> Result<bool, String> {
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
    migrate: bool,
}

/// A key that a run has taken. Unless the run has [ended](Self::end), its end is that it was dropped:
/// then the key is released.
///
/// `None`: the end is noted.
struct Lease(Option<(Arc<Inbox>, String, Epoch)>);

impl Lease {
    /// The run has ended. If the caller is dropped meanwhile, the end is noted all the same: the effect
    /// has happened.
    async fn end(mut self, is_done: bool) {
        if let Some(noted) = self.note(is_done) {
            // An end that panicked has told so.
            let _ = noted.await;
        }
    }

    /// Notes the end. That a message is done is noted again and again until the store takes it, also
    /// after the end of the lease: unless another run has taken the key, it is still true. A key that is
    /// not released is free when its lease is over.
    fn note(&mut self, is_done: bool) -> Option<tokio::task::JoinHandle<()>> {
        let (inbox, key, epoch) = self.0.take()?;
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let notes = inbox.notes.clone();
        let note = async move {
            let mut has_failed = false;
            loop {
                match inbox.note(&key, epoch, is_done).await {
                    Ok(true) => return,
                    Ok(false) => {
                        warn!(%key, "another run has taken the message while this run went on: it may be done twice");
                        return;
                    }
                    Err(error) if !is_done => {
                        warn!(%key, error, "failed to release a message in the inbox: it waits until its lease is over");
                        return;
                    }
                    Err(error) if !has_failed => {
                        warn!(%key, error, "failed to note in the inbox that a message is done: trying again until the store takes it");
                        has_failed = true;
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(NOTE_AGAIN).await;
            }
        };
        Some(notes.spawn_on(note, &runtime))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.note(false);
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
            return Ok(not_mine(claim));
        };
        let outcome = self.inner.handle(context.clone()).await;
        let mut is_done = matches!(outcome, Outcome::Succeeded | Outcome::Dropped { .. });
        if is_done && context.outbox().publishes() {
            // If the worker ends before they are published, the message must run again.
            warn!(
                consumer = context.consumer(),
                "a message whose handler publishes is not remembered as done"
            );
            is_done = false;
        }
        lease.end(is_done).await;
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
