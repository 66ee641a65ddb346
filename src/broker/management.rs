//! What only the management API of the broker shows: policies, bindings, and deliveries that are not
//! settled.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Certificate, Client, StatusCode};
use serde_json::Value;
use tokio::{task::AbortHandle, time::sleep};
use tracing::warn;
use url::Url;

use super::{
    Bound, BrokerSettings, QueueArgument, Tolerance, connection::Connection, dial::Target,
    error::BrokerError, topology::DeliveryLimit,
};
use crate::lock::lock;

/// The longest that one question may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest that a list of all queues may take. Only tools ask for such lists.
const LIST_LIMIT: Duration = Duration::from_secs(30);
/// The time until the next question: a policy can change.
const AGAIN: Duration = Duration::from_secs(60);
/// The time until the next question about a queue that is new.
const SOON: Duration = Duration::from_secs(1);

/// The management API, for one virtual host. It is only read, with the user of the connection.
pub(super) struct Management {
    client: Client,
    base: Url,
    vhost: String,
    user: String,
    password: String,
}

/// Why the API did not tell something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManagementError {
    #[error("the URL cannot be extended")]
    Url,
    #[error(transparent)]
    Request(#[from] reqwest::Error),
    #[error("{0}")]
    Refused(StatusCode),
    #[error("the answer is no JSON: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the answer is not one of RabbitMQ")]
    Other,
}

