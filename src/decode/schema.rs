//! JSON Schema: whether a body fits, and where it does not.

use std::{fs, path::Path};

use jsonschema::{PatternOptions, Retrieve, Uri, ValidationError, Validator};
use serde_json::Value;

use super::json;
use crate::{
    message::Message,
    outcome::Failure,
    text::{causes, cut},
};

/// The most values of a body. A check needs some hundred bytes for each.
const VALUES: usize = 1_000_000;
/// The most values of a body whose violations are named. The crate collects all violations before it gives
/// the first one, also those of each branch of an `anyOf`.
const VALUES_WITH_PLACES: usize = 20_000;
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
        // The other engine can take millions of steps for a short text, and the worker could not end them.
        let options = jsonschema::options()
            .with_retriever(Nowhere)
            .with_pattern_options(PatternOptions::regex());
        let validator = options.build(&schema).map_err(|error| refusal(&error))?;
        Ok(Self(validator))
    }

    /// Checks the body of a message.
    pub(super) fn check(&self, message: &Message) -> Result<(), Failure> {
        let refused = |text| Err(Failure::undecodable(text).of_class("schema"));
        let values = json::values(message.body());
        if values > VALUES {
            return refused(format!(
                "the body has more than {VALUES} values and names, and the worker checks no such body \
                 against a schema"
            ));
        }
        let body: Value = json::message(message)?;
        if self.0.is_valid(&body) {
            return Ok(());
        }
        if values > VALUES_WITH_PLACES {
            return refused(format!(
                "the body does not fit the schema; it has more than {VALUES_WITH_PLACES} values and \
                 names, so the worker does not look for the places"
            ));
        }
        let mut errors = self.0.iter_errors(&body);
        let named: Vec<_> = errors
            .by_ref()
            .take(NAMED)
            .map(|it| violation(&it))
            .collect();
        let more = match errors.next() {
            Some(_) => "; and more",
            None => "",
        };
        refused(format!(
            "the body does not fit the schema: {}{more}",
            named.join("; ")
        ))
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
    let hint = match text.ends_with("is not a \"regex\"") {
        true => ", or has look-around or a back-reference, which the worker does not know",
        false => "",
    };
    format!("is no JSON Schema:{place} {}{hint}", cut(&text, TEXT))
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
