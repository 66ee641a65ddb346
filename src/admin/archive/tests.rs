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
        true
    };
    archive.newest_first(take).unwrap();
    ids
}

#[test]
fn failures_of_an_earlier_process_are_found_and_told_from_those_of_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let (before, mut writer) = archive(&folder, 65_536, 1);
    let started = "1970-01-01T00:00:05.000Z";
    assert_eq!(ids(&before), [""; 0]);
    assert_eq!(before.complete_since(started.to_owned()), started);
    // Newest first, as the store gives them. A success is no failure.
    writer.append(vec![
        record(3, OutcomeKind::TimedOut),
        record(2, OutcomeKind::Succeeded),
        record(1, OutcomeKind::Failed),
    ]);
    assert_eq!(writer.told, 3);
    let (now, mut writer) = archive(&folder, 65_536, 2);
    writer.append(vec![record(1, OutcomeKind::Failed)]);
    assert_eq!(ids(&now), ["order-1", "order-3", "order-1"]);
    let mut own = Vec::new();
    let take = |line: Value| {
        own.push(now.is_of_this_run(&line));
        true
    };
    now.newest_first(take).unwrap();
    assert_eq!(own, [true, false, false]);
    let since = now.complete_since(started.to_owned());
    assert_eq!(since, "1970-01-01T00:00:00.000Z");
}

#[test]
fn a_line_that_a_crash_has_torn_costs_that_line_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (archive_, mut writer) = archive(&folder, 65_536, 1);
    writer.append(vec![
        record(2, OutcomeKind::Failed),
        record(1, OutcomeKind::Failed),
    ]);
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