impl Management {
    /// The management API of the broker that a connection goes to, if `broker.management_url` is set.
    pub(super) async fn of(
        broker: &BrokerSettings,
        target: &Target,
    ) -> Result<Option<Self>, BrokerError> {
        let Some(url) = &broker.management_url else {
            return Ok(None);
        };
        let unusable = |why: String| BrokerError::Settings(format!("broker.management_url: {why}"));
        let base = Url::parse(url).map_err(|_| unusable("is not a URL".to_owned()))?;
        let mut client = Client::builder().timeout(LIMIT).no_proxy();
        if base.scheme() == "http" {
            // Otherwise a system without certificate authorities would be refused.
            client = client.tls_certs_only([]);
        } else if let Some(file) = &broker.tls.ca_file {
            let pem = super::dial::read(file).await?;
            let authorities = Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|error| unusable(error.to_string()))?;
            client = match broker.tls.system_authorities {
                true => client.tls_certs_merge(authorities),
                false => client.tls_certs_only(authorities),
            };
        }
        let client = client
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let user = &target.amqp.authority.userinfo;
        Ok(Some(Self {
            client,
            base,
            vhost: target.amqp.vhost.clone(),
            user: user.username.clone(),
            password: user.password.clone(),
        }))
    }

    /// The delivery limit that a queue's arguments and policies set; `None` for the first seconds of a
    /// queue, in which the broker does not show its policies.
    async fn delivery_limit(&self, queue: &str) -> Result<Option<DeliveryLimit>, ManagementError> {
        let path = ["queues", &self.vhost, queue];
        let queue = self.get(&path, None, LIMIT).await?;
        Ok(limit_of(&queue))
    }

    /// What the API shows of a queue; `None`: there is no such queue.
    pub(super) async fn queue(&self, queue: &str) -> Result<Option<QueueShown>, ManagementError> {
        match self.get(&["queues", &self.vhost, queue], None, LIMIT).await {
            Ok(shown) => Ok(Some(QueueShown(shown))),
            Err(ManagementError::Refused(StatusCode::NOT_FOUND)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the exchange routes to anything; `None`: something else than bindings decides.
    pub(super) async fn routes(&self, exchange: &str) -> Result<Option<bool>, ManagementError> {
        let path = ["exchanges", &self.vhost, exchange, "bindings", "source"];
        let bindings = self.get(&path, None, LIMIT).await?;
        if bindings.as_array().is_some_and(|all| !all.is_empty()) {
            return Ok(Some(true));
        }
        let exchange = self.get(&path[..3], None, LIMIT).await?;
        Ok(is_by_bindings(&exchange).then_some(false))
    }

    /// Asks for the user itself, which the API answers for each user with a tag.
    ///
    /// # Errors
    /// When this is no management API, or the user may not ask it.
    pub(super) async fn greet(&self) -> Result<(), ManagementError> {
        let user = self.get(&["whoami"], None, LIMIT).await?;
        match user["name"].is_string() {
            true => Ok(()),
            false => Err(ManagementError::Other),
        }
    }

    /// The bindings of a queue to exchanges, apart from that of the default exchange. An error is a
    /// binding with arguments whose AMQP types JSON does not show.
    pub(super) async fn bindings(
        &self,
        queue: &str,
    ) -> Result<Vec<Result<Bound, Bound>>, ManagementError> {
        let path = ["queues", &self.vhost, queue, "bindings"];
        let listed = self.get(&path, None, LIST_LIMIT).await?;
        let listed = listed.as_array().into_iter().flatten();
        Ok(listed.filter_map(bound).collect())
    }

    /// The deliveries of a classic queue that are not settled. The list of all queues with totals asks
    /// the queues themselves; the description of one queue is up to 5 s old. `None` if the list does not
    /// tell.
    pub(super) async fn unsettled(&self, queue: &str) -> Result<Option<u64>, ManagementError> {
        let query = "disable_stats=true&enable_queue_totals=true";
        let path = ["queues", &self.vhost];
        let listed = self.get(&path, Some(query), LIST_LIMIT).await?;
        let mut listed = listed.as_array().into_iter().flatten();
        let found = listed.find(|it| it["name"] == queue);
        Ok(found.and_then(|it| it["messages_unacknowledged"].as_u64()))
    }

    /// The queues that dead-letter to a queue, or may do so, by their arguments or policies. `None`: the
    /// API does not show the policies of each queue, as in the first seconds of a queue.
    pub(super) async fn leading_to(
        &self,
        queue: &str,
    ) -> Result<Option<Vec<String>>, ManagementError> {
        let query = "columns=name,arguments,effective_policy_definition";
        let path = ["queues", &self.vhost];
        let listed = self.get(&path, Some(query), LIST_LIMIT).await?;
        Ok(leading(&listed, queue))
    }

    /// What the policies of a queue set. `None`: the API does not show it yet.
    pub(super) async fn policy(&self, queue: &str) -> Result<Option<Value>, ManagementError> {
        let path = ["queues", &self.vhost, queue];
        let queue = self.get(&path, None, LIMIT).await?;
        Ok(queue.get("effective_policy_definition").cloned())
    }

    async fn get(
        &self,
        path: &[&str],
        query: Option<&str>,
        limit: Duration,
    ) -> Result<Value, ManagementError> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| ManagementError::Url)?
            .pop_if_empty()
            .push("api")
            .extend(path);
        url.set_query(query);
        let request = self.client.get(url).timeout(limit);
        let request = request.basic_auth(&self.user, Some(&self.password));
        let answer = request.send().await?;
        if !answer.status().is_success() {
            return Err(ManagementError::Refused(answer.status()));
        }
        Ok(serde_json::from_str(&answer.text().await?)?)
    }
}

/// Whether only bindings decide where messages of this exchange go. Plugins have other types, and a policy
/// may name an alternate exchange.
fn is_by_bindings(exchange: &Value) -> bool {
    let kind = exchange["type"].as_str().unwrap_or_default();
    let policy = exchange["policy"].as_str().unwrap_or_default();
    let alternate = exchange["arguments"].get("alternate-exchange");
    ["direct", "fanout", "topic", "headers"].contains(&kind)
        && policy.is_empty()
        && alternate.is_none()
}

/// A queue, as the management API describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueueShown(Value);

impl QueueShown {
    /// A queue that is described like this.
    #[cfg(test)]
    pub(crate) fn of(description: Value) -> Self {
        Self(description)
    }

    /// The value of an argument, without `x-`.
    pub(crate) fn argument(&self, name: &str) -> Option<&Value> {
        self.0["arguments"].get(format!("x-{name}"))
    }

    /// What policies set for the queue.
    pub(crate) fn policy(&self, name: &str) -> Option<&Value> {
        self.0["effective_policy_definition"].get(name)
    }

