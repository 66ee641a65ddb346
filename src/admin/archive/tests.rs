use tempfile::TempDir;

use super::*;
use crate::{OutcomeKind, SettlementKind};

fn record(seq: u64, kind: OutcomeKind) -> Arc<OutcomeRecord> {
    let mut record = OutcomeRecord::sample(kind, SettlementKind::Retry);
    record.seq = seq;
    record.id = Some(format!("order-{seq}"));
    Arc::new(record)
}

/// An archive in a new folder, and a process that writes to it.
fn archive(folder: &TempDir, most: u64, run: u64) -> (Arc<Archive>, Writer) {
    let settings = AdminSettings {
        failures_file: Some(folder.path().join("failures.jsonl")),
        ..AdminSettings::default()
    };
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(run);
    let mut archive = Archive::new(&settings, started).unwrap();
    archive.most = most / 2;
    let archive = Arc::new(archive);
    let writer = Writer::new(Arc::clone(&archive));
    (archive, writer)
}

/// The ids in the files, newest first.
fn ids(archive: &Archive) -> Vec<String> {
    let mut ids = Vec::new();
    let take = |line: Value| {
        ids.push(line["id"].as_str().unwrap().to_owned());
        Ok(true)
    };
    archive.newest_first(take).unwrap();
    ids
}

#[test]
fn failures_of_an_earlier_process_are_found_and_told_from_those_of_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let (before, mut writer) = archive(&folder, 65_536, 1);
    assert_eq!(ids(&before), [""; 0]);
    // Newest first, as the store gives them. A success is no failure.
    writer.append(vec![
        record(3, OutcomeKind::TimedOut),
        record(2, OutcomeKind::Succeeded),
        record(1, OutcomeKind::Failed),
    ]);
    assert_eq!(writer.told, 3);
    drop(writer);
    let (now, mut writer) = archive(&folder, 65_536, 2);
    writer.append(vec![record(1, OutcomeKind::Failed)]);
    assert_eq!(ids(&now), ["order-1", "order-3", "order-1"]);
    let mut own = Vec::new();
    let take = |line: Value| {
        own.push(now.is_of_this_run(&line));
        Ok(true)
    };
    now.newest_first(take).unwrap();
    assert_eq!(own, [true, false, false]);
}

#[test]
fn a_line_that_a_crash_has_torn_costs_that_line_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (archive_, mut writer) = archive(&folder, 65_536, 1);
    writer.append(vec![
        record(2, OutcomeKind::Failed),
        record(1, OutcomeKind::Failed),
    ]);
    drop(writer);
    let text = std::fs::read(&archive_.file).unwrap();
    for cut in 1..20 {
        std::fs::write(&archive_.file, &text[..text.len() - cut]).unwrap();
        let (_, mut writer) = archive(&folder, 65_536, 2);
        writer.append(vec![record(3, OutcomeKind::Failed)]);
        let whole = if cut == 1 { 3 } else { 2 };
        let found = ids(&archive_);
        assert_eq!(found.len(), whole, "{cut}: {found:?}");
        assert_eq!(
            (found[0].as_str(), found[whole - 1].as_str()),
            ("order-3", "order-1")
        );
    }
}

#[test]
fn the_files_never_exceed_their_room_and_keep_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, mut writer) = archive(&folder, 65_536, 1);
    for seq in 1..=1000 {
        writer.append(vec![record(seq, OutcomeKind::Failed)]);
        let size = |file: &Path| file.metadata().map_or(0, |file| file.len());
        let all = size(&archive.file) + size(&archive.older);
        assert!(all <= 65_536, "{all}");
    }
    let ids = ids(&archive);
    assert!(ids.len() > 60, "{}", ids.len());
    let newest = (0..ids.len() as u64).map(|back| format!("order-{}", 1000 - back));
    assert_eq!(ids, newest.collect::<Vec<_>>());
}

