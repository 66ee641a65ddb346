//! The fields of a log line as text.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::{RecordFields, VisitOutput},
    fmt::{
        FormatFields,
        format::{DefaultVisitor, Writer},
    },
};

use crate::text::visible;

/// Writes fields as `tracing_subscriber` does, with [`visible`] around each value. Values are text of
/// others: of the broker, of services, of publishers.
#[derive(Debug)]
pub(super) struct Visible;

impl<'writer> FormatFields<'writer> for Visible {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = Values(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

struct Values<'writer>(DefaultVisitor<'writer>);

impl Visit for Values<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        // The default writes the message as it is, and the value of each other field quoted.
        match field.name() == "message" {
            true => self
                .0
                .record_debug(field, &format_args!("{}", visible(value))),
            false => self.0.record_str(field, value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.0
            .record_debug(field, &format_args!("{}", visible(&text)));
    }
}
