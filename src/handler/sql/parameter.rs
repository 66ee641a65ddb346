//! The value of a parameter, as PostgreSQL takes it.
//!
//! A value travels as text, and PostgreSQL reads the text as a value of the parameter's type. So each
//! type works, no number loses a digit, and what does not fit is PostgreSQL's error. A value never
//! becomes a part of the statement.

use std::{error::Error, str};

use bytes::{BufMut, BytesMut};
use serde_json::value::RawValue;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::handler::source::Datum;

/// A value for PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Null,
    /// Text, which PostgreSQL reads.
    Text(String),
    /// The bytes of a `bytea`.
    Bytes(Vec<u8>),
}

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Text(text) => out.put_slice(text.as_bytes()),
            Self::Bytes(bytes) => out.put_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self {
            Self::Bytes(_) => Format::Binary,
            Self::Null | Self::Text(_) => Format::Text,
        }
    }

    to_sql_checked!();
}

/// The value for a parameter of this type.
///
/// # Errors
/// A text for people: the value cannot be one of this type.
pub(super) fn fit(datum: Datum<'_>, of: &Type) -> Result<Parameter, String> {
    match (datum, base(of)) {
        (Datum::Bytes(bytes), &Type::BYTEA) => Ok(Parameter::Bytes(bytes.to_vec())),
        (Datum::Bytes(bytes), _) => match str::from_utf8(bytes) {
            Ok(text) => Ok(Parameter::Text(text.to_owned())),
            Err(_) => Err(format!("is no text in UTF-8, and its type is {of}")),
        },
        (Datum::Text(text), base) => Ok(match (is_json(base), base) {
            (true, _) => Parameter::Text(serde_json::Value::from(text.as_ref()).to_string()),
            (false, &Type::BYTEA) => Parameter::Bytes(text.into_owned().into_bytes()),
            (false, _) => Parameter::Text(text.into_owned()),
        }),
        (Datum::Json(json), base) => value(&json, base, of),
    }
}

/// The value of this JSON text.
fn value(json: &str, base: &Type, of: &Type) -> Result<Parameter, String> {
    if json == "null" {
        return Ok(Parameter::Null);
    }
    if is_json(base) {
        return Ok(Parameter::Text(json.to_owned()));
    }
    match json.as_bytes().first() {
        Some(b'"') => Ok(match (text(json)?, base) {
            (text, &Type::BYTEA) => Parameter::Bytes(text.into_bytes()),
            (text, _) => Parameter::Text(text),
        }),
        Some(b'[') => match base.kind() {
            Kind::Array(element) => {
                let mut literal = String::with_capacity(json.len() + 16);
                array(json, element_of(element), DIMENSIONS, &mut literal)?;
                Ok(Parameter::Text(literal))
            }
            _ => Err(format!("is a JSON array, and its type is {of}")),
        },
        Some(b'{') => Err(format!("is a JSON object, and its type is {of}")),
        // A number, true or false.
        _ => Ok(Parameter::Text(json.to_owned())),
    }
}

/// The text of a JSON string.
fn text(json: &str) -> Result<String, String> {
    serde_json::from_str(json).map_err(|error| format!("is no text: {error}"))
}

/// How an element of an array is written.
#[derive(Clone, Copy)]
enum Element {
    Json,
    Bytes,
    Other,
}

fn element_of(element: &Type) -> Element {
    match base(element) {
        base if is_json(base) => Element::Json,
        &Type::BYTEA => Element::Bytes,
        _ => Element::Other,
    }
}

/// The most dimensions of an array in PostgreSQL.
const DIMENSIONS: u8 = 6;

/// Writes a JSON array as PostgreSQL's literal: `{1,"a",NULL}`. It has at most so many dimensions: a
/// body can nest arrays deeper than a stack is.
fn array(json: &str, element: Element, dimensions: u8, out: &mut String) -> Result<(), String> {
    let Some(dimensions) = dimensions.checked_sub(1) else {
        return Err(format!("has more than {DIMENSIONS} dimensions"));
    };
    let items: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|error| format!("cannot be read: {error}"))?;
    out.push('{');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let item = item.get();
        match (item.as_bytes().first(), element) {
            _ if item == "null" => out.push_str("NULL"),
            (_, Element::Json) => quote(item, out),
            (Some(b'"'), Element::Bytes) => {
                let text = text(item)?;
                let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
                quote(&format!("\\x{hex}"), out);
            }
            (Some(b'"'), _) => quote(&text(item)?, out),
            (Some(b'['), _) => array(item, element, dimensions, out)?,
            (Some(b'{'), _) => return Err("holds a JSON object".to_owned()),
            _ => out.push_str(item),
        }
    }
    out.push('}');
    Ok(())
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
}

/// The type below all domains.
fn base(of: &Type) -> &Type {
    match of.kind() {
        Kind::Domain(inner) => base(inner),
        _ => of,
    }
}

