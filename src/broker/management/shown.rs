//! What the management API describes, read from its JSON.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::broker::{Bound, QueueArgument, topology::DeliveryLimit};

/// Whether only bindings decide where messages of this exchange go. Plugins have other types, and a policy
/// may name an alternate exchange.
pub(super) fn is_by_bindings(exchange: &Value) -> bool {
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
pub(super) fn leading(listed: &Value, queue: &str) -> Option<Vec<String>> {
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
pub(super) fn bound(listed: &Value) -> Option<Result<Bound, Bound>> {
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

/// The limit of a queue as the API describes it; `None` if the description has no policies yet. Of a limit
/// of its own and one of a policy the smaller counts, and a negative one is none.
pub(super) fn limit_of(queue: &Value) -> Option<DeliveryLimit> {
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
    use serde_json::json;

    use super::*;

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
}
