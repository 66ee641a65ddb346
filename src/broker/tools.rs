//! What `lapwing topology` asks of the broker, apart from messages: about queues and bindings.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    BrokerError, QueueSpec, Rabbit,
    connection::Connection,
    topology::{self, Bound, Look, Survey},
};

/// Why the management API did not tell something, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The settings name no management API.
    NoManagement,
    /// It did not answer, or refused.
    Failed(String),
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoManagement => f.write_str("broker.management_url is not set"),
            Self::Failed(why) => write!(f, "broker.management_url: {why}"),
        }
    }
}

/// The bindings of a queue, as the management API lists them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bindings {
    /// Bindings that AMQP can make again.
    pub(crate) clear: Vec<Bound>,
    /// Bindings whose arguments have types that the API does not show.
    pub(crate) unclear: Vec<Bound>,
}

impl Rabbit {
    fn open_connection(&self) -> Result<Arc<Connection>, BrokerError> {
        let connection = self.consuming().current();
        connection.ok_or_else(|| BrokerError::Lost("not connected".to_owned()))
    }

    /// Runs requests about queues.
    async fn looking<T>(
        &self,
        requests: impl AsyncFnOnce(&mut Look<'_>) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        let connection = self.open_connection()?;
        let mut look = Look::new(&connection, self.timeouts().declare);
        let answer = requests(&mut look).await?;
        look.close().await;
        Ok(answer)
    }

    /// The virtual host of the connection.
    pub(crate) fn vhost(&self) -> Result<String, BrokerError> {
        Ok(self.open_connection()?.vhost.clone())
    }

    /// The user of the connection, as far as it is known.
    pub(crate) fn user(&self) -> Option<String> {
        self.open_connection().ok()?.trust().user()
    }

    /// What exists of a consumer's queues and exchanges. Creates nothing.
    pub(crate) async fn survey(&self, spec: &QueueSpec) -> Result<Survey, BrokerError> {
        let connection = self.open_connection()?;
        topology::survey(&connection, spec, self.timeouts().declare).await
    }

    /// Declares or compares the queues of consumers, as a worker does at its start.
    pub(crate) async fn ensure(&self, specs: &[QueueSpec]) -> Result<(), BrokerError> {
        let connection = self.open_connection()?;
        topology::ensure_all(&connection, specs, self.timeouts().declare).await
    }

    /// The ready messages and the consumers of a queue; `None` if there is no such queue.
    pub(crate) async fn counts(&self, queue: &str) -> Result<Option<(u32, u32)>, BrokerError> {
        self.looking(async |look| look.counts(queue).await).await
    }

    /// Whether a queue is a quorum queue; `None` if the broker does not let us find out.
    pub(crate) async fn is_quorum(&self, queue: &str) -> Result<Option<bool>, BrokerError> {
        self.looking(async |look| look.is_quorum(queue).await).await
    }

    /// Binds a queue.
    pub(crate) async fn bind(&self, queue: &str, bound: &Bound) -> Result<(), BrokerError> {
        self.looking(async |look| look.bind(queue, bound).await)
            .await
    }

    /// Unbinds a queue. A binding that does not exist is no error.
    pub(crate) async fn unbind(&self, queue: &str, bound: &Bound) -> Result<(), BrokerError> {
        self.looking(async |look| look.unbind(queue, bound).await)
            .await
    }

    /// Declares a queue for this connection alone. Returns false if another connection has it. The broker
    /// deletes it with the connection.
    pub(crate) async fn reserve(&self, queue: &str) -> Result<bool, BrokerError> {
        self.looking(async |look| look.reserve(queue).await).await
    }

    /// Deletes a classic queue without ready messages and consumers. The inner error is the broker's
    /// reason why it stays.
    pub(crate) async fn delete_idle(&self, queue: &str) -> Result<Result<(), String>, BrokerError> {
        self.looking(async |look| look.delete_idle(queue).await)
            .await
    }

    /// The bindings of a queue.
    pub(crate) async fn bindings(&self, queue: &str) -> Result<Bindings, Unknown> {
        let connection = self.open_connection().map_err(failed)?;
        let management = connection.management().ok_or(Unknown::NoManagement)?;
        let mut bindings = Bindings::default();
        for bound in management.bindings(queue).await.map_err(failed)? {
            match bound {
                Ok(bound) => bindings.clear.push(bound),
                Err(bound) => bindings.unclear.push(bound),
            }
        }
        Ok(bindings)
    }

    /// The deliveries of a classic queue that are not settled.
    pub(crate) async fn unsettled(&self, queue: &str) -> Result<u64, Unknown> {
        let connection = self.open_connection().map_err(failed)?;
        let management = connection.management().ok_or(Unknown::NoManagement)?;
        let unsettled = management.unsettled(queue).await.map_err(failed)?;
        unsettled.ok_or_else(|| Unknown::Failed("does not list the queue".to_owned()))
    }

    /// The queues that dead-letter to a queue, or may do so, by their arguments or policies.
    pub(crate) async fn leading_to(&self, queue: &str) -> Result<Vec<String>, Unknown> {
        let connection = self.open_connection().map_err(failed)?;
        let management = connection.management().ok_or(Unknown::NoManagement)?;
        let leading = shown(async || management.leading_to(queue).await).await?;
        leading
            .ok_or_else(|| Unknown::Failed("does not show the policies of all queues".to_owned()))
    }

    /// The definitions by which the policies of a queue remove messages that nobody has consumed.
    pub(crate) async fn removing(&self, queue: &str) -> Result<Vec<&'static str>, Unknown> {
        let connection = self.open_connection().map_err(failed)?;
        let management = connection.management().ok_or(Unknown::NoManagement)?;
        let policy = shown(async || management.policy(queue).await).await?;
        let policy = policy
            .ok_or_else(|| Unknown::Failed(format!("does not show the policies of {queue}")))?;
        Ok(removing(&policy))
    }
}

