//! A binding as the broker has it.

use std::collections::BTreeMap;

use lapin::types::FieldTable;
use serde::Serialize;

use crate::{
    broker::{Binding, QueueArgument, headers::short},
    text::visible,
};

/// A binding of a queue, with the arguments that a headers exchange goes by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The exchange.
    pub exchange: String,
    /// The routing key or pattern.
    pub routing_key: String,
    /// The arguments.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, QueueArgument>,
}

impl From<&Binding> for Bound {
    fn from(binding: &Binding) -> Self {
        Self {
            exchange: binding.exchange.clone(),
            routing_key: binding.routing_key.clone(),
            arguments: BTreeMap::new(),
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let exchange = visible(&self.exchange);
        write!(f, "{exchange} with key {:?}", self.routing_key)?;
        match self.arguments.is_empty() {
            true => Ok(()),
            false => write!(f, " and {} arguments", self.arguments.len()),
        }
    }
}

impl Bound {
    pub(super) fn table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (key, value) in &self.arguments {
            table.insert(short(key), value.into());
        }
        table
    }
}