    /// The names of the policies that apply to the queue.
    pub(crate) fn policies(&self) -> String {
        let named = ["policy", "operator_policy"].map(|key| self.0[key].as_str());
        let named = named.into_iter().flatten();
        let named: Vec<_> = named.filter(|name| !name.is_empty()).collect();
        named.join("`, `")
    }

    /// The name of the policy that applies to the queue, apart from one of an operator.
    pub(crate) fn own_policy(&self) -> Option<&str> {
        self.0["policy"].as_str().filter(|name| !name.is_empty())
    }

    /// Whether the description has the policies. That of a new queue has none for some seconds.
    pub(crate) fn shows_policies(&self) -> bool {
        self.0.get("effective_policy_definition").is_some()
    }

    /// The delivery limit; `None` while the broker does not show it.
    pub(crate) fn delivery_limit(&self) -> Option<DeliveryLimit> {
        limit_of(&self.0)
    }

    /// The messages of the queue, and their bytes.
    pub(crate) fn holds(&self) -> (u64, u64) {
        let number = |key: &str| self.0[key].as_u64().unwrap_or_default();
        (number("messages"), number("message_bytes"))
    }
}

/// The queues of a list that dead-letter to a queue, or may do so. The exchange and the routing key can
/// each be set by an argument or by a policy, so each pair of them counts. Without a routing key a
/// message keeps its own, which is not known.
fn leading(listed: &Value, queue: &str) -> Option<Vec<String>> {
    let mut leading = Vec::new();
    for it in listed.as_array()? {
        let name = it["name"].as_str()?;
        let policy = it.get("effective_policy_definition")?;
        let arguments = &it["arguments"];
        let set = |name: &str| {
            let argument = &arguments[format!("x-{name}")];
            [argument.as_str(), policy[name].as_str()]
        };
        let is_direct = set("dead-letter-exchange").contains(&Some(""));
        let keys = set("dead-letter-routing-key");
        let may_lead = keys == [None, None] || keys.contains(&Some(queue));
        if name != queue && is_direct && may_lead {
            leading.push(name.to_owned());
        }
    }
    Some(leading)
}

/// Reads a binding; `None` for that of the default exchange.
fn bound(listed: &Value) -> Option<Result<Bound, Bound>> {
    let text = |name: &str| listed[name].as_str().unwrap_or_default().to_owned();
    let exchange = text("source");
    if exchange.is_empty() {
        return None;
    }
    let mut is_clear = true;
    let mut arguments = BTreeMap::new();
    // Without arguments there may be an empty list.
    for (name, value) in listed["arguments"].as_object().into_iter().flatten() {
        let value = match value {
            Value::String(text) => QueueArgument::Text(text.clone()),
            Value::Bool(is) => QueueArgument::Bool(*is),
            other => {
                is_clear = false;
                QueueArgument::Text(other.to_string())
            }
        };
        arguments.insert(name.clone(), value);
    }
    let bound = Bound {
        exchange,
        routing_key: text("routing_key"),
        arguments,
    };
    Some(if is_clear { Ok(bound) } else { Err(bound) })
}

/// What a queue tolerates. With a management API it is kept up to date while this value lives.
pub(super) struct Watched {
    tolerance: Arc<Mutex<Tolerance>>,
    asking: Option<AbortHandle>,
}

impl Watched {
    /// A queue that tolerates this, by its arguments. Waits for the first answer of the API.
    pub(super) async fn new(connection: &Arc<Connection>, queue: &str, first: Tolerance) -> Self {
        let tolerance = Arc::new(Mutex::new(first));
        if connection.management().is_none() {
            let asking = None;
            return Self { tolerance, asking };
        }
        let (connection, queue) = (Arc::clone(connection), queue.to_owned());
        let mut told = false;
        let next = ask(&connection, &queue, &tolerance, &mut told).await;
        let known = Arc::clone(&tolerance);
        let asking = tokio::spawn(async move {
            let mut next = next;
            loop {
                sleep(next).await;
                next = ask(&connection, &queue, &known, &mut told).await;
            }
        });
        let asking = Some(asking.abort_handle());
        Self { tolerance, asking }
    }

    pub(super) fn tolerance(&self) -> Tolerance {
        *lock(&self.tolerance)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(asking) = &self.asking {
            asking.abort();
        }
    }
}

