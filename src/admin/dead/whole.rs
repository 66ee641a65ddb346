//! One letter with all that it has.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::views::{Letter as View, LetterBody, Named};
use crate::{letters::Letter, text::cut};

/// The longest body that is shown whole, in bytes. It can be edited too.
pub(super) const LONGEST_BODY: usize = 512 * 1024;
/// The bytes that are shown of a body that is not text.
const BYTES: usize = 4096;

/// The letter as JSON.
pub(super) fn as_json(letter: &Letter) -> String {
    serde_json::to_string(&view(letter)).unwrap_or_default()
}

fn view(letter: &Letter) -> View {
    let properties = letter.properties();
    let texts = [
        ("content-type", properties.content_type()),
        ("content-encoding", properties.content_encoding()),
        ("correlation-id", properties.correlation_id()),
        ("reply-to", properties.reply_to()),
        ("app-id", properties.app_id()),
        ("user-id", properties.user_id()),
        ("expiration", properties.expiration()),
    ];
    let numbers = [
        ("priority", properties.priority().map(u64::from)),
        ("timestamp", properties.timestamp()),
    ];
    let named = |name: &str, value: String| Named {
        name: name.to_owned(),
        value,
    };
    let texts = texts
        .into_iter()
        .filter_map(|(name, value)| Some(named(name, value?.to_owned())));
    let numbers = numbers
        .into_iter()
        .filter_map(|(name, value)| Some(named(name, value?.to_string())));
    View {
        summary: letter.summary.clone(),
        history: letter.history.clone(),
        properties: texts.chain(numbers).collect(),
        headers: properties
            .headers()
            // The attempts are in the history.
            .filter(|(name, _)| *name != "lapwing-history")
            .map(|(name, value)| named(name, value.to_text().into_owned()))
            .collect(),
        body: body(letter),
    }
}

fn body(letter: &Letter) -> LetterBody {
    let body = letter.body();
    let text = std::str::from_utf8(body).ok();
    let base64 = match text {
        Some(_) => None,
        None => Some(STANDARD.encode(&body[..body.len().min(BYTES)])),
    };
    LetterBody {
        hash: letter.body_hash(),
        bytes: body.len(),
        cut: text.map_or(body.len() > BYTES, |text| text.len() > LONGEST_BODY),
        text: text.map(|text| cut(text, LONGEST_BODY).to_owned()),
        base64,
    }
}
