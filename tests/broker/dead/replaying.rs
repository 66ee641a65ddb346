//! Commands that change something.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use lapin::{
    options::{BasicConsumeOptions, BasicRejectOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use super::{DEAD, QUEUE, dead, ids, json, letters, numbered, output, run};
use crate::support::{DEADLINE, QueueType, VHost, vhost, wait_until, within};

#[tokio::test]
async fn a_replay_moves_the_letters_that_are_selected() {
    let vhost = letters(50).await;
    let dry = json(
        &vhost,
        &["replay", "--group", "00000000000000aa", "--dry-run"],
    )
    .await;
    assert_eq!(dry[0]["would_replay"], json!({ QUEUE: 5 }));
    let (code, _, err) = run(&vhost, &["replay", "--group", "00000000000000aa"]).await;
    assert!(code == Some(1) && err.contains("pass --yes"), "{err}");
    let (code, _, err) = run(&vhost, &["replay", "--yes"]).await;
    assert!(code == Some(2), "nothing is selected: {err}");

    let replayed = json(&vhost, &["replay", "--group", "00000000000000aa", "--yes"]).await;
    assert_eq!(replayed[0]["replayed"], 5);

    let at_source = vhost.drain_all(QUEUE).await;
    assert_eq!(at_source.len(), 5);
    for got in &at_source {
        assert_eq!(got.header("lapwing-replays"), &json!(1));
        assert_eq!(got.header("lapwing-attempts"), &json!(null));
        assert_eq!(got.header("lapwing-first-seen"), &json!(null));
    }
    let left: Vec<_> = ids(&vhost, DEAD).await;
    let expected: Vec<_> = numbered(50)
        .into_iter()
        .filter(|id| !id.ends_with('0'))
        .collect();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn what_another_program_rejected_is_replayed_to_where_it_came_from() {
    let vhost = vhost().await;
    vhost.declare(DEAD, QueueType::Classic).await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let arguments = [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(DEAD)),
    ];
    vhost
        .declare_with("billing", QueueType::Classic, &arguments)
        .await;
    vhost.publish("billing", "{}").await;
    reject_one(&vhost, "billing").await;
    vhost.wait_for_counts(DEAD, 1, 0, DEADLINE).await;

    let listed = json(&vhost, &["list"]).await;
    assert_eq!(listed[0]["reason"], "broker:rejected");
    assert_eq!(listed[0]["source_queue"], "billing");
    output(&vhost, &["replay", "--all", "--yes"]).await;
    vhost.wait_for_counts("billing", 1, 0, DEADLINE).await;
    vhost.wait_for_counts(DEAD, 0, 0, DEADLINE).await;

    reject_one(&vhost, "billing").await;
    vhost.wait_for_counts(DEAD, 1, 0, DEADLINE).await;
    let again = json(&vhost, &["list"]).await;
    assert_eq!(
        (&again[0]["replays"], &again[0]["reason"]),
        (&json!(1), &json!("broker:rejected"))
    );
}

/// Rejects the next message of a queue, as a program that is not Lapwing does.
#[expect(clippy::disallowed_methods, reason = "this is another program")]
async fn reject_one(vhost: &VHost, queue: &str) {
    let channel = vhost.channel().await;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consuming = channel.basic_consume(queue.into(), "other".into(), options, none);
    let mut consumer = within("a consume", consuming)
        .await
        .expect("the queue exists");
    let delivery = within("a delivery", consumer.next()).await;
    let delivery = delivery
        .expect("the channel is open")
        .expect("the channel is open");
    let requeue = BasicRejectOptions { requeue: false };
    delivery
        .acker
        .reject(requeue)
        .await
        .expect("the channel is open");
    let closing = channel.close(200, "done".into());
    within("closing a channel", closing)
        .await
        .expect("an open channel closes");
}

#[tokio::test]
async fn letters_are_dropped_only_when_they_are_selected() {
    let vhost = letters(20).await;
    let (code, _, _) = run(&vhost, &["drop", "--yes"]).await;
    assert_eq!(code, Some(2));
    let all = numbered(20);
    let dry = output(&vhost, &["drop", &all[3], &all[7], "--dry-run"]).await;
    assert_eq!(dry, "would drop 2 letters of orders.dead\n");
    output(&vhost, &["drop", &all[3], &all[7], "--yes"]).await;
    output(&vhost, &["drop", "--match", "/number=9", "--yes"]).await;
    let gone = [&all[3], &all[7], &all[9]];
    let left: Vec<_> = all
        .iter()
        .filter(|id| !gone.contains(id))
        .cloned()
        .collect();
    assert_eq!(ids(&vhost, DEAD).await, left);
}

#[tokio::test]
async fn an_edited_letter_has_the_new_body() {
    let vhost = letters(3).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let editor = folder.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nprintf '{\"number\":100}' > \"$1\"\n").expect("a file");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&editor, permissions).expect("the file is ours");
    let all = numbered(3);
    let mut command = dead(&vhost, &["edit", &all[1], "--yes"]);
    command.env("EDITOR", &editor).env_remove("VISUAL");
    let ended = within("the command", command.output())
        .await
        .expect("it starts");
    let err = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{err}");
    assert!(
        err.contains("-   \"number\": 1") && err.contains("+   \"number\": 100"),
        "{err}"
    );

    let got = vhost.drain_all(DEAD).await;
    let got: Vec<_> = got.iter().map(|got| (got.id(), got.text())).collect();
    let expected = [
        (all[0].as_str(), "{\"number\":0}"),
        (all[2].as_str(), "{\"number\":2}"),
        (all[1].as_str(), "{\"number\":100}"),
    ];
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_replay_of_ten_thousand_that_is_killed_loses_none() {
    const COUNT: usize = 10_000;
    let vhost = letters(COUNT).await;
    // Ten seconds for all: the kill comes in time. The batches are as large as without a rate.
    let mut child = dead(&vhost, &["replay", "--all", "--yes", "--rate", "1000"])
        .spawn()
        .expect("it starts");
    let moved = async || vhost.ready(QUEUE).await;
    wait_until("letters are replayed", DEADLINE, moved, |ready| {
        *ready >= 500
    })
    .await;
    child.start_kill().expect("it runs");
    within("the command", child.wait()).await.expect("it ends");
    // The broker takes back what the process held.
    let counts = async || vhost.counts(DEAD).await;
    wait_until("the letters are back", DEADLINE, counts, |counts| {
        counts.unacked == 0
    })
    .await;

    let left = ids(&vhost, DEAD).await;
    let replayed = vhost.drain_all(QUEUE).await;
    assert!(
        replayed.len() < COUNT,
        "the kill came too late to show anything"
    );
    let mut all: BTreeSet<_> = left.iter().cloned().collect();
    all.extend(replayed.iter().map(|got| got.id().to_owned()));
    assert_eq!(all.len(), COUNT, "letters are lost");
    let twice = left.len() + replayed.len() - COUNT;
    assert!(twice <= 100, "{twice} letters are there twice");
    let runs: BTreeSet<_> = replayed
        .iter()
        .map(|got| got.header("lapwing-replay").to_string())
        .collect();
    assert_eq!(runs.len(), 1, "the copies can be told by the run");
}