/// Asks until the API shows the policies. It does not for the first 5 s of a queue.
async fn shown<T, E: std::fmt::Display>(
    ask: impl AsyncFn() -> Result<Option<T>, E>,
) -> Result<Option<T>, Unknown> {
    const LONGEST: Duration = Duration::from_secs(15);
    const PAUSE: Duration = Duration::from_millis(250);
    let until = Instant::now() + LONGEST;
    loop {
        let answer = ask().await.map_err(failed)?;
        if answer.is_some() || Instant::now() >= until {
            return Ok(answer);
        }
        sleep(PAUSE).await;
    }
}

fn removing(policy: &serde_json::Value) -> Vec<&'static str> {
    let has = |name: &str| !policy[name].is_null();
    let is_limited = has("max-length") || has("max-length-bytes");
    let all = [
        ("message-ttl", has("message-ttl")),
        ("expires", has("expires")),
        (
            "overflow drop-head",
            is_limited && policy["overflow"] == "drop-head",
        ),
    ];
    let removing = all.into_iter().filter(|(_, is)| *is);
    removing.map(|(name, _)| name).collect()
}

fn failed(error: impl std::fmt::Display) -> Unknown {
    Unknown::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::removing;

    #[test]
    fn a_policy_that_removes_messages_is_known() {
        for (policy, names) in [
            (
                json!({"message-ttl": 1000, "expires": 1}),
                &["message-ttl", "expires"][..],
            ),
            (
                json!({"max-length": 5, "overflow": "drop-head"}),
                &["overflow drop-head"],
            ),
            (
                json!({"max-length-bytes": 5, "overflow": "reject-publish"}),
                &[],
            ),
            (json!({"max-length": 5}), &[]),
            (json!([]), &[]),
        ] {
            assert_eq!(removing(&policy), names, "{policy}");
        }
    }
}
