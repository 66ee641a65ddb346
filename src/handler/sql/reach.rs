//! Whether the handler's database is there, and takes its statement.

use super::SqlHandlerSettings;
use crate::{
    handler::{HandlerError, Reached},
    postgres::Database,
};

/// Opens a session and prepares the statement. Runs nothing.
pub(super) async fn reach(settings: &SqlHandlerSettings) -> Result<Reached, HandlerError> {
    let failed = |text: String| HandlerError::new(text);
    let numbered = settings.numbered().map_err(failed)?;
    let database = Database::new(settings.target(), 1).map_err(failed)?;
    let name = database.target().name();
    let reached = |what: String, is_away| Reached {
        what,
        certificates: Vec::new(),
        is_away,
    };
    let reached = match database.lend().await {
        Ok(mut session) => {
            let text = numbered.text.into();
            let prepared = session.prepare(&text).await;
            prepared.map_err(|error| failed(format!("{name} refuses the statement: {error}")))?;
            session.give_back();
            reached(format!("{name} takes the statement"), false)
        }
        Err(trouble) if trouble.code.is_none() => reached(trouble.to_string(), true),
        Err(trouble) => return Err(failed(trouble.to_string())),
    };
    database.stop().await;
    Ok(reached)
}
