//! Which handler a message goes to.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{handler::Handler, message::Message, outcome::Ending};

/// A lane's handlers: by message type, and one for the rest.
#[derive(Clone, Default)]
pub(crate) struct Dispatch {
    pub(crate) by_type: HashMap<String, Arc<dyn Handler>>,
    pub(crate) any: Option<Arc<dyn Handler>>,
}

impl Dispatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_type.is_empty() && self.any.is_none()
    }

    /// All handlers.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = &Arc<dyn Handler>> {
        self.by_type.values().chain(&self.any)
    }

    /// The message's handler, or the ending `Unroutable`.
    pub(crate) fn route(&self, message: &Message) -> Result<&Arc<dyn Handler>, Ending> {
        let message_type = message.message_type().unwrap_or_default();
        let typed = match self.by_type.is_empty() {
            true => None,
            false => self.by_type.get(message_type),
        };
        typed
            .or(self.any.as_ref())
            .ok_or_else(|| Ending::Unroutable {
                message_type: message_type.to_owned(),
            })
    }
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dispatch({} by type)", self.by_type.len())
    }
}
