//! JSON Schema: whether a body fits, and where it does not.

use std::{fs, path::Path};

use jsonschema::{Retrieve, Uri, ValidationError, Validator};
use serde_json::Value;

use crate::{
    outcome::Failure,
    text::{causes, cut},
};

/// The most violations that an error names.
const NAMED: usize = 5;
/// The most bytes of the place of a violation.
const PLACE: usize = 120;
/// The most bytes of the text of a violation.
const TEXT: usize = 200;

/// A schema that is ready for use.
#[derive(Debug)]
pub(super) struct Schema(Validator);

/// Refuses every schema that is not in the file.
struct Nowhere;

impl Retrieve for Nowhere {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{NEEDS}{uri}, and the worker fetches no schemas").into())
    }
}

const NEEDS: &str = "it needs ";

impl Schema {
    /// The schema in a file.
    ///
    /// # Errors
    /// Why the schema cannot be used, with the file's name.
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// The schema with this text.
    ///
    /// # Errors
    /// Why the schema cannot be used.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let schema: Value =
            serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
        let options = jsonschema::options().with_retriever(Nowhere);
        let validator = options.build(&schema).map_err(|error| refusal(&error))?;
        Ok(Self(validator))
    }

    /// Checks a body.
    pub(super) fn check(&self, body: &Value) -> Result<(), Failure> {
        if self.0.is_valid(body) {
            return Ok(());
        }
        let mut errors = self.0.iter_errors(body);
        let named: Vec<_> = errors
            .by_ref()
            .take(NAMED)
            .map(|it| violation(&it))
            .collect();
        let more = match errors.next() {
            Some(_) => "; and more",
            None => "",
        };
        let text = format!(
            "the body does not fit the schema: {}{more}",
            named.join("; ")
        );
        Err(Failure::undecodable(text).of_class("schema"))
    }
}

/// Why a schema cannot be used.
fn refusal(error: &ValidationError<'_>) -> String {
    // The crate's own text repeats the schema.
    let text = causes(error);
    if let Some(at) = text.find(NEEDS) {
        return cut(text[at..].trim_start_matches("it "), TEXT).to_owned();
    }
    let place = error.instance_path().to_string();
    let place = match place.as_str() {
        "" => String::new(),
        place => format!(" at {}", cut(place, PLACE)),
    };
    format!("is no JSON Schema:{place} {}", cut(&text, TEXT))
}

/// The place of a violation, and what is wrong there. The value itself may be long or secret, so it is
/// left out.
fn violation(error: &ValidationError<'_>) -> String {
    let place = error.instance_path().to_string();
    let place = match place.as_str() {
        "" => "the document",
        place => cut(place, PLACE),
    };
    let text = error.masked_with("the value").to_string();
    format!("{place}: {}", cut(&text, TEXT))
}
