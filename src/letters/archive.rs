//! Letters as lines of JSON, without loss.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{DeadLettersError, Letter, desk::Desk};
use crate::broker::{Portable, Properties, Publication, Reading, Written};

/// The version of the format.
const VERSION: u8 = 1;

/// A line of an export.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    /// The version of the format.
    lapwing: u8,
    id: String,
    /// How the letter came into the dead-letter queue.
    exchange: String,
    routing_key: String,
    properties: Portable,
    body: Body,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Body {
    /// A body in UTF-8.
    Text(String),
    /// Any other body.
    Base64(String),
}

/// Why a line is not a letter.
#[derive(Debug, thiserror::Error)]
#[error("not a letter of an export: {0}")]
pub struct NotALetter(String);

/// A letter of an export.
#[derive(Debug)]
pub struct Archived {
    /// The letter's id.
    pub id: String,
    properties: Properties,
    body: Vec<u8>,
}

/// The letter as one line, with all properties, header types and bytes.
///
/// # Panics
/// Never: each part can be written as JSON.
#[must_use]
pub fn to_line(letter: &Letter) -> String {
    let line = Line {
        lapwing: VERSION,
        id: letter.summary.id.clone(),
        exchange: letter.exchange.clone(),
        routing_key: letter.routing_key.clone(),
        properties: Portable::from(&letter.properties),
        body: match std::str::from_utf8(&letter.body) {
            Ok(text) => Body::Text(text.to_owned()),
            Err(_) => Body::Base64(STANDARD.encode(&letter.body)),
        },
    };
    serde_json::to_string(&line).expect("texts and numbers can be written as JSON")
}

/// Reads a line of an export.
///
/// # Errors
/// When the line is not one that [`to_line`] wrote.
pub fn from_line(line: &str) -> Result<Archived, NotALetter> {
    let told = |error: &dyn fmt::Display| NotALetter(error.to_string());
    let line: Line = serde_json::from_str(line).map_err(|error| told(&error))?;
    if line.lapwing != VERSION {
        return Err(NotALetter(format!("its version is {}", line.lapwing)));
    }
    Ok(Archived {
        id: line.id,
        properties: Properties::try_from(line.properties).map_err(|error| told(&error))?,
        body: match line.body {
            Body::Text(text) => text.into_bytes(),
            Body::Base64(text) => STANDARD.decode(text).map_err(|error| told(&error))?,
        },
    })
}

impl Archived {
    pub(super) async fn publish<B: Reading>(&self, desk: &Desk<B>) -> Result<(), DeadLettersError> {
        let properties = self.properties.kept(&[]);
        let publication = Publication {
            exchange: "",
            routing_key: &desk.queue,
            body: &self.body,
            properties: Written::New(&properties),
        };
        let id = || self.id.clone();
        let published = desk.broker.publish(&publication).await;
        published.map_err(|error| DeadLettersError::NotPublished { id: id(), error })
    }
}
