//! The failures of a worker in a file of bounded size, so that they outlast the process.
//!
//! A thread of its own looks for new failures four times a second and appends them, one line of JSON each. No
//! lane waits for the file. When the file has half of its room, it replaces the older file beside it. The
//! last line may be torn after a crash: readers skip it, and the next process begins a new line.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, rename},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::Value;
use tracing::{error, info};

use super::{AdminSettings, api::App};
use crate::{OutcomeRecord, text::rfc3339_micros};

/// The time between two looks for new failures.
const LOOK: Duration = Duration::from_millis(250);

/// The file with the failures, and the older one beside it.
#[derive(Debug)]
pub(super) struct Archive {
    file: PathBuf,
    older: PathBuf,
    /// The most bytes of each of the two.
    most: u64,
    /// Names this process in its lines: the numbers of outcomes begin anew in each process.
    run: String,
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
            if store.last() != writer.told {
                writer.append(store.after(writer.told, None, None, usize::MAX));
            }
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
            older: beside(&file),
            file,
            most: u64::from(settings.failures_file_mib) * 1024 * 1024 / 2,
            run: rfc3339_micros(started),
        })
    }

    /// Whether a line is of this process.
    pub(super) fn is_of_this_run(&self, line: &Value) -> bool {
        line["run"] == self.run.as_str()
    }

    /// Calls `take` with each line, newest first, until it returns false. Reads the files, so it blocks.
    pub(super) fn newest_first(&self, mut take: impl FnMut(Value) -> bool) -> io::Result<()> {
        for file in [&self.file, &self.older] {
            let text = match std::fs::read(file) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in text.rsplit(|byte| *byte == b'\n') {
                let Ok(line) = serde_json::from_slice(line) else {
                    continue;
                };
                if !take(line) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Since when the files have all failures, in a process that began at `started`. Reads the beginning of a
    /// file, so it blocks.
    pub(super) fn complete_since(&self, started: String) -> String {
        /// No line is longer.
        const LONGEST: u64 = 64 * 1024;
        let first = |file: &Path| {
            let mut text = Vec::new();
            let file = File::open(file).ok()?;
            file.take(LONGEST).read_to_end(&mut text).ok()?;
            let mut lines = text.split(|byte| *byte == b'\n');
            let line = lines.find_map(|line| serde_json::from_slice::<Value>(line).ok())?;
            Some(line["at"].as_str()?.to_owned())
        };
        // Without an older file nothing was ever removed.
        first(&self.older).unwrap_or_else(|| {
            let oldest = first(&self.file);
            oldest.map_or_else(|| started.clone(), |oldest| oldest.min(started.clone()))
        })
    }
}

/// The path of the older file: `failures.jsonl.1`.
fn beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".1");
    name.into()
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
}

impl Writer {
    fn new(archive: Arc<Archive>) -> Self {
        Self {
            archive,
            told: 0,
            open: None,
            has_failed: false,
        }
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
                    error!(%file, %error, "failures cannot be kept in admin.failures_file; the worker works on");
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
            (file, size) = open(&self.archive.file)?;
        }
        file.write_all(&text)?;
        self.open = Some((file, size + bytes));
        Ok(())
    }
}

/// Opens the file to append lines, and returns its size. Ends a line that a crash has torn.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    // Errors of messages are not for everybody on the machine.
    options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(path)?;
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
