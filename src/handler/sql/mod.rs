//! A handler that runs a statement in PostgreSQL for each message.
//!
//! Each message has a transaction of its own. It holds the statement and, if the consumer has an
//! inbox, the row that says that the message is done.

mod parameter;
mod reach;
mod settings;
mod statement;
mod states;

use std::{fmt, sync::Arc};

use futures_util::future::join;
use tokio_postgres::{Statement, types::ToSql};

pub use settings::SqlHandlerSettings;
pub use states::SqlMeaning;

use super::{
    Context, Handler, HandlerError, HandlerFuture,
    inbox::{self, Claim, InTransaction, Row, Sweeper},
    source::{Source, Values},
};
use crate::{
    outcome::{Failure, Outcome},
    postgres::{Database, Session, Trouble},
};
use parameter::Parameter;
use states::{PARAMETER, States};

/// Runs a statement for each message.
pub struct SqlHandler {
    database: Arc<Database>,
    /// The statement, with numbers for names.
    statement: Arc<str>,
    /// The parameters in the order of their numbers.
    inputs: Vec<Input>,
    states: States,
    row: Option<Row>,
    sweeper: Sweeper,
}

/// A parameter, and where its value comes from.
struct Input {
    name: String,
    source: Source,
    is_optional: bool,
}

impl fmt::Debug for SqlHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("SqlHandler")
            .field("statement", &self.statement)
            .finish_non_exhaustive()
    }
}

/// How the work of a message ended without its effect.
enum Undone {
    /// PostgreSQL refused something.
    Trouble(Trouble),
    /// The transaction was not begun, or was rolled back, for this outcome.
    Outcome(Outcome),
}

impl From<Trouble> for Undone {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// What is prepared in a session for the messages.
struct Prepared {
    statement: Statement,
    row: Option<InTransaction>,
}

impl SqlHandler {
    /// Makes a handler from its settings, for a consumer with this `concurrency`.
    ///
    /// # Errors
    /// If the URL, a file or the statement cannot be used.
    pub fn new(settings: &SqlHandlerSettings, concurrency: u16) -> Result<Self, HandlerError> {
        Self::with(settings, concurrency, None)
    }

    fn with(
        settings: &SqlHandlerSettings,
        concurrency: u16,
        row: Option<Row>,
    ) -> Result<Self, HandlerError> {
        let failed =
            |what: &str, error: String| HandlerError::new(format!("sql handler: {what} {error}"));
        let numbered = settings.numbered();
        let numbered = numbered.map_err(|error| failed("statement", error))?;
        let sessions = settings.sessions.unwrap_or(concurrency).max(1);
        let database = Database::new(settings.target(), sessions.into());
        let inputs = numbered.names.into_iter().map(|name| {
            let source = settings.parameters.get(&name).map_or("", String::as_str);
            let source = Source::parse(source).map_err(|error| failed(&name, error))?;
            let is_optional = settings.optional.contains(&name);
            Ok(Input {
                name,
                source,
                is_optional,
            })
        });
        Ok(Self {
            database: Arc::new(database.map_err(|error| failed("url", error))?),
            statement: numbered.text.into(),
            inputs: inputs.collect::<Result<_, _>>()?,
            states: States::new(&settings.sqlstates),
            row,
            sweeper: Sweeper::default(),
        })
    }

    /// The values of the message's parameters.
    fn bind(&self, context: &Context, statement: &Statement) -> Result<Vec<Parameter>, Failure> {
        let values = Values::of(context, self.inputs.iter().map(|input| &input.source));
        let bound = self
            .inputs
            .iter()
            .zip(statement.params())
            .map(|(input, of)| {
                let refused = |text: &str| {
                    let text = format!("parameter `{}`: {text}", input.name);
                    Failure::permanent(PARAMETER, text)
                };
                let datum = input.source.read(&values).map_err(Failure::undecodable)?;
                match datum {
                    Some(datum) => parameter::fit(datum, of)
                        .map_err(|error| refused(&format!("its value {error}"))),
                    None if input.is_optional => Ok(Parameter::Null),
                    None => Err(refused("the message has no value for it")),
                }
            });
        bound.collect()
    }

    async fn prepare(&self, session: &mut Session) -> Result<Prepared, Trouble> {
        Ok(Prepared {
            statement: session.prepare(&self.statement).await?,
            row: match &self.row {
                Some(row) => Some(row.prepare(session).await?),
                None => None,
            },
        })
    }

