//! What only the management API of the broker shows: policies, bindings, and deliveries that are not
//! settled.

mod shown;
mod watched;

use std::time::Duration;

use reqwest::{Certificate, Client, StatusCode};
use serde_json::Value;
use url::Url;

use super::{Bound, BrokerSettings, dial::Target, error::BrokerError, topology::DeliveryLimit};
pub(crate) use shown::QueueShown;
use shown::{bound, is_by_bindings, leading, limit_of};
pub(super) use watched::Watched;

/// The longest that one question may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest that a list of all queues may take. Only tools ask for such lists.
const LIST_LIMIT: Duration = Duration::from_secs(30);

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
            Ok(shown) => Ok(Some(QueueShown::of(shown))),
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

#[cfg(test)]
mod tests {
    use axum::{Router, http::Uri};
    use tokio::net::TcpListener;

    use super::*;
    use crate::broker::{dial::amqp_uri, wire::Offers};

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
