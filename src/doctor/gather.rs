//! Looks at broker and handlers. Creates, consumes and stores nothing.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::{
    in_force::InForce,
    scene::{
        BrokerSeen, ConsumerSeen, ExchangeSeen, HandlerSeen, PlaceSeen, Scene, Surroundings,
        TargetSeen,
    },
};
use crate::{
    broker::{Access, BrokerError, Examiner, Place, QueueRole, Standing, Survey, Version, places},
    certificates,
    config::KeyPath,
    consumer::ConsumerSettings,
    handler::{HandlerError, Reached},
    settings::Settings,
};

/// Looks at everything.
pub(super) async fn gather<'a>(settings: &'a Settings, around: &'a Surroundings) -> Scene<'a> {
    let mut scene = Scene::at_start(settings, around);
    let (broker, handlers, inboxes) =
        tokio::join!(broker(settings), handlers(settings), inboxes(settings));
    (scene.places, scene.broker) = broker;
    scene.handlers = handlers;
    scene.inboxes = inboxes;
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
    let management = examiner.greet_management().await.err();
    let mut seen = BrokerSeen {
        management: management.map(|error| error.to_string()),
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
    ask_to_publish(settings, examiner, &mut seen).await;
    seen
}

/// Asks whether the user may publish, until the broker blocks the connection.
async fn ask_to_publish(settings: &Settings, examiner: &Examiner, seen: &mut BrokerSeen) {
    let first = examiner.may_publish("", None).await;
    let mut is_blocked = first == Access::Blocked;
    seen.publish = Some(first);
    for (name, consumer) in &settings.consumers {
        let found = seen.consumers.get_mut(name);
        let target = found.and_then(|it| it.forward.as_mut());
        let Some(target) = target.filter(|it| !is_blocked && !it.exchange.is_empty()) else {
            continue;
        };
        let key = key_of_results(consumer);
        let access = examiner.may_publish(&target.exchange, key.as_deref()).await;
        is_blocked = access == Access::Blocked;
        target.publish = Some(access);
        if is_blocked {
            seen.publish = Some(Access::Blocked);
        }
    }
}

async fn look_at(
    consumer: &ConsumerSettings,
    examiner: &Examiner,
    management: &mut Option<String>,
) -> ConsumerSeen {
    let Survey { queues, exchanges } = examiner.survey(&consumer.queue_spec()).await;
    let mut shown = BTreeMap::new();
    for seen in &queues {
        // An API that does not answer is asked once.
        if management.is_some() {
            break;
        }
        match examiner.shown(seen.name()).await {
            Ok(Some(it)) => drop(shown.insert(seen.name().to_owned(), it)),
            Ok(None) => {}
            Err(error) => *management = Some(error.to_string()),
        }
    }
    let mut bindings = Vec::new();
    for binding in &consumer.bindings {
        bindings.push(ExchangeSeen {
            exchange: binding.exchange.clone(),
            is_missing: exchanges.contains(&(binding.exchange.clone(), Standing::Missing)),
            bind: examiner.may_bind(&consumer.queue, binding).await,
        });
    }
    let work = queues.iter().find(|seen| seen.role == QueueRole::Work);
    let values = work.map(|work| InForce::new(work, shown.get(work.name())));
    let value = |key: &str| values.as_ref()?.value(key);
    let dead_letters = match value("dead-letter-exchange") {
        // Without a key of the queue, a letter keeps its own.
        Some(exchange) => {
            let key = value("dead-letter-routing-key");
            Some(target_of(examiner, exchange, key).await)
        }
        None => None,
    };
    ConsumerSeen {
        consume: Some(examiner.may_consume(&consumer.queue).await),
        queues,
        shown,
        bindings,
        forward: forward(consumer, examiner).await,
        dead_letters,
    }
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
    forward.routing_key.as_ref()?;
    let exchange = forward.exchange.clone();
    Some(target_of(examiner, exchange, key_of_results(consumer)).await)
}

/// The key of results. A key with names in braces is another one for each message.
fn key_of_results(consumer: &ConsumerSettings) -> Option<String> {
    let key = consumer.forward.routing_key.clone();
    key.filter(|key| !key.contains('{'))
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

/// Asks each database of an inbox whether the table is there.
async fn inboxes(settings: &Settings) -> Vec<(KeyPath, Result<Reached, HandlerError>)> {
    let all = settings.consumers.iter().flat_map(|(name, consumer)| {
        let at = KeyPath::of("consumers").key(name).key("idempotency");
        let tables = consumer.inbox_tables().into_iter();
        tables.map(move |table| (at.clone(), table))
    });
    let asked = all.map(|(at, table)| async move { (at, table.reach().await) });
    join_all(asked).await
}
