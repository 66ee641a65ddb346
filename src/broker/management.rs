//! What only the management API of the broker shows: the delivery limit that a policy sets.

use std::time::Duration;

use reqwest::{Certificate, Client};
use serde_json::Value;
use url::Url;

use super::{BrokerSettings, dial::Target, error::BrokerError, topology::DeliveryLimit};

/// The longest that one question may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The management API, for one virtual host. It is only read, with the user of the connection.
pub(super) struct Management {
    client: Client,
    base: Url,
    vhost: String,
    user: String,
    password: String,
}

/// Why the API did not tell a limit.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManagementError {
    #[error("the URL cannot be extended")]
    Url,
    #[error(transparent)]
    Request(#[from] reqwest::Error),
    #[error("{0}")]
    Refused(reqwest::StatusCode),
    #[error("the answer is no JSON: {0}")]
    Unreadable(#[from] serde_json::Error),
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

    /// The delivery limit that a queue's arguments and policies set.
    pub(super) async fn delivery_limit(
        &self,
        queue: &str,
    ) -> Result<DeliveryLimit, ManagementError> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| ManagementError::Url)?
            .pop_if_empty()
            .extend(["api", "queues", &self.vhost, queue]);
        let request = self.client.get(url);
        let request = request.basic_auth(&self.user, Some(&self.password));
        let answer = request.send().await?;
        if !answer.status().is_success() {
            return Err(ManagementError::Refused(answer.status()));
        }
        Ok(limit_of(&serde_json::from_str(&answer.text().await?)?))
    }
}

/// The limit of a queue as the API describes it. Of a limit of its own and one of a policy the smaller
/// counts, and a negative one is none.
fn limit_of(queue: &Value) -> DeliveryLimit {
    if queue["type"] != "quorum" {
        return DeliveryLimit::None;
    }
    let own = queue["arguments"]["x-delivery-limit"].as_i64();
    let policy = queue["effective_policy_definition"]["delivery-limit"].as_i64();
    let limit = match (own, policy) {
        (Some(own), Some(policy)) if own < 0 || policy < 0 => Some(own.max(policy)),
        (Some(own), Some(policy)) => Some(own.min(policy)),
        (own, policy) => own.or(policy),
    };
    match limit {
        None => DeliveryLimit::OfTheRelease,
        Some(limit) => u64::try_from(limit).map_or(DeliveryLimit::None, DeliveryLimit::Own),
    }
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
                Value::Null,
                DeliveryLimit::None,
            ),
        ];
        for (arguments, policy, limit) in cases {
            let queue = json!({
                "type": "quorum",
                "arguments": arguments,
                "effective_policy_definition": policy,
            });
            assert_eq!(limit_of(&queue), limit, "{queue}");
        }
        assert_eq!(limit_of(&json!({"type": "classic"})), DeliveryLimit::None);
    }

    /// The management API of a broker whose virtual host and queue need encoding.
    async fn api(path: &str) -> Management {
        let answer = |uri: Uri| async move {
            match uri.path() {
                "/rabbit/api/queues/a%2Fb/q%2F1" => (
                    axum::http::StatusCode::OK,
                    r#"{"type":"quorum","arguments":{"x-delivery-limit":6}}"#,
                ),
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
            assert_eq!(found.unwrap(), DeliveryLimit::Own(6));
        }
        let missing = api("").await.delivery_limit("q/1").await.unwrap_err();
        assert_eq!(missing.to_string(), "404 Not Found");
    }
}
