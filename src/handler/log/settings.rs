//! `handler = { kind = "log" }`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LogHandler;
use crate::{
    config::{Findings, KeyPath},
    handler::{
        Handler, HandlerError, HandlerFuture, Reached,
        kind::{Classes, Kind},
    },
};

/// The handler writes each message to the log at level `info`: id, type, routing key, headers and the
/// first 2 KiB of the body, secrets included. It has no other keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogHandlerSettings {}

impl Kind for LogHandlerSettings {
    fn make(&self, _: u16) -> Result<Arc<dyn Handler>, HandlerError> {
        Ok(Arc::new(LogHandler))
    }

    fn check(&self, _: &mut Findings, _: &KeyPath) {}

    fn classes(&self) -> Classes {
        Classes::closed(&[])
    }

    fn reach(&self) -> HandlerFuture<'_, Result<Reached, HandlerError>> {
        let reached = Reached {
            what: "the log of the worker".to_owned(),
            certificates: Vec::new(),
            is_away: false,
        };
        Box::pin(async { Ok(reached) })
    }
}
