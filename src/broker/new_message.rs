//! Messages that are no copies: those that a client or a handler publishes.

use super::headers::Properties;

/// A message to publish: persistent and mandatory.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    /// Empty for the default exchange, which routes to the queue that the routing key names.
    pub exchange: String,
    /// The routing key; at most 255 bytes.
    pub routing_key: String,
    /// The bytes.
    pub body: Vec<u8>,
    /// `message-id`. Without one, the client makes a UUIDv7.
    pub message_id: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// `type`.
    pub message_type: Option<String>,
    /// `correlation-id`.
    pub correlation_id: Option<String>,
    /// Headers, as text.
    pub headers: Vec<(String, String)>,
}

impl NewMessage {
    /// The message's properties, with this id and these headers.
    pub(crate) fn properties(&self, id: &str, headers: &[(String, String)]) -> Properties {
        let properties = Properties::new(
            id,
            self.content_type.as_deref(),
            self.message_type.as_deref(),
            headers,
        );
        match &self.correlation_id {
            Some(id) => properties.with_correlation_id(id),
            None => properties,
        }
    }
}
