//! The program that `make bench` compares the worker with: a bare lapin consumer that parses JSON
//! and acks `multiple` every 64 messages or 1 ms. It has no timeout, policy, retry or ledger. The
//! same program fills the queues.
//!
//! `baseline preload` deletes and declares `QUEUE` (of type `QUEUE_TYPE`) and publishes `N`
//! messages of `SIZE` bytes. `baseline trickle` publishes `N` messages, `RATE` a second. Each
//! message carries its time of publishing. `baseline` consumes `N` messages from `QUEUE`, and with
//! `LATENCY=1` prints how long they took.

#[path = "latency/mod.rs"]
mod latency;

use std::{hint::black_box, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde::Deserialize;

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed to be measured")]
struct Work {
    id: String,
    key: String,
    n: u64,
    payload: String,
}

fn env<T: std::str::FromStr>(name: &str, default: T) -> T {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() -> lapin::Result<()> {
    let url = env(
        "AMQP_URL",
        "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(),
    );
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    match std::env::args().nth(1).as_deref() {
        Some("preload") => preload(&channel).await?,
        Some("trickle") => trickle(&channel).await?,
        _ => consume(&channel).await?,
    }
    connection.close(200, "done".into()).await
}

async fn preload(channel: &Channel) -> lapin::Result<()> {
    let queue = env("QUEUE", "bench".to_owned());
    let (count, size) = (env("N", 1000u64), env("SIZE", 256usize));
    let delete = QueueDeleteOptions::default();
    channel.queue_delete(queue.as_str().into(), delete).await?;
    let mut arguments = FieldTable::default();
    let queue_type = env("QUEUE_TYPE", "classic".to_owned());
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString(queue_type.into()),
    );
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.as_str().into(), durable, arguments)
        .await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let mut confirms = FuturesUnordered::new();
    for n in 0..count {
        let (body, properties) = message(n, n, size);
        let options = BasicPublishOptions::default();
        let key = queue.as_str().into();
        let confirm = channel.basic_publish("".into(), key, options, body.as_bytes(), properties);
        confirms.push(confirm.await?);
        while confirms.len() >= 2000 {
            confirms.next().await.transpose()?;
        }
    }
    while let Some(confirm) = confirms.next().await {
        confirm?;
    }
    Ok(())
}

fn message(number: u64, n: u64, size: usize) -> (String, BasicProperties) {
    let key = number % 1000;
    let head = format!(r#"{{"id":"msg-{number:012}","key":"key-{key}","n":{n},"payload":""#);
    let room = size.saturating_sub(head.len() + 2);
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(format!("msg-{number:012}").into());
    (format!("{head}{:x>room$}\"}}", ""), properties)
}

/// Publishes at a steady rate, without confirms: they would compete with the consumer.
async fn trickle(channel: &Channel) -> lapin::Result<()> {
    let queue = env("QUEUE", "bench".to_owned());
    let (count, rate) = (env("N", 100u64), env("RATE", 1.0));
    let began = tokio::time::Instant::now();
    for number in 0..count {
        tokio::time::sleep_until(began + Duration::from_secs_f64(number as f64 / rate)).await;
        let (body, properties) = message(number, latency::now(), 256);
        let options = BasicPublishOptions::default();
        let key = queue.as_str().into();
        channel
            .basic_publish("".into(), key, options, body.as_bytes(), properties)
            .await?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the baseline settles for itself")]
async fn consume(channel: &Channel) -> lapin::Result<()> {
    let queue = env("QUEUE", "bench".to_owned());
    let count = env("N", 1000u64);
    channel
        .basic_qos(env("PREFETCH", 200), BasicQosOptions::default())
        .await?;
    let options = BasicConsumeOptions::default();
    let mut consumer = channel
        .basic_consume(
            queue.as_str().into(),
            "".into(),
            options,
            FieldTable::default(),
        )
        .await?;
    let multiple = BasicAckOptions { multiple: true };
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut done, mut waiting, mut tag) = (0, 0, 0);
    let times = latency::Times::default();
    while done < count {
        tokio::select! {
            biased;
            Some(delivery) = consumer.next() => {
                let delivery = delivery?;
                let work = black_box(serde_json::from_slice::<Work>(&delivery.data).ok());
                if times.are_taken() {
                    times.took(work.map_or(0, |work| work.n));
                }
                (done, waiting, tag) = (done + 1, waiting + 1, delivery.delivery_tag);
            }
            _ = tick.tick(), if waiting > 0 => {
                channel.basic_ack(tag, multiple).await?;
                waiting = 0;
            }
        }
        if waiting == 64 || (done == count && waiting > 0) {
            channel.basic_ack(tag, multiple).await?;
            waiting = 0;
        }
    }
    times.print();
    // A quorum queue loses acks if the channel closes directly after them.
    tokio::time::sleep(Duration::from_millis(700)).await;
    Ok(())
}
