//! The pauses that outlast the process: the names of paused consumers, in a small file of JSON.
//!
//! The file has what the lanes say, however a pause was made. Once a second, and after each request that pauses
//! or resumes, the state of the lanes is written if it is not the one in the file. So the file is right even if
//! a client goes away or a consumer obeys late.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::{error, info, warn};

use super::settings::beside;
use crate::WorkerHandle;

/// The file that has the names of the consumers that are paused, if the settings name one.
#[derive(Debug)]
pub(super) struct Pauses {
    file: Option<PathBuf>,
    /// The names as they were read at the start.
    before: BTreeSet<String>,
    written: Arc<Mutex<Written>>,
}

/// What was written to the file.
#[derive(Debug)]
struct Written {
    paused: BTreeSet<String>,
    /// The last write failed.
    has_failed: bool,
}

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    paused: BTreeSet<String>,
}

impl Pauses {
    /// Reads the file.
    ///
    /// # Errors
    /// When there is a file, and it cannot be read: it may say that consumers are paused.
    pub(super) fn read(file: Option<PathBuf>) -> io::Result<Self> {
        let kept = file.as_deref().map(read).transpose()?;
        let before = kept.unwrap_or_default().paused;
        let written = Written {
            paused: before.clone(),
            has_failed: false,
        };
        Ok(Self {
            file,
            before,
            written: Arc::new(Mutex::new(written)),
        })
    }

    /// Lets the consumers of the file begin paused.
    pub(super) fn apply(&self, worker: &WorkerHandle) {
        for name in &self.before {
            match worker.figures(name) {
                None => warn!(
                    consumer = name,
                    "admin.pause_file says that this consumer is paused, but the settings do not have it: its pause is forgotten"
                ),
                Some(figures) if figures.begin_paused() => info!(
                    consumer = name,
                    "paused since before the start of the worker, as admin.pause_file says"
                ),
                Some(_) => warn!(
                    consumer = name,
                    "admin.pause_file says that this consumer is paused, but it already runs: its pause is forgotten"
                ),
            }
        }
    }

    /// Writes which consumers are paused, if the file does not say so.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) async fn keep(&self, worker: &WorkerHandle) -> io::Result<()> {
        let Some(file) = self.file.clone() else {
            return Ok(());
        };
        let mut written = Arc::clone(&self.written).lock_owned().await;
        // Read under the lock, so that of two states the later one is written last.
        let is_paused = |name: &&str| worker.figures(name).is_some_and(|it| it.is_paused());
        let paused: BTreeSet<String> = worker
            .consumers()
            .filter(is_paused)
            .map(str::to_owned)
            .collect();
        if written.paused == paused {
            return Ok(());
        }
        // The task has the lock: it ends the write even if nobody waits for it.
        let writing = tokio::task::spawn_blocking(move || {
            let kept = Kept { paused };
            let result = write(&file, &kept);
            match &result {
                Ok(()) => written.paused = kept.paused,
                Err(error) if !written.has_failed => {
                    let file = file.display();
                    error!(%file, %error, "failed to write admin.pause_file: a restart would bring back the pauses of the last write; trying again");
                }
                Err(_) => {}
            }
            written.has_failed = result.is_err();
            result
        });
        writing.await.map_err(io::Error::other)?
    }
}

fn read(file: &Path) -> io::Result<Kept> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
        Err(error) => Err(error),
    }
}

/// Replaces the file at once, so that a crash leaves the old one or the new one.
fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    let new = beside(file, ".new");
    let mut open = File::create(&new)?;
    open.write_all(&serde_json::to_vec(kept)?)?;
    open.sync_all()?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Worker, config::from_toml, worker::WorkerSettings};

    fn names(pauses: &Pauses) -> Vec<&str> {
        pauses.before.iter().map(String::as_str).collect()
    }

    /// A worker with the consumers `orders` and `mails`, whose lanes have not begun.
    fn worker() -> WorkerHandle {
        let settings: WorkerSettings =
            from_toml("[consumers.orders]\nqueue = 'orders'\n[consumers.mails]\nqueue = 'mails'")
                .unwrap();
        Worker::new(settings).handle()
    }

    #[tokio::test]
    async fn a_pause_is_found_by_the_next_process_until_the_consumer_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("paused.json"));
        let first = Pauses::read(file.clone()).unwrap();
        assert_eq!(names(&first), [""; 0]);
        let before = worker();
        before.figures("orders").unwrap().set_paused(true);
        first.keep(&before).await.unwrap();

        let second = Pauses::read(file.clone()).unwrap();
        assert_eq!(names(&second), ["orders"]);
        let after = worker();
        second.apply(&after);
        let is_paused = |name| after.figures(name).is_some_and(|it| it.is_paused());
        assert!(is_paused("orders") && !is_paused("mails"));
        after.figures("orders").unwrap().set_paused(false);
        second.keep(&after).await.unwrap();
        assert_eq!(names(&Pauses::read(file).unwrap()), [""; 0]);
    }

    #[tokio::test]
    async fn the_file_has_what_the_lanes_say_and_no_other_consumer() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("paused.json");
        fs::write(&file, r#"{"paused":["gone","mails","orders"]}"#).unwrap();
        let pauses = Pauses::read(Some(file.clone())).unwrap();
        let worker = worker();
        // The lane of `orders` has begun: it consumes, whatever the file says.
        assert!(!worker.figures("orders").unwrap().begin());
        pauses.apply(&worker);
        assert!(!worker.figures("orders").unwrap().is_paused());
        pauses.keep(&worker).await.unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), r#"{"paused":["mails"]}"#);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_or_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("paused.json");
        for text in ["", "{", "{\"paused\":3}", "[]"] {
            fs::write(&file, text).unwrap();
            assert!(Pauses::read(Some(file.clone())).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text, "it is left alone");
        }
        assert!(Pauses::read(Some(folder.path().to_owned())).is_err());
        let nowhere = folder.path().join("nowhere/paused.json");
        let pauses = Pauses::read(Some(nowhere)).unwrap();
        let worker = worker();
        worker.figures("orders").unwrap().set_paused(true);
        for _ in 0..2 {
            let error = pauses.keep(&worker).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