/// Asks the management API once. Returns the time until the next question.
async fn ask(
    connection: &Connection,
    queue: &str,
    tolerance: &Mutex<Tolerance>,
    told: &mut bool,
) -> Duration {
    let Some(management) = connection.management() else {
        return AGAIN;
    };
    match management.delivery_limit(queue).await {
        Ok(Some(limit)) => {
            lock(tolerance).limit = limit;
            *told = false;
            AGAIN
        }
        Ok(None) => SOON,
        Err(error) => {
            if !mem::replace(told, true) {
                warn!(queue, %error, "broker.management_url does not tell the delivery limit of the queue: the worker goes by what it knows");
            }
            AGAIN
        }
    }
}

/// The limit of a queue as the API describes it; `None` if the description has no policies yet. Of a limit
/// of its own and one of a policy the smaller counts, and a negative one is none.
fn limit_of(queue: &Value) -> Option<DeliveryLimit> {
    if queue["type"] != "quorum" {
        return Some(DeliveryLimit::None);
    }
    let own = queue["arguments"]["x-delivery-limit"].as_i64();
    let policy = queue.get("effective_policy_definition")?["delivery-limit"].as_i64();
    let limit = match (own, policy) {
        (Some(own), Some(policy)) if own < 0 || policy < 0 => Some(own.max(policy)),
        (Some(own), Some(policy)) => Some(own.min(policy)),
        (own, policy) => own.or(policy),
    };
    Some(match limit {
        None => DeliveryLimit::OfTheRelease,
        Some(limit) => u64::try_from(limit).map_or(DeliveryLimit::None, DeliveryLimit::Own),
    })
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::Uri};
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::broker::{dial::amqp_uri, wire::Offers};

    #[test]
    fn the_smaller_of_argument_and_policy_counts_and_a_negative_one_is_none() {
        let cases = [
            (json!({}), json!([]), DeliveryLimit::OfTheRelease),
            (
                json!({"x-delivery-limit": 5}),
                json!({}),
                DeliveryLimit::Own(5),
            ),
            (
                json!({}),
                json!({"delivery-limit": 7}),
                DeliveryLimit::Own(7),
            ),
            (
                json!({"x-delivery-limit": 5}),
                json!({"delivery-limit": 7}),
                DeliveryLimit::Own(5),
            ),
            (
                json!({"x-delivery-limit": -1}),
                json!({"delivery-limit": 7}),
                DeliveryLimit::Own(7),
            ),
            (
                json!({"x-delivery-limit": -1}),
                json!({}),
                DeliveryLimit::None,
            ),
        ];
        for (arguments, policy, limit) in cases {
            let queue = json!({
                "type": "quorum",
                "arguments": arguments,
                "effective_policy_definition": policy,
            });
            assert_eq!(limit_of(&queue), Some(limit), "{queue}");
        }
        let classic = json!({"type": "classic"});
        assert_eq!(limit_of(&classic), Some(DeliveryLimit::None));
        let new = json!({"type": "quorum", "arguments": {"x-delivery-limit": 5}});
        assert_eq!(limit_of(&new), None, "its policies are not shown yet");
    }

    #[test]
    fn each_queue_that_may_dead_letter_to_a_queue_is_found() {
        let listed = |arguments: Value, policy: Value| json!([{"name": "q", "arguments": arguments, "effective_policy_definition": policy}]);
        let (exchange, key) = ("x-dead-letter-exchange", "x-dead-letter-routing-key");
        for (arguments, policy) in [
            (json!({exchange: "", key: "orders"}), json!({})),
            (json!({exchange: ""}), json!([])),
            (
                json!({}),
                json!({"dead-letter-exchange": "", "dead-letter-routing-key": "orders"}),
            ),
            (
                json!({exchange: ""}),
                json!({"dead-letter-routing-key": "orders"}),
            ),
            (json!({key: "orders"}), json!({"dead-letter-exchange": ""})),
            (
                json!({exchange: "shop"}),
                json!({"dead-letter-exchange": ""}),
            ),
        ] {
            let found = leading(&listed(arguments, policy), "orders");
            assert_eq!(found, Some(vec!["q".to_owned()]));
        }
        for (arguments, policy) in [
            (json!({}), json!([])),
            (json!({exchange: "", key: "other"}), json!({})),
            (json!({exchange: "shop", key: "orders"}), json!({})),
        ] {
            assert_eq!(
                leading(&listed(arguments, policy), "orders"),
                Some(Vec::new())
            );
        }
        let new = json!([{"name": "q", "arguments": {}}]);
        assert_eq!(
            leading(&new, "orders"),
            None,
            "its policies are not shown yet"
        );
    }

    #[test]
    fn a_binding_is_read_unless_json_hides_the_types_of_its_arguments() {
        let listed = |source: &str, arguments: Value| json!({"source": source, "routing_key": "k", "arguments": arguments});
        let of = |arguments: &[(&str, QueueArgument)]| Bound {
            exchange: "x".to_owned(),
            routing_key: "k".to_owned(),
            arguments: arguments
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        assert_eq!(bound(&listed("", json!({}))), None);
        assert_eq!(bound(&listed("x", json!([]))), Some(Ok(of(&[]))));
        let text = |text: &str| QueueArgument::Text(text.to_owned());
        let clear = listed("x", json!({"x-match": "all", "big": true}));
        let expected = of(&[("x-match", text("all")), ("big", QueueArgument::Bool(true))]);
        assert_eq!(bound(&clear), Some(Ok(expected)));
        let hidden = listed("x", json!({"size": 5}));
        assert_eq!(bound(&hidden), Some(Err(of(&[("size", text("5"))]))));
    }

    /// The management API of a broker whose virtual host and queue need encoding.
    async fn api(path: &str) -> Management {
        let answer = |uri: Uri| async move {
            match uri.path() {
                "/rabbit/api/queues/a%2Fb/q%2F1" => (
                    axum::http::StatusCode::OK,
                    r#"{"type":"quorum","effective_policy_definition":{"delivery-limit":6}}"#,
                ),
                "/rabbit/api/whoami" => (axum::http::StatusCode::OK, r#"{"name":"worker"}"#),
                "/rabbit/api/exchanges/a%2Fb/plain" => (
                    axum::http::StatusCode::OK,
                    r#"{"type":"topic","arguments":{}}"#,
                ),
                "/rabbit/api/exchanges/a%2Fb/other" => (
                    axum::http::StatusCode::OK,
                    r#"{"type":"topic","arguments":{"alternate-exchange":"rest"}}"#,
                ),
                "/rabbit/api/exchanges/a%2Fb/bound/bindings/source" => {
                    (axum::http::StatusCode::OK, "[{}]")
                }
                path if path.ends_with("/bindings/source") => (axum::http::StatusCode::OK, "[]"),
                _ => (axum::http::StatusCode::NOT_FOUND, "{}"),
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}{path}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        let broker = BrokerSettings {
            management_url: Some(url),
            ..BrokerSettings::default()
        };
        let target = amqp_uri("amqp://host/a%2Fb", &broker, &Offers::default()).await;
        let api = Management::of(&broker, &target.unwrap()).await.unwrap();
        api.unwrap()
    }

    #[tokio::test]
    async fn a_queue_is_asked_for_by_its_name() {
        for path in ["/rabbit", "/rabbit/"] {
            let found = api(path).await.delivery_limit("q/1").await;
            assert_eq!(found.unwrap(), Some(DeliveryLimit::Own(6)));
        }
        let missing = api("").await.delivery_limit("q/1").await.unwrap_err();
        assert_eq!(missing.to_string(), "404 Not Found");
    }

    #[tokio::test]
    async fn another_web_server_is_no_management_api() {
        assert!(api("/rabbit").await.greet().await.is_ok());
        assert!(api("/wrong").await.greet().await.is_err());
    }

    #[tokio::test]
    async fn an_exchange_leads_nowhere_only_if_bindings_alone_decide() {
        let api = api("/rabbit").await;
        for (exchange, routes) in [
            ("bound", Some(true)),
            ("plain", Some(false)),
            ("other", None),
        ] {
            assert_eq!(api.routes(exchange).await.unwrap(), routes, "{exchange}");
        }
    }
}
