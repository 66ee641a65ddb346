//! The failures of a worker in a file of bounded size, so that they outlast the process.
//!
//! A thread of its own looks for new failures four times a second and appends them, one line of JSON each. No
//! lane waits for the file. When the file has half of its room, it replaces the older file beside it. The
//! last line may be torn after a crash: readers skip it, and the next process begins a new line.

mod backwards;

use std::{
    fs::{File, OpenOptions, TryLockError, rename},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::Value;
use tracing::{error, info};

use super::{AdminSettings, api::App, settings::beside};
use crate::{
    OutcomeRecord, clock,
    lock::lock,
    text::{rfc3339, rfc3339_micros},
};

/// The time between two looks for new failures.
const LOOK: Duration = Duration::from_millis(250);
/// The file is not up to date if the last look that wrote everything is so long ago.
const LATE: Duration = Duration::from_secs(5);

/// The file with the failures, and the older one beside it.
#[derive(Debug)]
pub(super) struct Archive {
    file: PathBuf,
    older: PathBuf,
    /// The most bytes of each of the two.
    most: u64,
    /// Names this process in its lines: the numbers of outcomes begin anew in each process.
    run: String,
    reach: Mutex<Reach>,
}

/// How far the writing of failures has come.
#[derive(Debug)]
struct Reach {
    /// The files have all failures from this time on, unless the older one was replaced since: the start of the
    /// process, or the last time before which failures were lost.
    from: SystemTime,
    /// Up to this time; `None` if the last write failed.
    until: Option<SystemTime>,
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'a> {
    run: &'a str,
    #[serde(flatten)]
    record: &'a OutcomeRecord,
}

/// Begins to keep the failures of the worker in the file, if the settings name one.
pub(super) fn start(app: &Arc<App>) -> io::Result<Option<JoinHandle<()>>> {
    let Some(archive) = app.archive.clone() else {
        return Ok(None);
    };
    let (store, stop) = (app.worker.outcome_store().clone(), app.stop.clone());
    let keep = move || {
        let mut writer = Writer::new(archive);
        loop {
            // The look after the stop finds the last failures of a drain.
            let is_last = stop.is_cancelled();
            let now = clock::now();
            let outcomes = if store.last() == writer.told {
                Vec::new()
            } else {
                store.after(writer.told, None, None, usize::MAX)
            };
            // After `after`: what it has lost meanwhile counts too.
            writer.look(outcomes, store.complete_since(None), now);
            if is_last {
                return;
            }
            thread::park_timeout(LOOK);
        }
    };
    let thread = thread::Builder::new().name("lapwing-failures".to_owned());
    thread.spawn(keep).map(Some)
}

impl Archive {
    /// The archive of a process that began at this time; `None` if the settings name no file.
    pub(super) fn new(settings: &AdminSettings, started: SystemTime) -> Option<Self> {
        let file = settings.failures_file.clone()?;
        Some(Self {
            older: beside(&file, ".1"),
            file,
            most: u64::from(settings.failures_file_mib) * 1024 * 1024 / 2,
            run: rfc3339_micros(started),
            reach: Mutex::new(Reach {
                from: started,
                until: Some(started),
            }),
        })
    }

    /// Whether a line is of this process.
    pub(super) fn is_of_this_run(&self, line: &Value) -> bool {
        line["run"] == self.run.as_str()
    }

    /// Calls `take` with each line, newest first, until it returns false. Reads the files, so it blocks.
    pub(super) fn newest_first(
        &self,
        mut take: impl FnMut(Value) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut take_text = |text: &[u8]| match serde_json::from_slice(text) {
            Ok(line) => take(line),
            // A torn line.
            Err(_) => Ok(true),
        };
        let (file, older) = (opened(&self.file)?, opened(&self.older)?);
        if let Some(file) = &file
            && !backwards::lines(file, &mut take_text)?
        {
            return Ok(());
        }
        match older {
            // The file may have become the older one between the two opens.
            Some(older) if file.is_none_or(|file| !is_same(&file, &older)) => {
                backwards::lines(&older, &mut take_text).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Since when this worker has all failures, if the memory has them since `held`. The files may lack those
    /// of before this process: nobody knows what a killed process did not write, or whether one ran without
    /// the file. Reads the beginning of a file, so it blocks.
    pub(super) fn complete_since(&self, held: String) -> String {
        let reach = lock(&self.reach);
        let (from, until) = (reach.from, reach.until);
        drop(reach);
        let age = until.and_then(|until| clock::now().duration_since(until).ok());
        if age.is_none_or(|age| age > LATE) {
            return held;
        }
        // What the older file does not have was removed.
        let from = first_time(&self.older)
            .into_iter()
            .fold(rfc3339(from), Ord::max);
        held.min(from)
    }
}

fn opened(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_same(a: &File, b: &File) -> bool {
    let id = |file: &File| file.metadata().map(|it| (it.dev(), it.ino())).ok();
    id(a) == id(b)
}

/// The time of the first whole line of a file.
fn first_time(path: &Path) -> Option<String> {
    /// The first line may be torn, and no line is longer.
    const LINES: usize = 2;
    const LONGEST: u64 = 64 * 1024;
    let mut file = BufReader::new(File::open(path).ok()?.take(LINES as u64 * LONGEST));
    let mut text = Vec::new();
    for _ in 0..LINES {
        text.clear();
        file.read_until(b'\n', &mut text).ok()?;
        if let Ok(line) = serde_json::from_slice::<Value>(&text) {
            return Some(line["at"].as_str()?.to_owned());
        }
    }
    None
}

/// Appends failures to the file of an archive.
struct Writer {
    archive: Arc<Archive>,
    /// The number of the last outcome that was written.
    told: u64,
    /// The file, and its size. `None`: it was not opened yet, or the last write failed.
    open: Option<(File, u64)>,
    /// The last write failed.
    has_failed: bool,
    /// The time of the last look that wrote everything.
    looked: SystemTime,
}

impl Writer {
    fn new(archive: Arc<Archive>) -> Self {
        let looked = lock(&archive.reach).from;
        Self {
            looked,
            archive,
            told: 0,
            open: None,
            has_failed: false,
        }
    }

    /// Writes what a look at the time `now` has found. The store has all failures since `held`.
    fn look(
        &mut self,
        outcomes: Vec<Arc<OutcomeRecord>>,
        held: Option<SystemTime>,
        now: SystemTime,
    ) {
        self.append(outcomes);
        let mut reach = lock(&self.archive.reach);
        if self.has_failed {
            reach.until = None;
            return;
        }
        /// The store gets a failure a moment after the time of the failure.
        const SLACK: Duration = Duration::from_millis(100);
        // The store has forgotten failures that it got after the last look that wrote all.
        if let Some(held) = held
            && held + SLACK > self.looked
        {
            reach.from = held;
        }
        reach.until = Some(now);
        self.looked = now;
    }

    /// Appends the failures among these outcomes, which are in the order newest first. After an error the
    /// next call gets the same outcomes again, as far as the store still has them.
    fn append(&mut self, outcomes: Vec<Arc<OutcomeRecord>>) {
        let archive = Arc::clone(&self.archive);
        let file = archive.file.display();
        for outcome in outcomes.into_iter().rev() {
            if outcome.kind.is_failure()
                && let Err(error) = self.write(&outcome)
            {
                if !self.has_failed {
                    error!(%file, %error, "failed to write admin.failures_file: new failures are kept in memory only; trying again");
                }
                self.has_failed = true;
                self.open = None;
                return;
            }
            self.told = outcome.seq;
        }
        if self.has_failed {
            info!(%file, "failures are kept in admin.failures_file again");
            self.has_failed = false;
        }
    }

    fn write(&mut self, record: &OutcomeRecord) -> io::Result<()> {
        let line = Line {
            run: &self.archive.run,
            record,
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        let bytes = text.len() as u64;
        let (mut file, mut size) = match self.open.take() {
            Some(open) => open,
            None => open(&self.archive.file)?,
        };
        if size > 0 && size + bytes > self.archive.most {
            rename(&self.archive.file, &self.archive.older)?;
            // The old one stays locked until the new one is.
            (file, size) = open(&self.archive.file)?;
        }
        file.write_all(&text)?;
        self.open = Some((file, size + bytes));
        Ok(())
    }
}

/// Opens the file to append lines, locks it, and returns its size. Ends a line that a crash has torn.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    // Errors of messages are not for everybody on the machine.
    options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(path)?;
    // Some file systems cannot lock.
    let is_taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    let is_replaced = opened(path)?.is_none_or(|now| !is_same(&now, &file));
    if is_taken || is_replaced {
        return Err(io::Error::other("another process writes to it"));
    }
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

#[cfg(test)]
mod tests;
