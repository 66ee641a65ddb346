use std::time::Duration;

use super::*;

fn minute(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000 + number * 60)
}

/// A letter of one of two causes, dead-lettered in this minute.
fn letter(number: u64) -> Letter {
    let (group, error) = match number % 4 {
        0 => ("aa", "the card was declined"),
        _ => ("bb", "503 from the warehouse"),
    };
    let mut letter = Letter::sample(&format!("m{number}"), format!("{number}").as_bytes());
    letter.summary.group = group.to_owned();
    letter.summary.error = error.to_owned();
    letter.summary.reason = "max-attempts".to_owned();
    letter.summary.failed_at = Some(minute(number));
    letter
}

fn snapshot(count: u64, room: usize) -> Snapshot {
    let mut snapshot = Snapshot::with_room(room, 0);
    for number in 0..count {
        snapshot.add(&letter(number), |it| it.summary.id.clone());
    }
    snapshot.finish();
    snapshot
}

fn ids(page: &[Summary]) -> Vec<&str> {
    page.iter().map(|it| it.id.as_str()).collect()
}

#[test]
fn pages_follow_each_other_in_both_directions() {
    let snapshot = snapshot(5, usize::MAX);
    let all = Filter::default();
    for (newest, expected) in [
        (false, [vec!["m0", "m1"], vec!["m2", "m3"], vec!["m4"]]),
        (true, [vec!["m4", "m3"], vec!["m2", "m1"], vec!["m0"]]),
    ] {
        let mut behind = None;
        for (at, wanted) in expected.iter().enumerate() {
            let (page, total, last) = snapshot.page(&all, newest, behind, 2);
            assert_eq!((ids(&page), total), (wanted.clone(), 5));
            assert_eq!(last.is_some(), at < 2);
            behind = last;
        }
    }
}

#[test]
fn letters_that_left_their_queue_leave_the_pages_and_the_cursors_go_on() {
    let mut snapshot = snapshot(6, usize::MAX);
    let all = Filter::default();
    let (_, _, last) = snapshot.page(&all, false, None, 2);
    snapshot.remove(&["m1".to_owned(), "m3".to_owned(), "other".to_owned()]);
    let (page, total, _) = snapshot.page(&all, false, last, 2);
    assert_eq!((ids(&page), total), (vec!["m2", "m4"], 4));
}

/// Letters may have the same id.
#[test]
fn of_two_letters_with_the_same_id_one_leaves_for_each_that_left() {
    let mut snapshot = Snapshot::with_room(usize::MAX, 0);
    for _ in 0..3 {
        snapshot.add(&letter(1), |_| String::new());
    }
    snapshot.remove(&["m1".to_owned(), "m1".to_owned()]);
    assert_eq!(snapshot.len(), 1);
}

#[test]
fn a_search_finds_texts_in_upper_and_lower_case() {
    let snapshot = snapshot(8, usize::MAX);
    let text = |text: &str| Filter {
        text: Some(text.to_owned()),
        ..Filter::default()
    };
    assert_eq!(snapshot.page(&text("DECLINED"), false, None, 9).1, 2);
    assert_eq!(snapshot.page(&text("m7"), false, None, 9).1, 1);
    assert_eq!(snapshot.page(&text("nothing"), false, None, 9).1, 0);
}

#[test]
fn groups_have_their_counts_times_and_bars() {
    let groups = snapshot(33, usize::MAX).groups(&Filter::default(), 10);
    assert_eq!((groups.letters, groups.causes), (33, 2));
    let [many, few] = &groups.groups[..] else {
        panic!("{groups:?}")
    };
    assert_eq!((many.group.as_str(), many.count, few.count), ("bb", 24, 9));
    assert!((many.share - 24.0 / 33.0).abs() < 1e-9);
    assert_eq!((few.first, few.last), (Some(minute(0)), Some(minute(32))));
    assert_eq!(few.bars.iter().sum::<u64>(), 9);
    assert_eq!((few.bars[0], few.bars[1], few.bars[4]), (1, 0, 1));
    let one = snapshot(33, usize::MAX).groups(&Filter::default(), 1);
    assert_eq!((one.causes, one.groups.len()), (2, 1));
    let none = snapshot(0, usize::MAX).groups(&Filter::default(), 1);
    assert_eq!((none.letters, none.from), (0, None));
}

#[test]
fn a_look_keeps_no_more_than_its_room() {
    let room = 100_000;
    let mut snapshot = Snapshot::with_room(room, 0);
    for number in 0..5_000 {
        let mut letter = letter(number);
        // No two errors are equal, so each takes room.
        letter.summary.error = format!("error {number} {}", "x".repeat(1_000));
        snapshot.add(&letter, |_| "x".repeat(3_000));
    }
    assert!(snapshot.size < room + 10_000, "{}", snapshot.size);
    let kept = snapshot.len() as u64;
    assert_eq!(kept + snapshot.not_kept, 5_000);
    assert!(kept > 10, "{kept}");
    let page = snapshot.page(&Filter::default(), false, None, 1).0;
    assert_eq!(page[0].error.len(), SEARCHED + " … ".len() + ERROR_TAIL);
}

#[test]
fn an_edited_letter_is_not_kept_whole() {
    let mut snapshot = snapshot(2, usize::MAX);
    assert_eq!(snapshot.whole("m1").as_deref(), Some("m1"));
    snapshot.edited("m1", 99);
    assert_eq!(snapshot.whole("m1"), None);
    assert_eq!(
        snapshot.page(&Filter::default(), true, None, 1).0[0].bytes,
        99
    );
}

/// The worker finds a letter at the head of the queue soon, and one at its end late.
#[test]
fn the_last_letters_are_kept_whole_as_far_as_there_is_room() {
    let mut snapshot = Snapshot::with_room(usize::MAX, 5_000);
    for number in 0..5_000 {
        snapshot.add(&letter(number), |_| "x".repeat(10_000));
    }
    let kept = WHOLE_ROOM / 10_000;
    let is_whole = |number: usize| snapshot.whole(&format!("m{number}")).is_some();
    assert!(!is_whole(0) && !is_whole(999) && !is_whole(5_000 - kept - 1));
    assert!(is_whole(5_000 - kept) && is_whole(4_999));
    assert!(snapshot.whole <= WHOLE_ROOM);
    let few = Snapshot::with_room(usize::MAX, 100);
    assert_eq!(few.whole_from, 0);
}

#[test]
fn an_edit_of_one_of_several_letters_with_the_same_id_keeps_none_of_them_whole() {
    let mut snapshot = Snapshot::with_room(usize::MAX, 0);
    for _ in 0..2 {
        snapshot.add(&letter(1), |_| "whole".to_owned());
    }
    snapshot.edited("m1", 99);
    assert!(
        snapshot
            .lines
            .iter()
            .all(|it| it.whole.is_none() && it.bytes == 1)
    );
}
