//! What RabbitMQ writes into a message that it dead-letters.

use std::{sync::Arc, time::UNIX_EPOCH};

use lapin::types::{AMQPValue, FieldArray, FieldTable};

use super::{Release, message::Stored};
use crate::{
    broker::{Properties, headers::short},
    clock,
};

/// Why a message left a queue other than by an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Expired,
    DeliveryLimit,
    MaxLen,
    Rejected,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::DeliveryLimit => "delivery_limit",
            Self::MaxLen => "maxlen",
            Self::Rejected => "rejected",
        }
    }
}

/// One entry of `x-death`: all dead-letterings from one queue for one reason.
#[derive(Clone, Debug)]
pub(super) struct Death {
    queue: String,
    reason: Reason,
    count: i64,
    routing_key: Arc<str>,
    /// In seconds since 1970.
    time: u64,
    expiration: Option<String>,
}

impl Death {
    fn table(&self) -> AMQPValue {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let keys = FieldArray::from(vec![text(&self.routing_key)]);
        let mut table = FieldTable::default();
        let mut set = |name: &str, value| {
            table.insert(short(name), value);
        };
        set("count", AMQPValue::LongLongInt(self.count));
        set("exchange", text(""));
        set("queue", text(&self.queue));
        set("reason", text(self.reason.name()));
        set("routing-keys", AMQPValue::FieldArray(keys));
        set("time", AMQPValue::Timestamp(self.time));
        if let Some(expiration) = &self.expiration {
            set("original-expiration", text(expiration));
        }
        AMQPValue::FieldTable(table)
    }
}

impl Stored {
    /// Whether the queue already is in the message's past. RabbitMQ drops such a message, because
    /// it would go round without end. A rejection by a consumer would break the cycle, but the
    /// worker never rejects.
    pub(super) fn has_died_in(&self, queue: &str) -> bool {
        self.deaths.iter().any(|death| death.queue == queue)
    }

    /// The message as the target of a dead-lettering gets it. RabbitMQ removes the expiration, so
    /// that the message does not expire again at once, and writes `x-death` and similar headers.
    pub(super) fn dead_lettered(
        mut self,
        queue: &str,
        reason: Reason,
        key: &str,
        release: Release,
    ) -> Self {
        self.note_death(queue, reason);
        let headers = self.headers_after_death(queue, reason, release);
        let properties = without_expiration(&self.properties, headers);
        let mut moved = Self::new(key, &[], properties);
        moved.body = self.body;
        moved.deaths = self.deaths;
        // RabbitMQ 3.10 starts the count afresh, and 4.3 goes on counting. 4.0 only carries along
        // how often a channel closed.
        match release {
            Release::V3 => {}
            Release::V40 => {
                moved.carried = self.failed;
                moved.redelivered = self.failed > 0;
            }
            Release::V43 => {
                moved.delivery_count = self.delivery_count;
                moved.redelivered = self.delivery_count > 0;
            }
        }
        moved
    }

    fn note_death(&mut self, queue: &str, reason: Reason) {
        let is_same = |death: &Death| death.queue == queue && death.reason == reason;
        let time = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let death = match self.deaths.iter().position(is_same) {
            Some(at) => {
                let mut known = self.deaths.remove(at);
                known.count += 1;
                known
            }
            None => Death {
                queue: queue.to_owned(),
                reason,
                count: 1,
                routing_key: Arc::clone(&self.routing_key),
                time: time.as_secs(),
                expiration: self
                    .expiration()
                    .map(|expiration| expiration.as_millis().to_string()),
            },
        };
        self.deaths.insert(0, death);
    }

    fn headers_after_death(&self, queue: &str, reason: Reason, release: Release) -> FieldTable {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let properties = self.properties.to_amqp();
        let mut headers: FieldTable = properties.headers().clone().unwrap_or_default();
        let deaths = self.deaths.iter().map(Death::table).collect::<Vec<_>>();
        headers.insert(short("x-death"), AMQPValue::FieldArray(deaths.into()));
        let values = [
            ("queue", queue),
            ("reason", reason.name()),
            ("exchange", ""),
        ];
        for (name, value) in values {
            let first = short(&format!("x-first-death-{name}"));
            if !headers.contains_key(first.as_str()) {
                headers.insert(first, text(value));
            }
            if release != Release::V3 {
                headers.insert(short(&format!("x-last-death-{name}")), text(value));
            }
        }
        headers
    }
}

fn without_expiration(properties: &Properties, headers: FieldTable) -> Properties {
    let properties = properties.to_amqp();
    let mut kept = lapin::BasicProperties::default();
    macro_rules! keep {
        ($($get:ident => $set:ident),*) => {
            $(if let Some(value) = properties.$get().clone() { kept = kept.$set(value); })*
        };
    }
    keep!(
        content_type => with_content_type,
        content_encoding => with_content_encoding,
        delivery_mode => with_delivery_mode,
        priority => with_priority,
        correlation_id => with_correlation_id,
        reply_to => with_reply_to,
        message_id => with_message_id,
        timestamp => with_timestamp,
        kind => with_type,
        user_id => with_user_id,
        app_id => with_app_id,
        cluster_id => with_cluster_id
    );
    kept.with_headers(headers).into()
}