fn is_json(of: &Type) -> bool {
    matches!(*of, Type::JSON | Type::JSONB)
}

/// The number in a place such as `unnamed portal parameter $2 = '…'`.
pub(super) fn number_in(place: &str) -> Option<usize> {
    let digits = place.split_once("parameter $")?.1;
    let end = digits.find(|it: char| !it.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Datum<'_> {
        Datum::Json(text.into())
    }

    fn fitted(datum: Datum<'_>, of: &Type) -> Result<Parameter, String> {
        fit(datum, of)
    }

    fn is_text(text: &str) -> Result<Parameter, String> {
        Ok(Parameter::Text(text.to_owned()))
    }

    #[test]
    fn a_value_keeps_its_text() {
        for (value, of, expected) in [
            (
                "12345678901234567890.10",
                Type::NUMERIC,
                "12345678901234567890.10",
            ),
            ("1e400", Type::FLOAT8, "1e400"),
            ("true", Type::BOOL, "true"),
            ("\"it's \\\"x\\\" \\u00e4\"", Type::TEXT, "it's \"x\" ä"),
            ("\"7\"", Type::INT4, "7"),
            ("\"a\"", Type::JSONB, "\"a\""),
            ("{\"a\": 1.10}", Type::JSON, "{\"a\": 1.10}"),
            ("[1, 2]", Type::JSONB, "[1, 2]"),
        ] {
            assert_eq!(fitted(json(value), &of), is_text(expected), "{value}");
        }
        for of in [Type::TEXT, Type::JSONB, Type::INT4_ARRAY] {
            assert_eq!(fitted(json("null"), &of), Ok(Parameter::Null));
        }
    }

    #[test]
    fn an_array_becomes_a_literal_in_which_data_stay_data() {
        for (value, of, expected) in [
            ("[1, null, 3]", Type::INT4_ARRAY, "{1,NULL,3}"),
            ("[]", Type::INT4_ARRAY, "{}"),
            ("[[1], [2]]", Type::INT4_ARRAY, "{{1},{2}}"),
            (
                r#"["a,b", "}\"", "\\", "null", ""]"#,
                Type::TEXT_ARRAY,
                r#"{"a,b","}\"","\\","null",""}"#,
            ),
            (
                r#"[{"a": 1}, "x"]"#,
                Type::JSONB_ARRAY,
                r#"{"{\"a\": 1}","\"x\""}"#,
            ),
            (r#"["ab"]"#, Type::BYTEA_ARRAY, r#"{"\\x6162"}"#),
        ] {
            assert_eq!(fitted(json(value), &of), is_text(expected), "{value}");
        }
    }

    #[test]
    fn bytes_and_text_are_never_read_as_escapes() {
        let bytes = Ok(Parameter::Bytes(b"\\x41".to_vec()));
        assert_eq!(fitted(Datum::Bytes(b"\\x41"), &Type::BYTEA), bytes);
        assert_eq!(fitted(Datum::Text("\\x41".into()), &Type::BYTEA), bytes);
        assert_eq!(fitted(json("\"\\\\x41\""), &Type::BYTEA), bytes);
        assert_eq!(fitted(Datum::Bytes(b"{}"), &Type::JSON), is_text("{}"));
        assert_eq!(
            fitted(Datum::Text("a\"b".into()), &Type::JSON),
            is_text("\"a\\\"b\"")
        );
    }

    #[test]
    fn what_no_value_of_the_type_can_be_is_refused() {
        for (datum, of, error) in [
            (
                json("[1]"),
                Type::INT4,
                "is a JSON array, and its type is int4",
            ),
            (
                json("{}"),
                Type::TEXT,
                "is a JSON object, and its type is text",
            ),
            (json("[{}]"), Type::INT4_ARRAY, "holds a JSON object"),
            (json("\"\\ud800\""), Type::TEXT, "is no text: "),
            (Datum::Bytes(b"\xff"), Type::TEXT, "is no text in UTF-8"),
        ] {
            let found = fitted(datum, &of).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn an_array_has_at_most_six_dimensions_however_deep_the_body_is() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let six = nested(6).replace('[', "{").replace(']', "}");
        assert_eq!(fitted(json(&nested(6)), &Type::INT4_ARRAY), is_text(&six));
        for depth in [7, 100_000] {
            let found = fitted(json(&nested(depth)), &Type::INT4_ARRAY);
            assert_eq!(found, Err("has more than 6 dimensions".to_owned()));
        }
    }

    #[test]
    fn the_number_of_a_parameter_is_found_in_a_place() {
        assert_eq!(number_in("unnamed portal parameter $12 = '...'"), Some(12));
        assert_eq!(number_in("portal \"a\" parameter $2"), Some(2));
        assert_eq!(number_in("PL/pgSQL function f() line 1"), None);
    }
}
