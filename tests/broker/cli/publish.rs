//! `lapwing publish`

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lapin::types::ShortString;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Ended, ended, file, lapwing, output, output_of, piped};
use crate::support::{DEADLINE, Got, QueueType, VHost, ms, vhost, within};

/// `lapwing publish` to the broker of this virtual host.
pub(super) fn publish(vhost: &VHost, arguments: &[&str]) -> Command {
    let mut command = lapwing(&["publish"]);
    command
        .args(arguments)
        .env("LAPWING__BROKER__URL", vhost.amqp_url());
    command
}

pub(super) async fn with_queue() -> VHost {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Quorum).await;
    vhost
}

/// The bodies of the messages in the queue, as text.
async fn texts(vhost: &VHost) -> Vec<String> {
    let got = vhost.drain_all("q").await;
    got.iter().map(|got| got.text().to_owned()).collect()
}

fn succeeded(ended: &Ended, confirmed: usize) {
    let seen = (ended.code, ended.err.as_str(), ended.out.as_str());
    assert_eq!(
        seen,
        (Some(0), format!("{confirmed} confirmed\n").as_str(), "")
    );
}

fn text(property: &Option<ShortString>) -> &str {
    property.as_ref().map_or("", ShortString::as_str)
}

#[tokio::test]
async fn a_message_has_what_the_arguments_say() {
    let vhost = with_queue().await;
    let arguments = [
        "-q",
        "q",
        "-H",
        "tenant=acme",
        "--header",
        "formula=a=b",
        "--type",
        "order.paid",
        "{\"id\":1}",
    ];
    let ended = output(&mut publish(&vhost, &arguments)).await;
    succeeded(&ended, 1);
    let more = [
        "--queue",
        "q",
        "--content-type",
        "text/plain",
        "--message-id",
        "mine",
        "",
    ];
    succeeded(&output(&mut publish(&vhost, &more)).await, 1);

    let got: Vec<Got> = vhost.drain_all("q").await;

    let [json, plain] = &got[..] else {
        panic!("{} messages", got.len())
    };
    assert_eq!(json.text(), "{\"id\":1}");
    assert_eq!(json.header("tenant"), "acme");
    assert_eq!(json.header("formula"), "a=b");
    assert_eq!(text(json.properties.kind()), "order.paid");
    assert_eq!(text(json.properties.content_type()), "application/json");
    assert_eq!(json.properties.delivery_mode(), &Some(2));
    assert_eq!(
        uuid::Uuid::parse_str(json.id()).map(|id| id.get_version_num()),
        Ok(7)
    );
    assert_eq!((plain.text(), plain.id()), ("", "mine"));
    assert_eq!(text(plain.properties.content_type()), "text/plain");
    assert_eq!(text(plain.properties.kind()), "");
}

