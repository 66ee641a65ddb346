//! The pauses that outlast the process: the names of paused consumers, in a small file of JSON.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::{error, info};

use crate::WorkerHandle;

/// The consumers that are paused, and the file that has their names, if the settings name one.
#[derive(Debug)]
pub(super) struct Pauses {
    file: Option<PathBuf>,
    /// The names as they were read at the start.
    before: BTreeSet<String>,
    /// The names as they are now.
    paused: Mutex<BTreeSet<String>>,
}

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    paused: BTreeSet<String>,
}

impl Pauses {
    /// Reads the file. A file that cannot be read pauses nothing.
    pub(super) fn read(file: Option<PathBuf>) -> Self {
        let kept = file.as_deref().map(|file| match read(file) {
            Ok(kept) => kept,
            Err(error) => {
                let file = file.display();
                error!(%file, %error, "failed to read admin.pause_file: no consumer begins paused");
                Kept::default()
            }
        });
        let before = kept.unwrap_or_default().paused;
        Self {
            file,
            paused: Mutex::new(before.clone()),
            before,
        }
    }

    /// Lets the consumers of the file begin paused.
    pub(super) fn apply(&self, worker: &WorkerHandle) {
        for name in worker
            .consumers()
            .filter(|name| self.before.contains(*name))
        {
            worker.begin_paused(name);
            info!(
                consumer = name,
                "paused since before the start of the worker, as admin.pause_file says"
            );
        }
    }

    /// Notes that these consumers were paused or resumed. Names of consumers that the worker does not have
    /// stay in the file: its settings may get them back.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) async fn note(
        &self,
        consumers: impl IntoIterator<Item = String>,
        paused: bool,
    ) -> io::Result<()> {
        // Keep the lock while the file is written: of two changes the later one is written last.
        let mut names = self.paused.lock().await;
        for name in consumers {
            match paused {
                true => names.insert(name),
                false => names.remove(&name),
            };
        }
        let Some(file) = self.file.clone() else {
            return Ok(());
        };
        let kept = Kept {
            paused: names.clone(),
        };
        let written = tokio::task::spawn_blocking(move || write(&file, &kept));
        written.await.map_err(io::Error::other)?
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
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
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

    #[tokio::test]
    async fn a_pause_is_found_by_the_next_process_until_the_consumer_is_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let file = Some(folder.path().join("paused.json"));
        let first = Pauses::read(file.clone());
        assert_eq!(names(&first), [""; 0]);
        let both = ["orders", "gone"].map(str::to_owned);
        first.note(both, true).await.unwrap();

        let second = Pauses::read(file.clone());
        assert_eq!(names(&second), ["gone", "orders"]);
        let settings: WorkerSettings =
            from_toml("[consumers.orders]\nqueue = 'orders'\n[consumers.mails]\nqueue = 'mails'")
                .unwrap();
        let worker = Worker::new(settings).handle();
        second.apply(&worker);
        let begins_paused = |name| worker.figures(name).is_some_and(|it| it.begins_paused());
        assert!(begins_paused("orders") && !begins_paused("mails"));
        second.note(["orders".to_owned()], false).await.unwrap();
        assert_eq!(names(&Pauses::read(file)), ["gone"]);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_pauses_nothing_and_one_that_cannot_be_written_is_an_error()
    {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("paused.json");
        for text in ["", "{", "{\"paused\":3}", "[]"] {
            fs::write(&file, text).unwrap();
            let pauses = Pauses::read(Some(file.clone()));
            assert_eq!(names(&pauses), [""; 0], "{text}");
        }
        let nowhere = folder.path().join("nowhere/paused.json");
        let pauses = Pauses::read(Some(nowhere));
        let error = pauses.note(["orders".to_owned()], true).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