    /// Works on one message in a session. If this future is dropped, so is the session: the statement
    /// is cancelled, and the transaction rolled back.
    async fn work(&self, context: &Context) -> Result<(), Undone> {
        // Before a session is taken: a message without a key needs none.
        let key = match &self.row {
            Some(row) => Some(
                row.terms
                    .key(context)
                    .map_err(Outcome::Failed)
                    .map_err(Undone::Outcome)?,
            ),
            None => None,
        };
        let mut session = self.database.lend().await?;
        let prepared = self.prepare(&mut session).await?;
        let bound = match self.bind(context, &prepared.statement) {
            Ok(bound) => bound,
            Err(failure) => {
                session.give_back();
                return Err(Undone::Outcome(Outcome::Failed(failure)));
            }
        };
        let applied = self
            .apply(context, &mut session, &prepared, key.as_deref(), &bound)
            .await;
        if let Err(undone) = applied {
            // A session that is in trouble, or that may know an old table, is replaced.
            let is_usable = match &undone {
                Undone::Outcome(_) => true,
                Undone::Trouble(trouble) => is_usable_after(trouble),
            };
            if is_usable && session.run("ROLLBACK").await.is_ok() {
                session.give_back();
            } else {
                session.close();
            }
            return Err(undone);
        }
        session.give_back();
        Ok(())
    }

    /// The transaction of one message. An error leaves it open.
    async fn apply(
        &self,
        context: &Context,
        session: &mut Session,
        prepared: &Prepared,
        key: Option<&str>,
        bound: &[Parameter],
    ) -> Result<(), Undone> {
        match (&self.row, &prepared.row, key) {
            (Some(row), Some(statements), Some(key)) => {
                let claim = row
                    .table
                    .claim_in_transaction(session, statements, &row.terms, key);
                // The database gets both at once, in this order.
                let (begun, is_mine) = join(session.run(inbox::BEGIN), claim).await;
                begun?;
                if !is_mine? {
                    let claim = row.table.look(session, &row.terms, key).await?;
                    if let Claim::Runs(_) = claim {
                        context.asks_nothing();
                    }
                    return Err(Undone::Outcome(inbox::not_mine(claim)));
                }
                self.execute(session, &prepared.statement, bound).await?;
            }
            _ => {
                let execute = self.execute(session, &prepared.statement, bound);
                let (begun, executed) = join(session.run("BEGIN"), execute).await;
                begun?;
                executed?;
            }
        }
        session.run("COMMIT").await?;
        Ok(())
    }

    /// Runs the statement for one message, in the transaction that is open.
    async fn execute(
        &self,
        session: &Session,
        statement: &Statement,
        bound: &[Parameter],
    ) -> Result<(), Trouble> {
        let bound: Vec<_> = bound.iter().map(|it| it as &(dyn ToSql + Sync)).collect();
        let executed = session.execute(statement, &bound).await;
        executed
            .map(|_| ())
            .map_err(|trouble| self.explained(trouble))
    }

    /// The trouble with the name of the parameter that it is about.
    fn explained(&self, mut trouble: Trouble) -> Trouble {
        let place = trouble.place.as_deref();
        let number = place.and_then(parameter::number_in);
        let input = number.and_then(|number| self.inputs.get(number.checked_sub(1)?));
        if let Some(input) = input {
            trouble.text = format!("{} (parameter `{}`)", trouble.text, input.name);
        }
        trouble
    }
}

/// Whether a session can go on after this error, once its transaction is rolled back.
fn is_usable_after(trouble: &Trouble) -> bool {
    /// Data, constraints, serialization: these say something about the message alone.
    const HARMLESS: [&str; 6] = ["21", "22", "23", "40", "44", "P0"];
    let is_harmless = |code: &String| HARMLESS.iter().any(|class| code.starts_with(class));
    trouble.code.as_ref().is_some_and(is_harmless)
}

impl Handler for SqlHandler {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            match self.work(&context).await {
                Ok(()) => Outcome::Succeeded,
                Err(Undone::Outcome(outcome)) => outcome,
                Err(Undone::Trouble(trouble)) => self.states.outcome(&trouble),
            }
        })
    }

    fn start(&self) -> HandlerFuture<'_, Result<(), HandlerError>> {
        Box::pin(async {
            let failed = |trouble: Trouble| {
                HandlerError::new(format!(
                    "sql handler: {}: {trouble}",
                    self.database.target().name()
                ))
            };
            let work = async |session: &mut Session| {
                if let Some(row) = &self.row
                    && let Err(error) = row.table.be_there(session, row.migrate).await?
                {
                    return Ok(Err(error));
                }
                self.prepare(session).await?;
                Ok(Ok(()))
            };
            let looked = inbox::look(&self.database, work).await.map_err(failed)?;
            looked.unwrap_or(Ok(()))?;
            if let Some(row) = &self.row {
                self.sweeper.start(&self.database, &row.table);
            }
            Ok(())
        })
    }

    fn stop(&self) -> HandlerFuture<'_, ()> {
        Box::pin(async {
            self.sweeper.stop();
            self.database.stop().await;
        })
    }
}
