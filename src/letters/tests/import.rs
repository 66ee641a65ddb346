use std::ops::ControlFlow;

use super::*;
use crate::{broker::fake::Confirm, letters::to_line};

/// The lines of an export of this many letters, which are gone from their queue.
async fn exported(broker: &FakeBroker, count: u64) -> Vec<String> {
    send(broker, count);
    let mut lines = Vec::new();
    let mut see = |letter: &Letter| lines.push(to_line(letter));
    let desk = desk(broker);
    let looked = super::super::look::look(&desk, &Look::default(), &mut see, &mut go_on).await;
    assert_eq!(looked.unwrap().selected, count);
    let all = Filter::default();
    let dropped = super::super::change::drop(&desk, &all, None, "test", &mut go_on).await;
    assert_eq!(dropped.unwrap().changed, count);
    lines
}

#[tokio::test(start_paused = true)]
async fn an_import_puts_all_letters_back_and_tells_its_progress() {
    let broker = broker(Release::V43, kept());
    let lines = exported(&broker, 100).await;
    let mut seen = Vec::new();
    let mut report = |progress: Progress| {
        seen.push((progress.changed, progress.total));
        ControlFlow::Continue(())
    };
    let ended = super::super::import::import(&desk(&broker), &lines, "test", &mut report).await;
    let ended = ended.unwrap();
    assert_eq!((ended.imported, ended.stopped), (100, false));
    assert!(ended.error.is_none());
    let wanted: Vec<_> = (1..=100).map(|number| (number, 100)).collect();
    assert_eq!(seen, wanted);
    let mut back = ids(&broker, "orders.dead");
    back.sort_by_key(|id| id[1..].parse::<u64>().unwrap());
    assert_eq!(back, numbered(0..100));
}

#[tokio::test(start_paused = true)]
async fn an_import_that_is_refused_counts_what_is_in_the_queue() {
    let broker = broker(Release::V43, kept());
    let lines = exported(&broker, 100).await;
    broker.answer_publishes([Confirm::Ack, Confirm::Ack, Confirm::Nack]);
    let ended = super::super::import::import(&desk(&broker), &lines, "test", &mut go_on).await;
    let ended = ended.unwrap();
    let error = ended
        .error
        .map(|error| error.to_string())
        .unwrap_or_default();
    assert!(error.contains("was not published"), "{error}");
    assert!(!ended.stopped && ended.imported < 100);
    let back = ids(&broker, "orders.dead").len() as u64;
    assert_eq!(ended.imported, back, "those under way were waited for");
}

#[tokio::test(start_paused = true)]
async fn an_import_can_be_stopped_and_one_into_no_queue_fails() {
    let broker = broker(Release::V43, kept());
    let lines = exported(&broker, 100).await;
    let mut stop = |progress: Progress| match progress.changed >= 10 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let ended = super::super::import::import(&desk(&broker), &lines, "test", &mut stop).await;
    let ended = ended.unwrap();
    assert!(
        ended.stopped && (10..100).contains(&ended.imported),
        "{ended:?}"
    );
    assert_eq!(ids(&broker, "orders.dead").len() as u64, ended.imported);

    let nowhere = Desk::new(broker.clone(), "nowhere", None);
    let failed = super::super::import::import(&nowhere, &lines, "test", &mut go_on).await;
    assert!(
        matches!(failed, Err(DeadLettersError::NoQueue(_))),
        "{failed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_plan_says_where_letters_would_go_and_changes_nothing() {
    let broker = broker(Release::V43, kept());
    send(&broker, 3);
    let filter = Filter {
        ids: vec!["m0".to_owned(), "m2".to_owned()],
        ..Filter::default()
    };
    let plan =
        super::super::plan::plan(&desk(&broker), &replay_of(filter.clone()), &mut go_on).await;
    let plan = plan.unwrap();
    let targets: Vec<_> = plan.targets.into_iter().collect();
    assert_eq!(targets, [("orders".to_owned(), 2)]);
    assert!(plan.kept.is_empty());
    let other = Replay {
        target: Target::Queue("other".to_owned()),
        ..replay_of(filter)
    };
    let plan = super::super::plan::plan(&desk(&broker), &other, &mut go_on)
        .await
        .unwrap();
    assert_eq!(plan.targets.get("other"), Some(&2));
    assert_eq!(ids(&broker, "orders.dead"), numbered(0..3));
    assert!(broker.ready("orders").is_empty() && broker.violations().is_empty());
}
