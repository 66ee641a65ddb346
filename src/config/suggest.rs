//! What was meant by a key or a word that does not exist.

use config::{Map, Value, ValueKind};
use serde::Deserialize;

use super::{
    Settings,
    problem::{KeyPath, Step},
    read::{ReadError, Reader},
};

/// The word that differs least from what was written, where that is little.
pub(super) fn nearest(written: &str, words: &[&'static str]) -> Option<&'static str> {
    nearest_within(written, words, |word| 1 + word.len() / 4)
}

fn nearest_within(
    written: &str,
    words: &[&'static str],
    limit: impl Fn(&str) -> usize,
) -> Option<&'static str> {
    words
        .iter()
        .map(|word| (strsim::osa_distance(written, word), *word))
        .filter(|(distance, word)| *distance <= limit(word))
        .min()
        .map(|(_, word)| word)
}

/// Complete the message about an unknown key, and say which key was most likely meant.
pub(super) fn explain(error: &mut ReadError, tree: &Value) -> Option<KeyPath> {
    let valid = error.unknown?;
    let table = error.path.parent()?;
    let Some(Step::Key(key)) = error.path.steps().last() else {
        return None;
    };
    // A slip of one letter first, then the right word in the wrong place, then a guess.
    let here = |near: &str| KeyPath::default().key(near);
    let meant = nearest_within(key, valid, |_| 1)
        .map(here)
        .or_else(|| misplaced(&table, key, valid, tree))
        .or_else(|| nearest(key, valid).map(here));
    error.message = match &meant {
        Some(meant) => format!("unknown key; did you mean `{meant}`?"),
        None => format!("unknown key; valid here: {}", valid.join(", ")),
    };
    meant.map(|meant| meant.steps().iter().cloned().fold(table, KeyPath::then))
}

/// The key one table further in, where it would be valid: found by reading it there.
fn misplaced(table: &KeyPath, key: &str, valid: &[&str], tree: &Value) -> Option<KeyPath> {
    let value = get(tree, &table.key(key))?;
    let inner = valid.iter().find(|inner| {
        let path = table.key(inner).key(key);
        let probe = path
            .steps()
            .iter()
            .rev()
            .try_fold(value.clone(), |value, step| match step {
                Step::Key(key) => {
                    let table = Map::from([(key.clone(), value)]);
                    Some(Value::new(None, ValueKind::Table(table)))
                }
                Step::Index(_) => None,
            });
        probe.is_some_and(|probe| Settings::deserialize(Reader(&probe)).is_ok())
    })?;
    Some(KeyPath::default().key(inner).key(key))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first problem of reading suggests.
    fn suggested(text: &str) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = Settings::load_unvalidated(Some(file.path()), []).unwrap_err();
        let (_, hint) = error.problems[0].message.split_once("did you mean ")?;
        Some(hint.to_owned())
    }

    #[test]
    fn the_nearest_key_or_word_is_suggested() {
        for (text, suggestion) in [
            ("broker.nmae = \"a\"", Some("`name`?")),
            ("broker.hearbeat = \"5s\"", Some("`heartbeat`?")),
            ("publish.chanels = 5", Some("`channels`?")),
            ("publish.chnnl = 5", Some("`channels`?")),
            ("consumer = 5", Some("`consumers`?")),
            ("log.format = \"jason\"", Some("\"json\"?")),
            ("log.format = \"xml\"", None),
            ("broker.colour = \"red\"", None),
        ] {
            assert_eq!(suggested(text).as_deref(), suggestion, "{text}");
        }
    }

    #[test]
    fn a_key_one_table_too_far_out_is_shown_its_place() {
        for (text, suggestion) in [
            (
                "consumers.a.max_attempts = 5",
                Some("`retry.max_attempts`?"),
            ),
            ("consumers.a.url = \"http://a\"", Some("`handler.url`?")),
            (
                "consumers.a.handler.authorization = \"x\"",
                Some("`headers.authorization`?"),
            ),
            ("orders.queue = \"orders\"", Some("`consumers.orders`?")),
            ("broker.ca_file = \"/x\"", Some("`tls.ca_file`?")),
            ("grace = \"5s\"", Some("`drain.grace`?")),
            ("max_attempts = 5", None),
            ("consumers.a.bindings = [{ max_attempts = 5 }]", None),
        ] {
            assert_eq!(suggested(text).as_deref(), suggestion, "{text}");
        }
    }
}