#[tokio::test]
async fn a_file_and_standard_input_have_a_document_a_line() {
    const LINES: &str = "{\"n\":1}\n\n  {\"n\":2}  \r\n{\"n\":3}";
    let vhost = with_queue().await;
    let (_folder, path) = file(LINES);
    let expected = BTreeSet::from(["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"].map(str::to_owned));

    let from_file = output(&mut publish(&vhost, &["-q", "q", "--file", &path])).await;
    succeeded(&from_file, 3);
    assert_eq!(BTreeSet::from_iter(texts(&vhost).await), expected);
    let from_input = output_of(&mut publish(&vhost, &["-q", "q"]), LINES).await;
    succeeded(&from_input, 3);
    assert_eq!(BTreeSet::from_iter(texts(&vhost).await), expected);
    let dash = output_of(
        &mut publish(&vhost, &["-q", "q", "-f", "-", "-n", "2"]),
        LINES,
    )
    .await;
    succeeded(&dash, 6);
    assert_eq!(vhost.drain_all("q").await.len(), 6);
    let nothing = output_of(&mut publish(&vhost, &["-q", "q"]), "").await;
    succeeded(&nothing, 0);
    let missing = output(&mut publish(&vhost, &["-q", "q", "-f", "/no/such/file"])).await;
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.err.contains("failed to open /no/such/file"),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_line_is_published_when_it_comes_and_not_with_the_next() {
    let vhost = with_queue().await;
    let mut command = publish(&vhost, &["-q", "q"]);
    let (child, mut stdin) = piped(&mut command);
    for lines in 1..=2 {
        stdin.write_all(b"{}\n").await.expect("it reads");
        vhost.wait_for_counts("q", lines, 0, DEADLINE).await;
    }
    drop(stdin);
    let end = ended(within("the command", child.wait_with_output()).await);
    succeeded(&end, 2);
}

/// A device that refuses every write.
fn full() -> std::fs::File {
    let device = std::fs::File::options().write(true).open("/dev/full");
    device.expect("Linux has it")
}

#[tokio::test]
async fn a_terminal_that_takes_nothing_does_not_change_the_result() {
    let vhost = with_queue().await;
    for (queue, code) in [("q", 0), ("nowhere", 1)] {
        let mut command = publish(&vhost, &["-q", queue, "-n", "10", "5"]);
        command.stdin(Stdio::null()).stdout(full()).stderr(full());
        let exit = within("the command", command.status()).await;
        assert_eq!(exit.expect("it starts").code(), Some(code), "{queue}");
    }
    assert_eq!(vhost.ready("q").await, 10);
}

#[tokio::test]
async fn an_exchange_routes_by_the_routing_key() {
    let vhost = with_queue().await;
    vhost
        .declare_exchange("shop", lapin::ExchangeKind::Topic)
        .await;
    vhost.bind("q", "shop", "order.*").await;
    let arguments = ["--exchange", "shop", "--routing-key", "order.paid", "5"];
    succeeded(&output(&mut publish(&vhost, &arguments)).await, 1);

    let got = vhost.drain_all("q").await.pop().expect("it was routed");
    assert_eq!(
        (got.exchange.as_str(), got.routing_key.as_str()),
        ("shop", "order.paid")
    );

    vhost
        .declare_exchange("all", lapin::ExchangeKind::Fanout)
        .await;
    vhost.bind("q", "all", "").await;
    succeeded(&output(&mut publish(&vhost, &["-e", "all", "5"])).await, 1);
    assert_eq!(texts(&vhost).await, ["5"]);
}

#[tokio::test]
async fn bodies_that_are_not_the_json_they_are_published_as_are_counted() {
    let vhost = with_queue().await;
    let ended = output_of(
        &mut publish(&vhost, &["-q", "q", "-n", "2"]),
        "{}\n{\"b\":\nno",
    )
    .await;
    let told = "not JSON, but published as application/json: 2 (--content-type names another type)";
    assert_eq!(ended.err, format!("{told}\n6 confirmed\n"));
    let text = ["-q", "q", "--content-type", "text/plain", "not json"];
    succeeded(&output(&mut publish(&vhost, &text)).await, 1);
}

#[tokio::test]
async fn a_count_is_published_at_speed_with_an_id_for_each() {
    let vhost = with_queue().await;
    succeeded(
        &output(&mut publish(&vhost, &["-q", "q", "-n", "2000", "5"])).await,
        2000,
    );

    let got = vhost.drain_all("q").await;
    let ids: BTreeSet<_> = got.iter().map(Got::id).collect();
    assert_eq!((got.len(), ids.len()), (2000, 2000));
}

#[tokio::test]
async fn a_rate_is_the_most_messages_a_second() {
    let vhost = with_queue().await;
    let started = Instant::now();
    let arguments = ["-q", "q", "--count", "41", "--rate", "20", "5"];
    succeeded(&output(&mut publish(&vhost, &arguments)).await, 41);
    let took = started.elapsed();
    // The first message at once, and forty more at twenty a second.
    assert!(took >= ms(2000), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(vhost.ready("q").await, 41);
}

#[tokio::test]
async fn what_reaches_no_queue_fails_with_the_counts() {
    let vhost = with_queue().await;
    vhost
        .declare_exchange("shop", lapin::ExchangeKind::Direct)
        .await;
    let nowhere = output(&mut publish(&vhost, &["-q", "nowhere", "-n", "100", "5"])).await;
    assert_eq!(nowhere.code, Some(1));
    let lines: Vec<_> = nowhere.err.lines().collect();
    assert_eq!(lines[0], "0 confirmed, 100 not confirmed:", "{nowhere:?}");
    assert!(
        lines.len() == 2 && lines[1].starts_with("  100 × "),
        "{nowhere:?}"
    );

    let unbound = output(&mut publish(&vhost, &["-e", "shop", "-k", "x", "5"])).await;
    assert_eq!(unbound.code, Some(1), "{unbound:?}");
    let no_exchange = output(&mut publish(&vhost, &["-e", "no-such", "-n", "3", "5"])).await;
    assert_eq!(no_exchange.code, Some(1), "{no_exchange:?}");
    assert!(
        no_exchange.err.starts_with("0 confirmed, 3 not confirmed:"),
        "{no_exchange:?}"
    );
    assert!(no_exchange.err.contains("no-such"), "{no_exchange:?}");
    assert_eq!(vhost.ready("q").await, 0);
}

#[tokio::test]
async fn a_full_queue_that_refuses_is_told() {
    use lapin::types::AMQPValue;
    let vhost = vhost().await;
    let limits = [
        ("x-max-length", AMQPValue::LongInt(5)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    vhost.declare_with("q", QueueType::Classic, &limits).await;

    let ended = output(&mut publish(&vhost, &["-q", "q", "-n", "20", "5"])).await;

    assert_eq!(ended.code, Some(1), "{ended:?}");
    let held = vhost.ready("q").await;
    let expected = format!("{held} confirmed, {} not confirmed:\n", 20 - held);
    assert!(
        held >= 5 && ended.err.starts_with(&expected),
        "{held} in the queue, {ended:?}"
    );
}

#[tokio::test]
async fn arguments_that_contradict_are_refused_before_connecting() {
    let refused: [&[&str]; 8] = [
        &["5"],
        &["-q", "q", "-e", "shop", "5"],
        &["-q", "q", "-k", "key", "5"],
        &["-k", "key", "5"],
        &["-q", "q", "--file", "f", "5"],
        &["-q", "q", "-n", "0", "5"],
        &["-q", "q", "-H", "novalue", "5"],
        &["-q", "q", "-H", "=v", "5"],
    ];
    for arguments in refused {
        let mut command = lapwing(&["publish"]);
        command
            .args(arguments)
            .env("LAPWING__BROKER__URL", "amqp://127.0.0.1:1");
        let ended = output(&mut command).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        if arguments == ["5"] {
            for target in ["--queue", "--exchange"] {
                assert!(ended.err.contains(target), "{ended:?}");
            }
        }
    }
    for arguments in [
        ["-q", "q", "--rate=0", "5"],
        ["-q", "q", "--rate=-1", "5"],
        ["-q", "q", "--rate=1e-300", "5"],
        ["-q", "", "-n1", "5"],
    ] {
        let mut command = lapwing(&["publish"]);
        command
            .args(arguments)
            .env("LAPWING__BROKER__URL", "amqp://127.0.0.1:1");
        let ended = output(&mut command).await;
        assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
        assert!(!ended.err.contains("connect"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_told_without_the_password() {
    let mut command = lapwing(&["publish", "-q", "q", "5"]);
    command.env("LAPWING__BROKER__URL", "amqp://me:s3cret@127.0.0.1:1/%2f");
    let ended = output(&mut command).await;
    assert_ne!(ended.code, Some(0));
    assert!(
        ended.err.contains("failed to connect to the broker"),
        "{ended:?}"
    );
    assert!(!ended.err.contains("s3cret"), "{ended:?}");
}
