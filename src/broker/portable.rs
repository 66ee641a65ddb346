//! Properties and headers as JSON, without loss: each header keeps its AMQP type.
//!
//! The format is a contract with the files that `lapwing dead export` has written.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use lapin::{
    BasicProperties,
    types::{AMQPValue, DecimalValue, FieldTable, ShortString},
};
use serde::{Deserialize, Serialize};

use super::headers::{PERSISTENT, Properties, names, short};

/// The value of a header, named after its AMQP type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Field {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    /// As text, because JSON has no infinity and parsers round.
    F32(String),
    F64(String),
    Decimal {
        scale: u8,
        value: u32,
    },
    ShortText(String),
    /// A long string in UTF-8.
    Text(String),
    /// A long string that is not UTF-8, in base64.
    TextBase64(String),
    Array(Vec<Field>),
    /// Seconds since 1970.
    Timestamp(u64),
    Table(BTreeMap<String, Field>),
    /// A byte array, in base64.
    Bytes(String),
    Void,
}

/// Why a portable text cannot be read.
#[derive(Debug)]
pub(crate) struct NotPortable(String);

impl fmt::Display for NotPortable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All properties and headers of a message. A property that is not set is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Portable {
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_mode: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<String, Field>>,
}

/// The text properties, with lapin's getter and setter of each.
macro_rules! texts {
    ($each:ident) => {
        $each!(
            content_type with_content_type, content_encoding with_content_encoding,
            correlation_id with_correlation_id, reply_to with_reply_to,
            expiration with_expiration, message_id with_message_id, kind with_type,
            user_id with_user_id, app_id with_app_id, cluster_id with_cluster_id
        )
    };
}

impl From<&Properties> for Portable {
    fn from(properties: &Properties) -> Self {
        let inner = &properties.0;
        let mut portable = Self {
            delivery_mode: *inner.delivery_mode(),
            priority: *inner.priority(),
            timestamp: *inner.timestamp(),
            headers: inner.headers().as_ref().map(table),
            ..Self::default()
        };
        macro_rules! get {
            ($($name:ident $set:ident),*) => {
                $(portable.$name = inner.$name().as_ref().map(ToString::to_string);)*
            };
        }
        texts!(get);
        portable
    }
}

impl TryFrom<Portable> for Properties {
    type Error = NotPortable;

    fn try_from(portable: Portable) -> Result<Self, NotPortable> {
        let mut inner = BasicProperties::default();
        macro_rules! set {
            ($($name:ident $set:ident),*) => {
                $(if let Some(text) = &portable.$name {
                    inner = inner.$set(short_text(text)?);
                })*
            };
        }
        texts!(set);
        if let Some(mode) = portable.delivery_mode {
            inner = inner.with_delivery_mode(mode);
        }
        if let Some(priority) = portable.priority {
            inner = inner.with_priority(priority);
        }
        if let Some(seconds) = portable.timestamp {
            inner = inner.with_timestamp(seconds);
        }
        if let Some(headers) = portable.headers {
            inner = inner.with_headers(from_table(headers)?);
        }
        Ok(Self(inner))
    }
}

fn short_text(text: &str) -> Result<ShortString, NotPortable> {
    match text.len() {
        ..=255 => Ok(short(text)),
        bytes => Err(NotPortable(format!(
            "a short text has {bytes} bytes, must have at most 255"
        ))),
    }
}

fn table(table: &FieldTable) -> BTreeMap<String, Field> {
    let fields = table.inner().iter();
    fields
        .map(|(name, value)| (name.to_string(), Field::from(value)))
        .collect()
}

fn from_table(fields: BTreeMap<String, Field>) -> Result<FieldTable, NotPortable> {
    let mut table = FieldTable::default();
    for (name, field) in fields {
        table.insert(short_text(&name)?, field.try_into()?);
    }
    Ok(table)
}

