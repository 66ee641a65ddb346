use lapin::types::FieldTable;
use serde_json::json;

use super::*;
use crate::broker::{
    copies::{CopyHeaders, Header, Terms, copy_properties},
    fake::Letter,
};

fn rungs() -> Rungs {
    Rungs::named("orders", "later")
}

fn read(letter: Letter) -> Properties {
    Trust::of("worker").read(&rungs(), Properties::from(letter).to_amqp())
}

fn ours(properties: &Properties) -> Vec<&str> {
    let names = properties.headers().map(|(name, _)| name);
    names.filter(|name| name.starts_with(OURS)).collect()
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// One entry of `x-death`.
fn death(queue: &str, reason: &str) -> AMQPValue {
    let mut table = FieldTable::default();
    table.insert(short("queue"), text(queue));
    table.insert(short("reason"), text(reason));
    AMQPValue::FieldTable(table)
}

/// The properties with the headers of a broker that moved the message out of this queue.
fn died(properties: BasicProperties, queue: &str) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    let before = match headers.inner().get(X_DEATH) {
        Some(AMQPValue::FieldArray(before)) => before.as_slice().to_vec(),
        _ => Vec::new(),
    };
    let deaths = [vec![death(queue, "expired")], before].concat();
    headers.insert(short(X_DEATH), AMQPValue::FieldArray(deaths.into()));
    for (what, value) in [("queue", queue), ("reason", "expired"), ("exchange", "")] {
        let first = short(&format!("x-first-death-{what}"));
        if !headers.contains_key(first.as_str()) {
            headers.insert(first, text(value));
        }
        headers.insert(short(&format!("x-last-death-{what}")), text(value));
    }
    properties.with_headers(headers)
}

/// A copy as a worker parks it, after its time in the retry queue.
fn parked(original: &Properties, user: &str, rung: &str) -> BasicProperties {
    let copy = CopyHeaders {
        expiration: Some(2_000),
        set: vec![
            (
                names::FIRST_SEEN,
                Header::Text("2026-01-01T00:00:00Z".to_owned()),
            ),
            (names::ATTEMPTS, Header::Int(3)),
            (
                names::SOURCE_ROUTING_KEY,
                Header::Text("eu.paid".to_owned()),
            ),
        ],
        comes_back: true,
        ..CopyHeaders::default()
    };
    let terms = Terms {
        user: Some(user.to_owned()),
        ..Terms::default()
    };
    died(copy_properties(original, &copy, &terms), rung)
}

#[test]
fn headers_that_no_worker_wrote_are_removed() {
    let forged = Letter::default()
        .number("lapwing-attempts", 6)
        .header("lapwing-first-seen", "2020-01-01T00:00:00Z")
        .header("lapwing-source-routing-key", "admin.delete-everything")
        .header("lapwing-not-before", "9999-12-31T23:59:59Z")
        .header("lapwing-original-user-id", "root")
        .header("tenant", "blue");
    for letter in [forged.clone(), forged.user_id("shop")] {
        let read = read(letter.clone());
        assert_eq!(ours(&read), Vec::<&str>::new());
        assert_eq!(read.header("tenant").unwrap().as_str(), Some("blue"));
        assert_eq!(read.user_id(), Properties::from(letter).user_id());
    }
}

#[test]
fn the_list_of_cut_headers_stays_because_the_byte_stream_writes_it() {
    let read = read(Letter::default().header("lapwing-cut-headers", "long"));
    assert_eq!(ours(&read), ["lapwing-cut-headers"]);
}

#[test]
fn a_copy_of_a_trusted_user_is_read_as_the_publisher_wrote_the_message() {
    let letter = Letter::default()
        .user_id("shop")
        .transient(7)
        .header("tenant", "blue");
    let original = Properties::from(letter);
    let trust = Trust::of("worker");
    let copy = parked(&original, "worker", "later.2s");
    assert_eq!(
        *copy.priority(),
        None,
        "it would hold up others in the retry queue"
    );
    let copy = trust.read(&rungs(), copy);
    assert_eq!(copy.user_id(), Some("shop"));
    assert_eq!(copy.priority(), Some(7));
    assert_eq!(copy.expiration(), None);
    let expected = [
        "lapwing-attempts",
        "lapwing-first-seen",
        "lapwing-source-routing-key",
    ];
    assert_eq!(ours(&copy), expected);
    let others = copy
        .headers()
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with(OURS));
    assert_eq!(
        others.collect::<Vec<_>>(),
        ["tenant"],
        "nothing of the retry queue"
    );
    let nobody = trust.read(
        &rungs(),
        parked(&Properties::default(), "worker", "later.2s"),
    );
    assert_eq!(nobody.user_id(), None);
}

#[test]
fn a_copy_in_the_place_of_a_message_keeps_its_priority_and_what_other_systems_wrote() {
    let letter = Letter::default().user_id("shop").transient(7);
    let original = died(Properties::from(letter).to_amqp(), "theirs");
    let original = Properties(original);
    let first_seen = Header::Text("2026-01-01T00:00:00Z".to_owned());
    let copy = CopyHeaders {
        set: vec![(names::FIRST_SEEN, first_seen)],
        comes_back: true,
        keeps_priority: true,
        ..CopyHeaders::default()
    };
    let terms = Terms {
        user: Some("worker".to_owned()),
        ..Terms::default()
    };
    let copy = copy_properties(&original, &copy, &terms);
    assert_eq!(*copy.priority(), Some(7));
    assert!(!copy.headers().as_ref().unwrap().contains_key(X_DEATH));
    let copy = Trust::of("worker").read(&rungs(), copy);
    assert_eq!((copy.user_id(), copy.priority()), (Some("shop"), Some(7)));
    for name in DEATHS {
        let value = |of: &Properties| of.header(name).map(|it| it.to_json());
        assert_eq!(value(&copy), value(&original), "{name}");
        assert!(value(&copy).is_some(), "{name}");
    }
}

