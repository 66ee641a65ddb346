//! The kinds of handler that settings can name, and the macro that makes `HandlerSettings` of them.

use std::{sync::Arc, time::Duration};

use schemars::Schema;
use serde_json::{Map, Value, json};

use super::{Handler, HandlerError, HandlerFuture, batch::BatchSettings};
use crate::{
    certificates::Certificate,
    config::{Findings, KIND, KeyPath},
    outcome::Outcome,
};

/// What a handler needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// What it is, for people.
    pub(crate) what: String,
    /// The certificates that its server shows.
    pub(crate) certificates: Vec<Certificate>,
    /// Whether the service takes no connection at present.
    pub(crate) is_away: bool,
}

/// The settings of one kind of handler.
pub(super) trait Kind {
    /// Makes the handler of a consumer with this `concurrency`.
    fn make(&self, concurrency: u16) -> Result<Arc<dyn Handler>, HandlerError>;

    /// Adds findings for problems with the settings at `path` that types and ranges cannot express.
    fn check(&self, findings: &mut Findings, path: &KeyPath);

    /// Whether what the handler needs is there. Handles no message.
    fn reach(&self) -> HandlerFuture<'_, Result<Reached, HandlerError>>;

    /// The settings of batches. `None`: this kind of handler has none.
    fn batch(&self) -> Option<&BatchSettings> {
        None
    }

    /// The outcome of an attempt that ends with this class, this status and the wait that the service
    /// asks for. `None`: this kind of handler has no such end.
    fn judge(
        &self,
        _class: Option<&str>,
        _status: Option<u16>,
        _retry_after: Option<Duration>,
    ) -> Option<Outcome> {
        None
    }

    /// The classes of the handler's failures.
    fn classes(&self) -> Classes {
        Classes::open(&[])
    }
}

/// The classes of a handler's failures, apart from `timeout` and `panic`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Classes {
    pub(crate) known: &'static [&'static str],
    /// Whether the user's code gives classes of its own.
    pub(crate) has_others: bool,
}

impl Classes {
    pub(super) const fn open(known: &'static [&'static str]) -> Self {
        Self {
            known,
            has_others: true,
        }
    }

    pub(super) const fn closed(known: &'static [&'static str]) -> Self {
        Self {
            known,
            has_others: false,
        }
    }
}

/// The schema of one kind: the schema of its settings, with `kind` as the first property.
pub(super) fn schema(word: &str, meaning: &str, mut settings: Schema) -> Schema {
    let object = settings.ensure_object();
    let mut properties = Map::new();
    let kind = json!({ "description": meaning, "type": "string", "const": word });
    properties.insert(KIND.to_owned(), kind);
    if let Some(Value::Object(rest)) = object.remove("properties") {
        properties.extend(rest);
    }
    let mut required = vec![Value::from(KIND)];
    if let Some(Value::Array(rest)) = object.remove("required") {
        required.extend(rest);
    }
    object.insert("type".to_owned(), "object".into());
    object.insert("properties".to_owned(), properties.into());
    object.insert("required".to_owned(), required.into());
    object.insert("additionalProperties".to_owned(), false.into());
    settings
}

/// Makes [`HandlerSettings`](super::HandlerSettings) from the table of kinds.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $word:literal => $name:ident($settings:ty),)+) => {
        /// The handler of a consumer or of a route.
        ///
        /// In settings this is a table with the key `kind`; the other keys belong to that kind. In formats
        /// other than TOML, `kind` must be the first key.
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
        #[serde(tag = "kind")]
        #[non_exhaustive]
        pub enum HandlerSettings {
            /// No handler here: one is registered in code, or each route has its own.
            #[default]
            #[serde(rename = "none")]
            None,
            $($(#[doc = $doc])+ #[serde(rename = $word)] $name($settings),)+
        }

        impl HandlerSettings {
            /// The value of `kind` in settings.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self {
                    Self::None => "none",
                    $(Self::$name(_) => $word,)+
                }
            }

            fn settings(&self) -> Option<&dyn kind::Kind> {
                match self {
                    Self::None => None,
                    $(Self::$name(settings) => Some(settings),)+
                }
            }
        }

        /// The value of `kind`.
        #[derive(serde::Deserialize)]
        enum Word {
            #[serde(rename = "none")]
            None,
            $(#[serde(rename = $word)] $name,)+
        }

        /// The settings of the kind `none`, which has none.
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}

        impl Word {
            fn read<'de, A: serde::de::MapAccess<'de>>(
                self,
                rest: A,
            ) -> Result<HandlerSettings, A::Error> {
                use serde::{Deserialize, de::value::MapAccessDeserializer};
                let rest = MapAccessDeserializer::new(rest);
                match self {
                    Self::None => Nothing::deserialize(rest).map(|_| HandlerSettings::None),
                    $(Self::$name => {
                        <$settings>::deserialize(rest).map(HandlerSettings::$name)
                    })+
                }
            }
        }

        impl schemars::JsonSchema for HandlerSettings {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                "HandlerSettings".into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let none = "No handler here: one is registered in code, or each route has its own.";
                schemars::json_schema!({
                    "oneOf": [
                        kind::schema("none", none, schemars::json_schema!({})),
                        $(kind::schema(
                            $word,
                            concat!($($doc),+).trim(),
                            <$settings>::json_schema(generator),
                        ),)+
                    ]
                })
            }
        }
    };
}
