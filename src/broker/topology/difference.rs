//! What the broker says where a queue is not as it was declared.

use lapin::types::FieldTable;

use super::plan::Argument;
use crate::broker::headers::short;

/// What a refused declaration says: `inequivalent arg 'x-max-length' for queue 'q' in vhost '/':
/// received none but current is the value '5' of type 'long'` (RabbitMQ, `rabbit_misc`).
///
/// Such a text has at most 255 bytes, and what does not fit is cut: with long names, the values.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) argument: String,
    /// What it is and what was wanted; `None` where the text is cut.
    values: Option<(String, String)>,
    /// The current value, to bend the plan to; `None` where the argument is not set or not known.
    pub(super) value: Option<Argument>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let argument = &self.argument;
        match &self.values {
            Some((has, wanted)) => write!(f, "{argument} is {has}, wanted {wanted}"),
            None => write!(
                f,
                "{argument} is not what was wanted (with names as long as these, the broker's \
                 answer does not hold what it is)"
            ),
        }
    }
}

impl Difference {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, text) = text.split_once("inequivalent arg '")?;
        let (argument, text) = text.split_once('\'')?;
        let argument = argument.to_owned();
        let cut = text.ends_with("...");
        let values = text
            .split_once("received ")
            .and_then(|(_, text)| text.split_once(" but current is "));
        let Some((wanted, has)) = values.filter(|_| !cut) else {
            return cut.then_some(Self {
                argument,
                values: None,
                value: None,
            });
        };
        let has = has.split(" (").next().unwrap_or(has);
        Some(Self {
            argument,
            values: Some((describe(has), describe(wanted))),
            value: parse_value(has),
        })
    }

    /// The table with this argument as it is at the broker; `None` where that cannot be said in
    /// arguments.
    pub(super) fn bend(&self, table: &FieldTable) -> Option<FieldTable> {
        if !self.argument.starts_with("x-") {
            return None;
        }
        let mut inner = table.inner().clone();
        match &self.value {
            Some(value) => {
                inner.insert(short(&self.argument), value.into());
            }
            None if inner.contains_key(self.argument.as_str()) => {
                inner.remove(self.argument.as_str());
            }
            None => return None,
        }
        Some(FieldTable::from(inner))
    }
}

/// `the value '5' of type 'long'` as `'5'`; `none` as `not set`.
fn describe(text: &str) -> String {
    match quoted(text) {
        Some((value, _)) => format!("'{value}'"),
        None if text == "none" => "not set".to_owned(),
        None => text.to_owned(),
    }
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix("the value '")?;
    let (value, kind) = text.rsplit_once("' of type '")?;
    Some((value, kind.split('\'').next()?))
}

fn parse_value(text: &str) -> Option<Argument> {
    let (value, kind) = quoted(text)?;
    match kind {
        "longstr" => Some(Argument::Text(value.to_owned())),
        "bool" => value.parse().ok().map(Argument::Bool),
        _ => value.parse().ok().map(Argument::Int),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_read_from_the_brokers_refusals() {
        let parse = |text: &str| Difference::parse(text).unwrap();
        let more = parse(
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': \
             received none but current is the value '5' of type 'long'",
        );
        assert_eq!(more.to_string(), "x-max-length is '5', wanted not set");
        assert_eq!(more.value, Some(Argument::Int(5)));
        let less = parse(
            "inequivalent arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': received the \
             value 'q.dead' of type 'longstr' but current is none",
        );
        assert_eq!(
            less.to_string(),
            "x-dead-letter-routing-key is not set, wanted 'q.dead'"
        );
        let single = parse(
            "inequivalent arg 'x-single-active-consumer' for queue 'q' in vhost '/': received none \
             but current is the value 'true' of type 'bool'",
        );
        assert_eq!(single.value, Some(Argument::Bool(true)));
        let cut = parse(
            "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost 'long': \
             received the value 'reject-publish' of type 'longstr' but curren...",
        );
        assert!(
            cut.to_string()
                .starts_with("x-overflow is not what was wanted"),
            "{cut}"
        );
        assert_eq!(cut.value, None);
        let durable = parse(
            "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is \
             'false'",
        );
        assert_eq!(durable.to_string(), "durable is 'false', wanted 'true'");
        assert_eq!(durable.bend(&FieldTable::default()), None);
    }
}
