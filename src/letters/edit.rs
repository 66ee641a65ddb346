//! Edited letters.

use futures_util::future::{BoxFuture, FutureExt};
use serde_json::json;
use tracing::info;

use super::{
    Changed, DeadLettersError, Filter, Letter,
    change::{Change, Report, change},
    desk::Desk,
};
use crate::{
    broker::{Publication, Reading, Written, headers::names},
    clock,
    text::rfc3339,
};

/// A letter with another body.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The letter's id.
    pub id: String,
    /// The [hash](Letter::body_hash) of the body that was edited.
    pub from: String,
    /// The new body.
    pub body: Vec<u8>,
    /// Who edits, for the log and the copy.
    pub by: String,
}

struct Editing<'a, B> {
    edit: &'a Edit,
    filter: Filter,
    broker: &'a B,
    queue: &'a str,
}

impl<B: Reading> Editing<'_, B> {
    async fn publish(&self, letter: &Letter) -> Result<(), String> {
        let Edit { by, from, body, .. } = self.edit;
        let record = json!({ "at": rfc3339(clock::now()), "by": by, "from": from });
        let properties = letter
            .properties
            .kept(&[(names::EDITED, record.to_string())]);
        let publication = Publication {
            exchange: "",
            routing_key: self.queue,
            body,
            properties: Written::New(&properties),
        };
        let published = self.broker.publish(&publication).await;
        published.map_err(|error| error.to_string())
    }
}

/// Why a letter with the right id is not the one that was edited.
const OTHER_BODY: &str = "its body is not the one that was edited";

impl<B: Reading> Change for Editing<'_, B> {
    fn filter(&self) -> &Filter {
        &self.filter
    }

    fn most(&self) -> u64 {
        1
    }

    fn refuses(&self, letter: &Letter) -> Option<String> {
        (letter.body_hash() != self.edit.from).then(|| OTHER_BODY.to_owned())
    }

    fn succeed<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), String>> {
        self.publish(letter).boxed()
    }
}

/// Replaces the letter by a copy with the new body at the end of its queue, unless the report stops it
/// before.
pub(super) async fn edit<B: Reading>(
    desk: &Desk<B>,
    edit: &Edit,
    report: Report<'_>,
) -> Result<Changed, DeadLettersError> {
    let editing = Editing {
        edit,
        filter: Filter {
            ids: vec![edit.id.clone()],
            ..Filter::default()
        },
        broker: &desk.broker,
        queue: &desk.queue,
    };
    let changed = change(desk, &editing, report).await?;
    let Edit { id, by, .. } = edit;
    if changed.changed == 1 {
        info!(queue = desk.queue, id, by, "edited a dead letter");
        return Ok(changed);
    }
    if changed.stopped && changed.kept.is_empty() {
        return Ok(changed);
    }
    match changed.kept.keys().next() {
        None => Err(DeadLettersError::NoLetter(id.clone())),
        Some(why) if why == OTHER_BODY => Err(DeadLettersError::Changed(id.clone())),
        Some(why) => Err(DeadLettersError::NotReplaced {
            id: id.clone(),
            why: why.clone(),
        }),
    }
}