impl From<&AMQPValue> for Field {
    fn from(value: &AMQPValue) -> Self {
        match value {
            AMQPValue::Boolean(is) => Self::Bool(*is),
            AMQPValue::ShortShortInt(n) => Self::I8(*n),
            AMQPValue::ShortShortUInt(n) => Self::U8(*n),
            AMQPValue::ShortInt(n) => Self::I16(*n),
            AMQPValue::ShortUInt(n) => Self::U16(*n),
            AMQPValue::LongInt(n) => Self::I32(*n),
            AMQPValue::LongUInt(n) => Self::U32(*n),
            AMQPValue::LongLongInt(n) => Self::I64(*n),
            // The shortest text that is read back as the same number.
            AMQPValue::Float(n) => Self::F32(format!("{n:?}")),
            AMQPValue::Double(n) => Self::F64(format!("{n:?}")),
            AMQPValue::DecimalValue(n) => Self::Decimal {
                scale: n.scale,
                value: n.value,
            },
            AMQPValue::ShortString(text) => Self::ShortText(text.to_string()),
            AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
                Ok(text) => Self::Text(text.to_owned()),
                Err(_) => Self::TextBase64(STANDARD.encode(text.as_bytes())),
            },
            AMQPValue::FieldArray(items) => {
                Self::Array(items.as_slice().iter().map(Self::from).collect())
            }
            AMQPValue::Timestamp(seconds) => Self::Timestamp(*seconds),
            AMQPValue::FieldTable(inner) => Self::Table(table(inner)),
            AMQPValue::ByteArray(bytes) => Self::Bytes(STANDARD.encode(bytes.as_slice())),
            AMQPValue::Void => Self::Void,
        }
    }
}

impl TryFrom<Field> for AMQPValue {
    type Error = NotPortable;

    fn try_from(field: Field) -> Result<Self, NotPortable> {
        let wrong = |what: &str| NotPortable(format!("{what} cannot be read"));
        let number = |text: String| text.parse().map_err(|_| wrong(&text));
        Ok(match field {
            Field::Bool(is) => Self::Boolean(is),
            Field::I8(n) => Self::ShortShortInt(n),
            Field::U8(n) => Self::ShortShortUInt(n),
            Field::I16(n) => Self::ShortInt(n),
            Field::U16(n) => Self::ShortUInt(n),
            Field::I32(n) => Self::LongInt(n),
            Field::U32(n) => Self::LongUInt(n),
            Field::I64(n) => Self::LongLongInt(n),
            Field::F32(text) => Self::Float(text.parse().map_err(|_| wrong(&text))?),
            Field::F64(text) => Self::Double(number(text)?),
            Field::Decimal { scale, value } => Self::DecimalValue(DecimalValue { scale, value }),
            Field::ShortText(text) => Self::ShortString(short_text(&text)?),
            Field::Text(text) => Self::LongString(text.into()),
            Field::TextBase64(text) => {
                let bytes = STANDARD.decode(text).map_err(|_| wrong("base64"))?;
                Self::LongString(bytes.into())
            }
            Field::Array(items) => {
                let items = items.into_iter().map(<Self as TryFrom<Field>>::try_from);
                Self::FieldArray(items.collect::<Result<Vec<_>, _>>()?.into())
            }
            Field::Timestamp(seconds) => Self::Timestamp(seconds),
            Field::Table(fields) => Self::FieldTable(from_table(fields)?),
            Field::Bytes(text) => {
                let bytes = STANDARD.decode(text).map_err(|_| wrong("base64"))?;
                Self::ByteArray(bytes.into())
            }
            Field::Void => Self::Void,
        })
    }
}

