//! Messages as publishers other than Lapwing write them.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable},
};

use crate::broker::{Properties, headers::short};

/// The properties of a message that a test publishes, built step by step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Letter {
    properties: BasicProperties,
    headers: FieldTable,
}

macro_rules! text_properties {
    ($($name:ident => $set:ident),* $(,)?) => {
        $(#[must_use]
        pub(crate) fn $name(mut self, text: &str) -> Self {
            self.properties = self.properties.$set(short(text));
            self
        })*
    };
}

impl Letter {
    /// A message with these properties.
    pub(crate) fn of(properties: &Properties) -> Self {
        let properties = properties.to_amqp();
        Self {
            headers: properties.headers().clone().unwrap_or_default(),
            properties,
        }
    }

    text_properties! {
        id => with_message_id,
        content_type => with_content_type,
        content_encoding => with_content_encoding,
        message_type => with_type,
        user_id => with_user_id,
        expiration => with_expiration,
        correlation_id => with_correlation_id,
        reply_to => with_reply_to,
    }

    /// A message as a producer of another system wrote it: a recording in `tests/dialects`. Returns the
    /// properties, and the body.
    #[cfg(test)]
    pub(crate) fn recorded(recording: &serde_json::Value) -> (Self, Vec<u8>) {
        let properties = &recording["properties"];
        let mut letter = Self::default();
        macro_rules! take {
            ($($name:literal => $set:ident),* $(,)?) => {
                $(if let Some(text) = properties[$name].as_str() {
                    letter.properties = letter.properties.$set(short(text));
                })*
            };
        }
        take! {
            "content_type" => with_content_type,
            "content_encoding" => with_content_encoding,
            "correlation_id" => with_correlation_id,
            "reply_to" => with_reply_to,
            "expiration" => with_expiration,
            "message_id" => with_message_id,
            "type" => with_type,
            "user_id" => with_user_id,
            "app_id" => with_app_id,
        }
        for (name, value) in recording["headers"].as_object().into_iter().flatten() {
            letter = letter.value(name, amqp(value));
        }
        let body = recording["body"].as_str().unwrap_or_default();
        (letter, body.as_bytes().to_vec())
    }

    /// A retry that a worker parked, as the worker finds it when it comes back.
    #[must_use]
    pub(crate) fn parked(self) -> Self {
        let now = crate::text::rfc3339(crate::clock::now());
        self.user_id("guest").header("lapwing-first-seen", &now)
    }

    /// The `timestamp` property, in seconds.
    #[must_use]
    pub(crate) fn timestamp(mut self, seconds: u64) -> Self {
        self.properties = self.properties.with_timestamp(seconds);
        self
    }

    /// The `priority` property, and `delivery-mode` 1: not persistent.
    #[must_use]
    pub(crate) fn transient(mut self, priority: u8) -> Self {
        self.properties = self
            .properties
            .with_priority(priority)
            .with_delivery_mode(1);
        self
    }

    #[must_use]
    pub(crate) fn header(self, name: &str, text: &str) -> Self {
        self.value(name, AMQPValue::LongString(text.into()))
    }

    #[must_use]
    pub(crate) fn number(self, name: &str, number: i64) -> Self {
        self.value(name, AMQPValue::LongLongInt(number))
    }

    /// A header that is a list of texts.
    #[must_use]
    pub(crate) fn list(self, name: &str, texts: &[&str]) -> Self {
        let text = |text: &&str| AMQPValue::LongString((*text).into());
        let texts: FieldArray = texts.iter().map(text).collect::<Vec<_>>().into();
        self.value(name, AMQPValue::FieldArray(texts))
    }

    fn value(mut self, name: &str, value: AMQPValue) -> Self {
        self.headers.insert(short(name), value);
        self
    }
}

/// A recorded value, as AMQP has it.
#[cfg(test)]
fn amqp(value: &serde_json::Value) -> AMQPValue {
    use serde_json::Value;
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Number(number) => match number.as_i64() {
            Some(number) => AMQPValue::LongLongInt(number),
            None => AMQPValue::Double(number.as_f64().unwrap_or_default()),
        },
        Value::Array(items) => {
            AMQPValue::FieldArray(items.iter().map(amqp).collect::<Vec<_>>().into())
        }
        Value::Object(members) => {
            let mut table = FieldTable::default();
            for (name, value) in members {
                table.insert(short(name), amqp(value));
            }
            AMQPValue::FieldTable(table)
        }
    }
}

impl From<Letter> for Properties {
    fn from(letter: Letter) -> Self {
        letter.properties.with_headers(letter.headers).into()
    }
}