#[test]
fn failures_that_cannot_be_written_are_written_once_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, mut writer) = archive(&folder, 65_536, 1);
    std::fs::create_dir(&archive.file).unwrap();
    let failed = vec![record(1, OutcomeKind::Failed)];
    writer.append(failed.clone());
    assert_eq!((writer.told, writer.has_failed), (0, true));
    std::fs::remove_dir(&archive.file).unwrap();
    writer.append(failed);
    assert_eq!((writer.told, writer.has_failed), (1, false));
    assert_eq!(ids(&archive), ["order-1"]);
}

const START: u64 = 1_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn failure(seq: u64, seconds: u64) -> Vec<Arc<OutcomeRecord>> {
    let mut record = OutcomeRecord::clone(&record(seq, OutcomeKind::Failed));
    record.at = at(seconds);
    vec![Arc::new(record)]
}

#[tokio::test(start_paused = true)]
async fn the_files_are_complete_from_the_start_of_the_process_or_from_the_last_gap() {
    let set = clock::Set::to(at(START));
    let folder = tempfile::tempdir().unwrap();
    let (before, mut writer) = archive(&folder, 65_536, START - 500);
    writer.append(failure(1, START - 100));
    drop((before, writer));
    let (now, mut writer) = archive(&folder, 65_536, START);
    // What the memory has.
    let held = rfc3339(at(START + 50));
    let since = |archive: &Archive| archive.complete_since(held.clone());
    // A process that was killed may not have written its last failures.
    assert_eq!(since(&now), rfc3339(at(START)));
    writer.look(failure(1, START), None, at(START));
    assert_eq!(since(&now), rfc3339(at(START)));
    // The memory has forgotten some, but they were written before.
    writer.look(failure(2, START + 20), Some(at(START - 1)), at(START + 10));
    set.jump(Duration::from_secs(10), false);
    assert_eq!(since(&now), rfc3339(at(START)));
    // More than the memory holds came between two looks.
    writer.look(failure(3, START + 20), Some(at(START + 15)), at(START + 20));
    set.jump(Duration::from_secs(10), false);
    assert_eq!(since(&now), rfc3339(at(START + 15)));
    // The thread stands still: its disk hangs.
    set.jump(LATE + Duration::from_secs(1), false);
    assert_eq!(since(&now), held);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_written_and_what_was_removed_is_not_complete() {
    let _set = clock::Set::to(at(START));
    let folder = tempfile::tempdir().unwrap();
    let (archive, mut writer) = archive(&folder, 4096, START);
    let held = rfc3339(at(START + 5000));
    std::fs::create_dir(&archive.file).unwrap();
    writer.look(failure(1, START), None, at(START));
    assert_eq!(archive.complete_since(held.clone()), held);
    std::fs::remove_dir(&archive.file).unwrap();
    // The memory still has it.
    writer.look(failure(1, START), Some(at(START)), at(START));
    assert_eq!(archive.complete_since(held.clone()), rfc3339(at(START)));
    for seq in 2..200 {
        writer.look(failure(seq, START + seq), None, at(START));
    }
    let oldest = ids(&archive).pop().unwrap();
    let oldest: u64 = oldest.trim_start_matches("order-").parse().unwrap();
    assert!(oldest > 100, "{oldest}");
    assert_eq!(archive.complete_since(held), rfc3339(at(START + oldest)));
}

#[test]
fn two_processes_do_not_write_to_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (first, mut writer) = archive(&folder, 4096, 1);
    let (_, mut other) = archive(&folder, 4096, 2);
    writer.append(vec![record(1, OutcomeKind::Failed)]);
    for seq in 2..100 {
        writer.append(vec![record(seq, OutcomeKind::Failed)]);
        other.append(vec![record(1000, OutcomeKind::Failed)]);
        assert!(other.has_failed && !writer.has_failed, "{seq}");
    }
    assert!(!ids(&first).contains(&"order-1000".to_owned()));
    drop(writer);
    other.append(vec![record(1000, OutcomeKind::Failed)]);
    assert!(!other.has_failed);
    assert_eq!(ids(&first)[0], "order-1000");
}