impl Properties {
    /// The properties of a copy that takes the message's place in its own queue: all properties and
    /// headers, except those that would make the broker refuse, expire or multiply the copy, and
    /// the counts of its deliveries. `add` are further headers.
    pub(crate) fn kept(&self, add: &[(&'static str, String)]) -> Self {
        let mut portable = Portable::from(self);
        portable.delivery_mode = Some(PERSISTENT);
        let mut headers = portable.headers.take().unwrap_or_default();
        for count in ["x-delivery-count", "x-acquired-count"] {
            headers.remove(count);
        }
        for (header, aside) in [("CC", names::ORIGINAL_CC), ("BCC", names::ORIGINAL_BCC)] {
            if let Some(routes) = headers.remove(header) {
                headers.entry(aside.to_owned()).or_insert(routes);
            }
        }
        let aside = [
            (portable.user_id.take(), names::ORIGINAL_USER_ID),
            (portable.expiration.take(), names::ORIGINAL_EXPIRATION),
        ];
        for (value, name) in aside {
            if let Some(text) = value {
                headers.entry(name.to_owned()).or_insert(Field::Text(text));
            }
        }
        for (name, text) in add {
            headers.insert((*name).to_owned(), Field::Text(text.clone()));
        }
        portable.headers = (!headers.is_empty()).then_some(headers);
        // Each part comes from properties, so each part can be read back.
        portable.try_into().unwrap_or_else(|_| self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One header of each type, with the values that are easily lost.
    fn every_type() -> Properties {
        let mut inner = FieldTable::default();
        inner.insert("deep".into(), AMQPValue::ShortShortUInt(255));
        let values = [
            AMQPValue::Boolean(true),
            AMQPValue::ShortShortInt(-1),
            AMQPValue::ShortShortUInt(255),
            AMQPValue::ShortInt(-300),
            AMQPValue::ShortUInt(65_535),
            AMQPValue::LongInt(-70_000),
            AMQPValue::LongUInt(u32::MAX),
            AMQPValue::LongLongInt(i64::MIN),
            AMQPValue::Float(0.1),
            AMQPValue::Double(0.1 + 0.2),
            AMQPValue::Double(f64::INFINITY),
            AMQPValue::DecimalValue(DecimalValue {
                scale: 2,
                value: 314,
            }),
            AMQPValue::ShortString("short".into()),
            AMQPValue::LongString("läng \0 \u{1F426}".into()),
            AMQPValue::LongString(vec![0xff, 0x00, 0xfe].into()),
            AMQPValue::FieldArray(vec![AMQPValue::Void, AMQPValue::Boolean(false)].into()),
            AMQPValue::Timestamp(u64::MAX),
            AMQPValue::FieldTable(inner),
            AMQPValue::ByteArray(vec![1, 2, 255].into()),
            AMQPValue::Void,
        ];
        let mut headers = FieldTable::default();
        for (at, value) in values.into_iter().enumerate() {
            headers.insert(short(&format!("h{at}")), value);
        }
        let inner = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_content_encoding("gzip".into())
            .with_delivery_mode(1)
            .with_priority(7)
            .with_correlation_id("c".into())
            .with_reply_to("r".into())
            .with_expiration("60000".into())
            .with_message_id("m".into())
            .with_timestamp(1)
            .with_type("t".into())
            .with_user_id("guest".into())
            .with_app_id("a".into())
            .with_cluster_id("k".into())
            .with_headers(headers);
        Properties(inner)
    }

    #[test]
    fn properties_and_headers_of_every_type_come_back_the_same() {
        let properties = every_type();
        let json = serde_json::to_string(&Portable::from(&properties)).unwrap();
        let portable: Portable = serde_json::from_str(&json).unwrap();
        assert_eq!(Properties::try_from(portable).unwrap(), properties);
        let none = Properties::default();
        let json = serde_json::to_string(&Portable::from(&none)).unwrap();
        assert_eq!(json, "{}");
        let portable: Portable = serde_json::from_str(&json).unwrap();
        assert_eq!(Properties::try_from(portable).unwrap(), none);
    }

    #[test]
    fn a_kept_copy_sets_aside_what_the_broker_would_act_on() {
        let kept = every_type().kept(&[(names::ERROR, "e".to_owned())]);
        assert_eq!(kept.0.user_id(), &None);
        assert_eq!(kept.0.expiration(), &None);
        assert_eq!(*kept.0.delivery_mode(), Some(2));
        let text = |name| kept.header(name).and_then(|value| value.as_str());
        assert_eq!(text(names::ORIGINAL_USER_ID), Some("guest"));
        assert_eq!(text(names::ORIGINAL_EXPIRATION), Some("60000"));
        assert_eq!(text(names::ERROR), Some("e"));
        assert_eq!(kept.message_id(), Some("m"));
        assert_eq!(kept.headers().count(), every_type().headers().count() + 3);
    }

    #[test]
    fn a_portable_text_that_does_not_fit_is_refused() {
        for text in [
            r#"{"colour":"red"}"#,
            r#"{"headers":{"a":{"i8":300}}}"#,
            r#"{"headers":{"a":{"bytes":"?"}}}"#,
            r#"{"headers":{"a":{"f64":"much"}}}"#,
        ] {
            let read = serde_json::from_str::<Portable>(text);
            let read = read.map_err(|error| error.to_string());
            let read = read.and_then(|it| Properties::try_from(it).map_err(|it| it.to_string()));
            assert!(read.is_err(), "{text}");
        }
    }
}
