//! Reading the worker's log: one JSON object a line, the ledger of the drain last.

use std::fmt::Write;

use serde_json::Value;

/// How many lines a failure shows.
const TAIL: usize = 40;

/// The message of the line that holds the ledger.
const DRAINED: &str = "drained";

/// A field of a log line, wherever the log format puts it; `Null` where it is not there.
pub fn field<'line>(line: &'line Value, name: &str) -> &'line Value {
    match line.get("fields").and_then(|fields| fields.get(name)) {
        Some(value) => value,
        None => line.get(name).unwrap_or(&Value::Null),
    }
}

/// The message of a log line; empty where it has none.
pub fn message(line: &Value) -> &str {
    field(line, "message").as_str().unwrap_or_default()
}

/// The end of a log, to be shown with a failure.
pub fn tail(lines: &[Value]) -> String {
    let mut text = format!("its log has {} lines, the last ones:", lines.len());
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        match line {
            Value::String(line) => write!(text, "\n  {line}"),
            line => write!(text, "\n  {line}"),
        }
        .expect("a string takes any text");
    }
    text
}

/// What the worker says became of every delivery, in its last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainLedger {
    /// Deliveries it got.
    pub received: u64,
    /// Handled, or dropped at the handler's wish.
    pub acked: u64,
    /// Put aside for a later attempt.
    pub parked: u64,
    /// Moved to the dead-letter queue.
    pub dead_lettered: u64,
    /// Given back unhandled.
    pub returned: u64,
    /// Lost with their channel; the broker delivers them again.
    pub stale: u64,
}

impl DrainLedger {
    /// The ledger in a log line; `None` where it is another line or a figure is missing.
    pub fn of(line: &Value) -> Option<Self> {
        if message(line) != DRAINED {
            return None;
        }
        let figure = |name| field(line, name).as_u64();
        Some(Self {
            received: figure("received")?,
            acked: figure("acked")?,
            parked: figure("parked")?,
            dead_lettered: figure("dead_lettered")?,
            returned: figure("returned")?,
            stale: figure("stale")?,
        })
    }

    /// Every delivery ended in exactly one way.
    #[track_caller]
    pub fn assert_adds_up(&self) {
        let ended = self.acked + self.parked + self.dead_lettered + self.returned + self.stale;
        assert_eq!(
            self.received, ended,
            "deliveries received and deliveries ended: {self:?}"
        );
    }
}
