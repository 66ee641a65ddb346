//! Suggests the key that the writer probably meant by an unknown key.

use config::{Value, ValueKind};
use serde_json::Value as Schema;

use super::{
    problem::{KeyPath, Step},
    read::{ReadError, nearest, nearest_within},
    schema::{KIND, Place},
};

/// Words that other systems use for our keys.
const ALIASES: [(&str, &str); 13] = [
    ("max_retries", "max_attempts"),
    ("retries", "max_attempts"),
    ("attempts", "max_attempts"),
    ("workers", "concurrency"),
    ("threads", "concurrency"),
    ("parallelism", "concurrency"),
    ("qos", "prefetch"),
    ("dlq", "dead_letter_queue"),
    ("uri", "url"),
    ("endpoint", "url"),
    ("host", "url"),
    ("rate_limit", "rate"),
    ("backoff", "base"),
];

/// Keys of earlier versions, the key that took their place there, and what to write now.
const RENAMED: [(&str, &str, &str); 1] = [(
    "types",
    "routes",
    "is `routes` now: write `[consumers.NAME.routes.\"TYPE\"]`, and the old table of the type as its \
     key `handler`",
)];

/// Completes the message about an unknown key. Marks the suggested key as unread. True if the error
/// is only a consequence of an error that is already reported.
pub(super) fn explain(
    error: &mut ReadError,
    tree: &Value,
    schema: &Schema,
    unread: &mut Vec<KeyPath>,
) -> bool {
    let Some(table) = error.path.parent().filter(|_| error.is_unknown) else {
        return false;
    };
    let (Some(Step::Key(key)), Some(place)) =
        (error.path.steps().last(), Place::at(schema, tree, &table))
    else {
        return false;
    };
    if let Some((other, kind)) = place.other_kind(key) {
        error.message = format!("belongs to {KIND} \"{other}\", but the {KIND} is \"{kind}\"");
        return unread.contains(&table.key(KIND));
    }
    let valid = place.keys();
    let renamed = RENAMED.iter();
    let mut renamed = renamed.filter(|(old, new, _)| old == key && valid.contains(new));
    if let Some((_, _, message)) = renamed.next() {
        (*message).clone_into(&mut error.message);
        return false;
    }
    let alias = ALIASES.iter().find(|(alias, _)| alias == key);
    let key = alias.map_or(key.as_str(), |(_, ours)| ours);
    // Try a slip of one letter first, then the right key in the wrong table, then a guess.
    let here = |near: &str| KeyPath::default().key(near);
    let inner = || {
        let inner = place.inner(key, get(tree, &error.path)?)?;
        Some(here(inner).key(key))
    };
    let near = nearest_within(key, &valid, |_| 1).map(here).or_else(inner);
    if let (None, Some(outer)) = (&near, outside(schema, tree, &table, key)) {
        error.message = format!("unknown key; did you mean `{outer}`?");
        unread.push(outer);
        return false;
    }
    let meant = near.or_else(|| nearest(key, &valid).map(here));
    error.message = match &meant {
        Some(meant) => format!("unknown key; did you mean `{meant}`?"),
        None => format!("unknown key; valid here: {}", valid.join(", ")),
    };
    unread.extend(meant.map(|meant| meant.steps().iter().cloned().fold(table, KeyPath::then)));
    false
}

/// The key in the table around this one, if it is valid there.
fn outside(schema: &Schema, tree: &Value, table: &KeyPath, key: &str) -> Option<KeyPath> {
    let outer = table.parent()?;
    let place = Place::at(schema, tree, &outer)?;
    place.keys().contains(&key).then(|| outer.key(key))
}

pub(super) fn get<'a>(tree: &'a Value, path: &KeyPath) -> Option<&'a Value> {
    path.steps()
        .iter()
        .try_fold(tree, |value, step| match (step, &value.kind) {
            (Step::Key(key), ValueKind::Table(table)) => table.get(key),
            (Step::Index(index), ValueKind::Array(items)) => items.get(*index),
            _ => None,
        })
}
