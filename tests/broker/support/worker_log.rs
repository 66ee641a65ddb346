//! Reads the worker's log: one JSON object for each line, the ledger of the drain in the last.

use std::fmt::Write;

use lapwing::Ledger;
use serde_json::Value;

/// The number of lines that a failure shows.
const TAIL: usize = 40;

/// The message of the line that holds the ledger.
const DRAINED: &str = "drained";

/// A field of a log line, at any of the log format's places; `Null` if it is missing.
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

/// The end of a log, for the message of a failure.
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

/// The ledger in a log line: how every delivery ended. `None` if it is another line or one of these
/// figures is missing.
pub fn ledger(line: &Value) -> Option<Ledger> {
    if message(line) != DRAINED {
        return None;
    }
    let figure = |name| field(line, name).as_u64();
    let mut ledger = Ledger::default();
    ledger.received = figure("received")?;
    ledger.acked = figure("acked")?;
    ledger.parked = figure("parked")?;
    ledger.dead_lettered = figure("dead_lettered")?;
    ledger.returned = figure("returned")?;
    ledger.copied = figure("copied")?;
    ledger.stale = figure("stale")?;
    Some(ledger)
}

/// Asserts that every delivery ended in exactly one way.
#[track_caller]
pub fn assert_adds_up(ledger: &Ledger) {
    let ended =
        ledger.acked + ledger.parked + ledger.dead_lettered + ledger.returned + ledger.stale;
    assert_eq!(
        ledger.received, ended,
        "deliveries received and deliveries ended: {ledger:?}"
    );
}
