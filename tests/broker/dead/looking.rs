//! Commands that change nothing.

use lapin::types::{AMQPValue, FieldTable};
use lapwing::{Failure, handler::Json};
use serde_json::{Value, json};

use super::{DEAD, QUEUE, dead, ids, json, letter, letters, numbered, output, run};
use crate::support::{DEADLINE, Got, PublishSpec, QueueType, consumer, vhost, within};

#[tokio::test]
async fn letters_are_listed_grouped_and_shown() {
    let vhost = letters(25).await;

    let listed = json(&vhost, &["list", "--limit", "5"]).await;
    let listed: Vec<_> = listed.iter().map(|letter| letter["id"].as_str()).collect();
    let all = numbered(25);
    assert_eq!(
        listed,
        all[..5]
            .iter()
            .map(|id| Some(id.as_str()))
            .collect::<Vec<_>>()
    );
    let newest = json(&vhost, &["list", "--newest", "--limit", "2"]).await;
    assert_eq!(
        (&newest[0]["id"], &newest[1]["id"]),
        (&json!(all[24]), &json!(all[23]))
    );

    let [groups] = &json(&vhost, &["groups"]).await[..] else {
        panic!("one document")
    };
    let groups: Vec<_> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| &group["count"])
        .collect();
    assert_eq!(groups, [&json!(22), &json!(3)]);
    let text = output(&vhost, &["groups"]).await;
    assert!(
        text.contains("88%") && text.contains("00000000000000bb"),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let text = output(&vhost, &["list", "--limit", "0"]).await;
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );

    let shown = output(&vhost, &["show", &all[10]]).await;
    for wanted in [
        "the card was declined",
        "\"number\": 10",
        "lapwing-attempts: 8",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    assert_eq!(
        output(&vhost, &["show", &all[3], "--body"]).await,
        "{\"number\":3}"
    );
    let (code, _, err) = run(&vhost, &["show", "nothing"]).await;
    assert!(
        code == Some(1) && err.contains("no letter of orders.dead"),
        "{err}"
    );

    assert_eq!(ids(&vhost, DEAD).await, all);
}

#[tokio::test]
async fn looks_keep_every_letter_in_its_place() {
    let limits = [
        (
            QueueType::Quorum,
            vec![("x-delivery-limit", AMQPValue::LongLongInt(100_000))],
        ),
        (QueueType::Quorum, vec![]),
        (QueueType::Classic, vec![]),
    ];
    for (kind, arguments) in limits {
        let vhost = vhost().await;
        vhost.declare_with(DEAD, kind, &arguments).await;
        vhost.publish_many(DEAD, 500, letter).await;
        assert_eq!(json(&vhost, &["list", "--limit", "7"]).await.len(), 7);
        assert_eq!(json(&vhost, &["list", "--limit", "0"]).await.len(), 500);
        assert_eq!(json(&vhost, &["list", "--limit", "300"]).await.len(), 300);
        assert_eq!(
            ids(&vhost, DEAD).await,
            numbered(500),
            "{kind:?} {arguments:?}"
        );
    }
}

#[tokio::test]
async fn no_look_takes_the_last_delivery_of_a_letter() {
    let vhost = vhost().await;
    let few = [("x-delivery-limit", AMQPValue::LongLongInt(3))];
    vhost.declare_with(DEAD, QueueType::Quorum, &few).await;
    vhost.publish_many(DEAD, 10, letter).await;
    for _ in 0..8 {
        assert_eq!(json(&vhost, &["list"]).await.len(), 10);
    }
    let mut left = ids(&vhost, DEAD).await;
    left.sort();
    assert_eq!(left, numbered(10));
}

#[tokio::test]
async fn an_exported_letter_comes_back_with_the_same_bytes_and_types() {
    let vhost = letters(0).await;
    let mut table = FieldTable::default();
    table.insert("small".into(), AMQPValue::ShortShortInt(-3));
    table.insert("bytes".into(), AMQPValue::ByteArray(vec![0, 255].into()));
    let spec = PublishSpec::to(DEAD)
        .body([0xff, 0x00, 0x01])
        .id("strange")
        .header("table", AMQPValue::FieldTable(table))
        .header(
            "list",
            AMQPValue::FieldArray(vec![AMQPValue::Boolean(true)].into()),
        )
        .header("not-utf-8", AMQPValue::LongString(vec![0xfe, 0xff].into()))
        .header("time", AMQPValue::Timestamp(7))
        .header("half", AMQPValue::Float(0.5))
        .with(|it| {
            it.with_priority(3)
                .with_timestamp(9)
                .with_correlation_id("c".into())
        });
    vhost.publish_with(spec).await;
    vhost.publish_many(DEAD, 3, letter).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("letters.jsonl");
    let file = file.to_str().expect("a plain name");

    output(&vhost, &["export", "--file", file]).await;
    let mut before = vhost.drain_all(DEAD).await;
    output(&vhost, &["import", file]).await;
    let mut after = vhost.drain_all(DEAD).await;

    assert_eq!((before.len(), after.len()), (4, 4));
    before.sort_by_key(|got| got.id().to_owned());
    after.sort_by_key(|got| got.id().to_owned());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(after.body, before.body);
        let headers = |got: &Got| {
            let headers = got.properties.headers().clone().unwrap_or_default();
            let mut headers = headers.inner().clone();
            // The broker's own counts.
            headers.retain(|name, _| !name.as_str().starts_with("x-"));
            headers
        };
        assert_eq!(headers(after), headers(before));
        let (before, after) = (&before.properties, &after.properties);
        assert_eq!(after.priority(), before.priority());
        assert_eq!(after.correlation_id(), before.correlation_id());
        assert_eq!(after.timestamp(), before.timestamp());
    }
    let (code, _, err) = run(&vhost, &["export", "--file", file]).await;
    assert!(
        code == Some(1) && err.contains("failed to create"),
        "a file is not replaced: {err}"
    );
}

#[tokio::test]
async fn the_letters_of_a_worker_have_their_story() {
    let vhost = vhost().await;
    let refuse = async |Json(body): Json<Value>| match body["good"].as_bool() {
        Some(true) => Ok(()),
        _ => Err(Failure::permanent("test", "this one is bad")),
    };
    let worker = consumer(&vhost, QUEUE).start_with(refuse).await;
    let id = vhost.publish(QUEUE, "{\"good\":false}").await;
    vhost.wait_for_counts(DEAD, 1, 0, DEADLINE).await;
    drop(worker);

    let [shown] = &json(&vhost, &["show", &id]).await[..] else {
        panic!("one letter")
    };
    assert_eq!(shown["summary"]["reason"], "rejected");
    assert_eq!(shown["summary"]["origin"], "lapwing");
    assert_eq!(shown["summary"]["error"], "this one is bad");
    assert_eq!(shown["summary"]["source_queue"], QUEUE);
    assert_eq!(shown["history"][0]["attempt"], 1);
    assert_eq!(shown["letter"]["body"]["text"], "{\"good\":false}");
}

#[tokio::test]
async fn a_pipe_that_is_closed_ends_the_command_and_keeps_the_letters() {
    let vhost = letters(300).await;
    let mut child = dead(&vhost, &["list", "--limit", "0"])
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    within("the command", child.wait()).await.expect("it ends");
    vhost.wait_for_counts(DEAD, 300, 0, DEADLINE).await;
    assert_eq!(ids(&vhost, DEAD).await, numbered(300));
}
