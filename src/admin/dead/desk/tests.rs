use std::sync::mpsc;

use super::*;
use crate::letters::Letter;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn desks() -> Arc<Desks> {
    Arc::new(Desks {
        broker: Arc::default(),
        timeouts: Arc::default(),
        desks: NAMES.map(|it| (it.to_owned(), Mutex::default())).into(),
        jobs: Arc::new(Semaphore::new(JOBS)),
        searches: Arc::new(Semaphore::new(1)),
        asked: Arc::new(Semaphore::new(1 + WAITING)),
        keeping: Mutex::default(),
        stop: CancellationToken::new(),
    })
}

/// Keeps a look of this consumer, which ended at this second and has one letter.
fn keep(desks: &Desks, consumer: &str, second: u64) {
    let look = views::Look {
        look: format!("{consumer}{second}"),
        looked_at: format!("2026-11-27T09:00:{second:02}Z"),
        total: 1,
        seen: 1,
        letters: 1,
        not_kept: 0,
        stopped: false,
        costs_deliveries: false,
        short: 0,
        matches: Vec::new(),
    };
    let mut snapshot = Snapshot::with_room(usize::MAX, 0);
    snapshot.add(&Letter::sample("m", b""), |_| String::new());
    let matches = vec!["tenant=acme".parse().unwrap()];
    desks.keep(consumer, look, matches, snapshot);
}

fn kept(desks: &Desks) -> Vec<String> {
    let look = |name: &&str| desks.state(name).unwrap().1;
    NAMES
        .iter()
        .filter_map(look)
        .map(|look| look.look)
        .collect()
}

#[test]
fn a_look_takes_the_place_of_the_oldest_one_when_it_has_ended() {
    let desks = desks();
    keep(&desks, "a", 1);
    keep(&desks, "b", 2);
    assert_eq!(kept(&desks), ["a1", "b2"]);
    keep(&desks, "b", 3);
    assert_eq!(kept(&desks), ["a1", "b3"]);
    keep(&desks, "c", 4);
    assert_eq!(kept(&desks), ["b3", "c4"]);
}

#[test]
fn a_selection_names_the_look_that_it_was_made_by() {
    let desks = desks();
    keep(&desks, "a", 1);
    assert_eq!(desks.matches("a", "a1").unwrap().len(), 1);
    keep(&desks, "a", 2);
    assert!(desks.matches("a", "a1").is_err());
    assert!(desks.matches("b", "a2").is_err());
}

/// The number of letters is read by the server's only thread.
#[test]
fn a_search_under_way_does_not_hold_up_the_state() {
    let desks = desks();
    keep(&desks, "a", 1);
    let (_, snapshot) = desks.seen("a").unwrap();
    let searching = lock(&snapshot);
    let (desks, (told, hears)) = (Arc::clone(&desks), mpsc::channel());
    std::thread::spawn(move || told.send(desks.state("a").unwrap().1.unwrap().letters));
    assert_eq!(hears.recv_timeout(Duration::from_secs(60)), Ok(1));
    drop(searching);
}

/// Searches need no token.
#[tokio::test]
async fn few_searches_wait_and_one_runs() {
    let desks = desks();
    let (go, waits) = mpsc::channel::<()>();
    let running = Arc::new(AtomicUsize::new(0));
    let first = {
        let (desks, running) = (Arc::clone(&desks), Arc::clone(&running));
        let search = move || {
            running.fetch_add(1, Ordering::SeqCst);
            waits.recv().ok();
        };
        tokio::spawn(async move { desks.search(search).await })
    };
    while running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let mut others = Vec::new();
    for _ in 0..WAITING {
        let (desks, running) = (Arc::clone(&desks), Arc::clone(&running));
        let search = move || running.fetch_add(1, Ordering::SeqCst);
        others.push(tokio::spawn(async move { desks.search(search).await }));
    }
    while desks.asked.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(desks.search(|| ()).await.is_err());
    assert_eq!(running.load(Ordering::SeqCst), 1);
    go.send(()).unwrap();
    assert!(first.await.unwrap().is_ok());
    for other in others {
        assert!(other.await.unwrap().is_ok());
    }
    assert!(desks.search(|| ()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_starts_no_job_and_waits_for_those_that_run() {
    let desks = desks();
    let permit = Arc::clone(&desks.jobs).try_acquire_owned().unwrap();
    desks.close();
    let place = Place {
        queue: "q.dead".to_owned(),
        limit: None,
    };
    let work = Work::Drop {
        filter: Default::default(),
        limit: None,
    };
    let refused = desks.start("a", place, JobKind::Drop, "test".to_owned(), work);
    assert!(refused.is_err());
    let began = Instant::now();
    let ends = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(permit);
    };
    tokio::join!(desks.closed(Duration::from_secs(10)), ends);
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}
