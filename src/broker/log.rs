//! The log lines and spans of the AMQP library.
//!
//! The worker tells each fault in a line of its own, with what it does next. The library tells it in
//! several lines, and claims to give up ("aborting recovery") when the worker goes on.

/// The name of the library in a log filter, such as `info,lapin=info`.
pub(crate) const LIBRARY: &str = "lapin";

/// Whether a line or span with this target comes from the library.
pub(crate) fn is_of_library(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or_default();
    name.starts_with(LIBRARY) || name.starts_with("amq_protocol")
}

/// Whether a line must not be written, whatever the filter says. At level `trace` the library prints
/// every frame, including the one with the password. For a returned message it prints all bytes as
/// numbers; the worker's own line says what happened to the message. The client of PostgreSQL prints the
/// values of parameters below `info`: they are bodies and keys of messages.
pub(crate) fn is_indiscreet(line: &tracing::Metadata<'_>) -> bool {
    let is_trace = *line.level() == tracing::Level::TRACE && is_of_library(line.target());
    let is_of_postgres = line.target().starts_with("tokio_postgres");
    let has_values = *line.level() > tracing::Level::INFO && is_of_postgres;
    is_trace || has_values || line.target() == "lapin::returned_messages"
}