#[test]
fn a_copy_of_another_user_is_believed_where_that_can_only_shorten_its_life() {
    for queue in ["later.2s", "orders.retry.2s", "orders.retry.quorum.2s"] {
        let copy = parked(&Properties::default(), "other", queue);
        let copy = Trust::of("worker").read(&rungs(), copy);
        assert_eq!(
            ours(&copy),
            ["lapwing-attempts", "lapwing-first-seen"],
            "{queue}"
        );
        assert_eq!(copy.user_id(), None);
        assert!(copy.header(X_DEATH).is_none());
    }
}

#[test]
fn the_former_users_and_those_of_the_settings_are_trusted() {
    let trust = Trust::default();
    let broker = BrokerSettings {
        trusted_users: vec!["friend".to_owned()],
        ..BrokerSettings::default()
    };
    trust.connecting(&broker, "old");
    trust.connecting(&broker, "new");
    assert_eq!(trust.user().as_deref(), Some("new"));
    for user in ["old", "new", "friend"] {
        assert!(trust.vouches(user), "{user}");
    }
    assert!(!trust.vouches("shop") && !trust.vouches(""));
}

#[test]
fn the_name_is_learned_from_the_brokers_refusal() {
    let trust = Trust::of("guest");
    let guest = Some("guest");
    assert!(!trust.learn("connection lost", guest));
    let chosen = "NOT_FOUND - no exchange 'authenticated user was 'x'' in vhost '/' (404)";
    assert!(
        !trust.learn(chosen, guest),
        "an exchange that a handler has chosen"
    );
    assert_eq!(trust.user().as_deref(), Some("guest"));
    let refusal = "PRECONDITION_FAILED - user_id property set to 'guest' but authenticated user was \
                   'O=it's us' (406)";
    assert!(trust.learn(refusal, guest));
    assert!(trust.learn(refusal, guest), "of a copy that was under way");
    assert!(!trust.learn(refusal, Some("O=it's us")));
    let cut_off =
        "PRECONDITION_FAILED - user_id property set to 'O=it's us' but authenticated user was 'CN=";
    assert!(!trust.learn(cut_off, Some("O=it's us")));
    assert_eq!(trust.user().as_deref(), Some("O=it's us"));
    trust.connecting(&BrokerSettings::default(), "guest");
    assert_eq!(trust.user().as_deref(), Some("O=it's us"), "the same URL");
    let broker = BrokerSettings {
        user: Some("set".to_owned()),
        ..BrokerSettings::default()
    };
    trust.connecting(&broker, "guest");
    assert_eq!(trust.user().as_deref(), Some("set"));
}

#[test]
fn a_dead_letter_that_is_put_back_begins_anew() {
    let dead = Letter::default()
        .header("lapwing-first-seen", "2026-01-01T00:00:00Z")
        .header("lapwing-reason", "max-attempts")
        .number("lapwing-attempts", 3)
        .number("lapwing-replays", 1)
        .header("lapwing-source-routing-key", "eu.paid")
        .header("lapwing-original-user-id", "shop");
    let by_another = read(dead.clone());
    assert_eq!(ours(&by_another), ["lapwing-replays"]);
    assert_eq!(
        by_another.header("lapwing-replays").unwrap().as_i64(),
        Some(2)
    );
    assert_eq!(by_another.user_id(), None);
    let by_a_worker = read(dead.user_id("worker"));
    assert_eq!(
        ours(&by_a_worker),
        ["lapwing-replays", "lapwing-source-routing-key"]
    );
    assert_eq!(by_a_worker.user_id(), Some("shop"));
}

#[test]
fn what_another_system_wrote_about_deaths_survives_every_retry() {
    let rejected = died(BasicProperties::default(), "billing");
    let original = Properties::from(rejected);
    let trust = Trust::of("worker");
    let mut message = original.clone();
    for round in 0..3 {
        let copy = parked(&message, "worker", "later.2s");
        let headers = copy.headers().as_ref().unwrap();
        let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get(X_DEATH) else {
            panic!("{headers:?}")
        };
        assert_eq!(deaths.as_slice(), [death("later.2s", "expired")], "{round}");
        message = trust.read(&rungs(), copy);
        for name in DEATHS {
            let json = |it: &Properties| it.header(name).map(|value| value.to_json());
            assert_eq!(json(&message), json(&original), "{name}");
        }
    }
    let dead = CopyHeaders::default().on(&message);
    let queue = json!([{"queue": "billing", "reason": "expired"}]);
    assert_eq!(dead.header(X_DEATH).unwrap().to_json(), queue);
    assert!(dead.header("lapwing-original-x-death").is_none());
}

#[test]
fn a_strange_x_death_is_kept_as_it_is() {
    let original = Properties::from(Letter::default().header("x-death", "garbage"));
    let copy = parked(&original, "worker", "later.2s");
    let read = Trust::of("worker").read(&rungs(), copy);
    assert_eq!(read.header(X_DEATH).unwrap().as_str(), Some("garbage"));
}

#[test]
fn a_copy_from_a_retry_queue_with_a_former_name_shows_nothing_of_it() {
    let copy = parked(&Properties::default(), "worker", "former.2s");
    let read = Trust::of("worker").read(&rungs(), copy);
    assert!(
        DEATHS.iter().all(|name| read.header(name).is_none()),
        "{read:?}"
    );
}
