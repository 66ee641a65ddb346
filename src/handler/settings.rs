//! `handler` of a consumer and of a route: the settings of a handler, whatever its kind.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, de};

use super::{Classes, Handler, HandlerError, HandlerSettings, Reached, Word, kind::Kind};
use crate::{
    config::{Findings, KeyPath},
    outcome::Outcome,
};

impl HandlerSettings {
    /// The handler that the settings name, for a consumer with this `concurrency`, or `None`.
    ///
    /// # Errors
    /// When the handler cannot be built, for instance because a certificate file cannot be read.
    pub fn make(&self, concurrency: u16) -> Result<Option<Arc<dyn Handler>>, HandlerError> {
        let made = self.settings().map(|settings| settings.make(concurrency));
        made.transpose()
    }

    /// Whether what the handler needs is there. `None`: nothing is known of it here, because it is
    /// registered in code.
    pub(crate) async fn reach(&self) -> Option<Result<Reached, HandlerError>> {
        Some(self.settings()?.reach().await)
    }

    /// The outcome of an attempt that ends with this class, this status and the wait that the service
    /// asks for. `None`: this kind of handler has no such end.
    pub(crate) fn judge(
        &self,
        class: Option<&str>,
        status: Option<u16>,
        retry_after: Option<Duration>,
    ) -> Option<Outcome> {
        self.settings()?.judge(class, status, retry_after)
    }

    /// The classes of the handler's failures.
    pub(crate) fn classes(&self) -> Classes {
        let of_code = Classes::open(&["decode", "error"]);
        self.settings()
            .map_or(of_code, |settings| settings.classes())
    }

    pub(crate) fn check(&self, findings: &mut Findings, path: &KeyPath) {
        if let Some(settings) = self.settings() {
            settings.check(findings, path);
        }
    }

    /// Checks the batches of the handler at `path`, for the consumer at `consumer` with these limits.
    pub(crate) fn check_batch(
        &self,
        findings: &mut Findings,
        path: &KeyPath,
        consumer: &KeyPath,
        (concurrency, timeout): (u16, Duration),
    ) {
        if let Some(batch) = self.settings().and_then(Kind::batch) {
            batch.check(findings, (path, consumer), concurrency, timeout);
        }
    }
}

/// serde's own `tag` would collect the whole table first, and lose which key an error is about and
/// which values came from environment variables. Instead, the reader of settings gives `kind`
/// first.
impl<'de> Deserialize<'de> for HandlerSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Table)
    }
}

struct Table;

impl<'de> de::Visitor<'de> for Table {
    type Value = HandlerSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, such as { kind = \"http\", url = \"http://127.0.0.1:8000/orders\" }")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut entries: A) -> Result<HandlerSettings, A::Error> {
        match entries.next_key::<Key>()? {
            None => Ok(HandlerSettings::None),
            Some(Key::Kind) => entries.next_value::<Word>()?.read(entries),
        }
    }
}

/// The only key of a table without a kind.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Kind,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ handler: HandlerSettings }, |it, findings| {
        it.handler.check(findings, &KeyPath::of("handler"));
    });

    #[test]
    fn settings_of_one_kind_of_handler_are_refused_for_another() {
        Sections::refused(&[
            (
                "handler.kind = \"http\"",
                "handler.url: is required by kind \"http\"",
            ),
            (
                "handler.url = \"http://a\"",
                "handler.url: belongs to kind \"http\", but the kind is \"none\"",
            ),
            (
                "handler = { kind = \"log\", headers = { a = \"b\" } }",
                "handler.headers: belongs to kind \"http\", but the kind is \"log\"",
            ),
            (
                "handler = { kind = \"log\", connect_timeout = \"1s\" }",
                "handler.connect_timeout: belongs",
            ),
            (
                "handler = { kind = \"log\", ca_file = \"/x\" }",
                "handler.ca_file: belongs to kind",
            ),
        ]);
    }
}
