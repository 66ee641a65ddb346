//! Publishing on the fake broker: confirms, returns, and the copies that nobody was told of.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};

use super::{FakeBroker, script::Confirm};
use crate::broker::{
    Properties, Publication, PublishError, Written, copies::copy_properties, headers::short,
};

/// The frame size that copies must fit, as RabbitMQ's default.
const FRAME_MAX: usize = 131_072;

/// The longest that a publisher waits for a confirm, as `timeouts.confirm` by default.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);

/// The user of the worker's connections.
const USER: &str = "guest";

/// A copy that the broker has stored, while the publisher does not know it.
struct Untold<'a> {
    broker: &'a FakeBroker,
    is_told: bool,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.broker.lock().untold_copies += 1;
        }
    }
}

impl FakeBroker {
    /// Copies that the broker has stored although their publisher does not know it. Each of them may
    /// be there twice.
    pub(crate) fn untold_copies(&self) -> u64 {
        self.read().untold_copies
    }

    pub(super) async fn confirmed(&self, message: &Publication<'_>) -> Result<(), PublishError> {
        let confirm = {
            let mut model = self.lock();
            if !model.publishing {
                return Err(PublishError::NoChannel("not connected".to_owned()));
            }
            if *model.blocked.borrow() {
                return Err(PublishError::Blocked);
            }
            model.script.confirms.pop_front().unwrap_or_default()
        };
        let properties: Properties = match &message.properties {
            Written::Copy(original, headers) => {
                copy_properties(original, headers, FRAME_MAX).into()
            }
            Written::New(properties) => (*properties).clone(),
        };
        self.check_user(&properties)?;
        let store = || {
            let stored = self.route(message.routing_key, message.body, properties);
            stored.ok_or_else(|| PublishError::Returned("NO_ROUTE (312)".to_owned()))
        };
        match confirm {
            Confirm::Ack => store(),
            Confirm::AckAfter(delay) => {
                let stored = store();
                self.confirm_after(delay, stored).await
            }
            Confirm::Nack => Err(PublishError::Nacked),
            Confirm::Return => Err(PublishError::Returned("NO_ROUTE (312)".to_owned())),
            Confirm::Lost => {
                store()?;
                self.lock().untold_copies += 1;
                Err(lost())
            }
            Confirm::NeverWritten => Err(lost()),
        }
    }

    /// Confirms after this time, unless the publisher stops to wait before, or its connection is lost.
    async fn confirm_after(
        &self,
        delay: Duration,
        stored: Result<(), PublishError>,
    ) -> Result<(), PublishError> {
        let mut untold = Untold {
            broker: self,
            is_told: stored.is_err(),
        };
        tokio::select! {
            biased;
            () = self.until(|it| !it.read().publishing) => Err(lost()),
            () = tokio::time::sleep(delay.min(CONFIRM_LIMIT)) => {
                if delay > CONFIRM_LIMIT {
                    return Err(PublishError::Unconfirmed("no confirm in time".to_owned()));
                }
                untold.is_told = true;
                stored
            }
        }
    }

    /// RabbitMQ closes the channel of a publish whose `user-id` is not the connection's user.
    fn check_user(&self, properties: &Properties) -> Result<(), PublishError> {
        let properties = properties.to_amqp();
        let Some(user) = properties.user_id().as_ref().map(|user| user.as_str()) else {
            return Ok(());
        };
        if user == USER {
            return Ok(());
        }
        let text = format!("PRECONDITION_FAILED - user_id property set to '{user}' (406)");
        self.lock().violations.push(text.clone());
        Err(PublishError::Unconfirmed(text))
    }
}

fn lost() -> PublishError {
    PublishError::Unconfirmed("connection lost".to_owned())
}

/// The further queues that a message asks for by its `CC` and `BCC` headers, and the properties that
/// it is stored with: RabbitMQ takes the `BCC` header off.
pub(super) fn carbon_copies(properties: Properties) -> (Vec<String>, Properties) {
    let inner = properties.to_amqp();
    let Some(headers) = inner.headers() else {
        return (Vec::new(), properties);
    };
    let names = |header: &str| match headers.inner().get(header) {
        Some(AMQPValue::FieldArray(names)) => {
            let text = |name: &AMQPValue| match name {
                AMQPValue::LongString(name) => Some(name.to_string()),
                _ => None,
            };
            names.as_slice().iter().filter_map(text).collect()
        }
        _ => Vec::new(),
    };
    let queues = [names("CC"), names("BCC")].concat();
    let mut kept = headers.inner().clone();
    if queues.is_empty() || kept.remove(&short("BCC")).is_none() {
        return (queues, properties);
    }
    (queues, inner.with_headers(FieldTable::from(kept)).into())
}
