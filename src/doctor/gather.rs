//! Looks at broker and handlers. Creates, consumes and stores nothing.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::scene::{
    BrokerSeen, ConsumerSeen, ExchangeSeen, HandlerSeen, PlaceSeen, Scene, Surroundings, TargetSeen,
};
use crate::{
    broker::{BrokerError, Examiner, Place, QueueSeen, QueueShown, Role, Version, places},
    certificates,
    consumer::ConsumerSettings,
    settings::Settings,
};

/// Looks at everything.
pub(super) async fn gather<'a>(settings: &'a Settings, around: &'a Surroundings) -> Scene<'a> {
    let mut scene = Scene::at_start(settings, around);
    let (broker, handlers) = tokio::join!(broker(settings), handlers(settings));
    (scene.places, scene.broker) = broker;
    scene.handlers = handlers;
    scene
}

/// Tries each URL, and looks at the broker over the first connection.
async fn broker(settings: &Settings) -> (Result<Vec<PlaceSeen>, String>, BrokerSeen) {
    let places = match places(&settings.broker).await {
        Ok(places) => places,
        Err(error) => return (Err(error.to_string()), BrokerSeen::default()),
    };
    let mut tried = Vec::new();
    let mut seen = None;
    for place in &places {
        let connected = Examiner::connect(place, &settings.timeouts).await;
        let version = match connected {
            Ok(examiner) => {
                let version = examiner.version();
                if seen.is_none() {
                    seen = Some(look(settings, place, &examiner).await);
                }
                examiner.close().await;
                Ok(version)
            }
            Err(error) => Err(error),
        };
        tried.push(tell(settings, place, version).await);
    }
    (Ok(tried), seen.unwrap_or_default())
}

async fn tell(
    settings: &Settings,
    place: &Place,
    connected: Result<Option<Version>, BrokerError>,
) -> PlaceSeen {
    let certificates = match place.is_tls {
        false => Vec::new(),
        true => {
            let limit = settings.timeouts.connect;
            let shown = certificates::shown_by(&place.host, place.port, None, limit).await;
            shown.map(|(shown, _)| shown).unwrap_or_default()
        }
    };
    PlaceSeen {
        at: place.at(),
        user: place.user.clone(),
        vhost: place.vhost.clone(),
        connected,
        certificates,
    }
}

async fn look(settings: &Settings, place: &Place, examiner: &Examiner) -> BrokerSeen {
    let mut seen = BrokerSeen {
        version: examiner.version(),
        user: place.user.clone(),
        vhost: place.vhost.clone(),
        ..BrokerSeen::default()
    };
    for (name, consumer) in &settings.consumers {
        let found = look_at(consumer, examiner, &mut seen.management).await;
        seen.consumers.insert(name.clone(), found);
    }
    // A broker with an alarm reads no more of a connection that publishes: so this comes last.
    for (name, consumer) in &settings.consumers {
        if let Some(target) = forward(consumer, examiner).await
            && let Some(found) = seen.consumers.get_mut(name)
        {
            found.forward = Some(target);
        }
    }
    seen.publish = Some(examiner.may_publish("").await);
    seen
}

async fn look_at(
    consumer: &ConsumerSettings,
    examiner: &Examiner,
    management: &mut Option<String>,
) -> ConsumerSeen {
    let queues = examiner.queues(&consumer.queue_spec()).await;
    let mut shown = BTreeMap::new();
    for seen in &queues {
        // An API that does not answer is asked once.
        if management.is_some() {
            break;
        }
        match examiner.shown(&seen.queue).await {
            Ok(Some(it)) => drop(shown.insert(seen.queue.clone(), it)),
            Ok(None) => {}
            Err(error) => *management = Some(error.to_string()),
        }
    }
    let mut bindings = Vec::new();
    for binding in &consumer.bindings {
        bindings.push(ExchangeSeen {
            exchange: binding.exchange.clone(),
            exists: examiner.exchange_exists(&binding.exchange).await,
            bind: examiner.may_bind(&consumer.queue, &binding.exchange).await,
        });
    }
    let work = queues.iter().find(|seen| seen.role == Role::Work);
    let target = work.and_then(|work| dead_letter_target(work, shown.get(&work.queue)));
    let dead_letters = match target {
        Some((exchange, key)) => Some(target_of(examiner, exchange, Some(key)).await),
        None => None,
    };
    ConsumerSeen {
        consume: Some(examiner.may_consume(&consumer.queue).await),
        queues,
        shown,
        bindings,
        forward: None,
        dead_letters,
    }
}

/// The exchange and the key to which the broker dead-letters the messages of a queue. Arguments count
/// more than policies.
fn dead_letter_target(work: &QueueSeen, shown: Option<&QueueShown>) -> Option<(String, String)> {
    let value = |name: &str| {
        let argument = format!("x-{name}");
        let own = work
            .arguments
            .as_ref()
            .and_then(|it| it.get(&argument).cloned());
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let told = || shown?.argument(name).and_then(text);
        let policy = || shown?.policy(name).and_then(text);
        own.or_else(told).or_else(policy)
    };
    let exchange = value("dead-letter-exchange")?;
    let key = value("dead-letter-routing-key").unwrap_or_else(|| work.queue.clone());
    Some((exchange, key))
}

async fn target_of(examiner: &Examiner, exchange: String, key: Option<String>) -> TargetSeen {
    let is_default = exchange.is_empty();
    let exists = match (&key, is_default) {
        (Some(queue), true) => examiner.queue_exists(queue).await,
        (None, true) => None,
        (_, false) => examiner.exchange_exists(&exchange).await,
    };
    let routes = match is_default || exists == Some(false) {
        true => None,
        false => examiner.routes(&exchange).await.ok().flatten(),
    };
    TargetSeen {
        queue: key.filter(|_| is_default),
        exchange,
        exists,
        routes,
        publish: None,
    }
}

/// Where the consumer publishes results.
async fn forward(consumer: &ConsumerSettings, examiner: &Examiner) -> Option<TargetSeen> {
    let forward = &consumer.forward;
    let key = forward.routing_key.clone()?;
    let exchange = forward.exchange.clone();
    // A key with names in braces is another one for each message.
    let key = (!key.contains('{')).then_some(key);
    let mut target = target_of(examiner, exchange.clone(), key).await;
    if !exchange.is_empty() {
        target.publish = Some(examiner.may_publish(&exchange).await);
    }
    Some(target)
}

/// Asks each handler whether what it needs is there.
async fn handlers(settings: &Settings) -> Vec<HandlerSeen> {
    let all = settings.handlers().map(|(at, handler)| async move {
        HandlerSeen {
            at,
            reached: handler.reach().await,
            settings: handler.clone(),
        }
    });
    join_all(all).await
}
