//! The task behind the handles.

use std::{collections::HashMap, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::StateError;

/// The function of [`StateHandle::update`](super::StateHandle::update), which runs inside the
/// actor. It takes the entry and returns the new entry; `None` means no entry.
pub(super) type Update = Box<dyn FnOnce(Option<Value>) -> Option<Value> + Send>;

/// A command to the actor, with the channel for the answer.
pub(super) enum Command {
    Get(String, oneshot::Sender<Option<Value>>),
    Set(
        String,
        Value,
        Option<Duration>,
        oneshot::Sender<Option<Value>>,
    ),
    Remove(String, oneshot::Sender<Option<Value>>),
    Increment(String, i64, oneshot::Sender<Result<i64, StateError>>),
    CompareAndSet {
        key: String,
        expected: Option<Value>,
        new: Option<Value>,
        answer: oneshot::Sender<Result<(), Option<Value>>>,
    },
    Update(String, Update, oneshot::Sender<Option<Value>>),
    Snapshot(oneshot::Sender<HashMap<String, Value>>),
}

/// The task that owns the map.
#[derive(Default)]
pub(super) struct Actor {
    entries: HashMap<String, Entry>,
    /// The number of commands since expired entries were last removed.
    unswept: usize,
}

struct Entry {
    value: Value,
    expires: Option<Instant>,
}

impl Entry {
    fn is_alive(&self) -> bool {
        self.expires.is_none_or(|at| Instant::now() < at)
    }
}

impl Actor {
    pub(super) async fn run(mut self, mut mailbox: mpsc::Receiver<Command>) {
        while let Some(command) = mailbox.recv().await {
            self.carry_out(command);
            self.sweep();
        }
    }

    /// Carries out one command. A send fails when the caller has gone away; then nobody needs the
    /// answer.
    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Get(key, answer) => {
                let _ = answer.send(self.get(&key));
            }
            Command::Set(key, value, time_to_live, answer) => {
                // An expiry that overflows the clock means never.
                let expires = time_to_live.and_then(|time| Instant::now().checked_add(time));
                let _ = answer.send(self.put(key, Some(value), expires));
            }
            Command::Remove(key, answer) => {
                let _ = answer.send(self.put(key, None, None));
            }
            Command::Increment(key, by, answer) => {
                let _ = answer.send(self.increment(key, by));
            }
            Command::CompareAndSet {
                key,
                expected,
                new,
                answer,
            } => {
                let now = self.get(&key);
                let verdict = if now == expected {
                    let expires = self.expiry(&key);
                    self.put(key, new, expires);
                    Ok(())
                } else {
                    Err(now)
                };
                let _ = answer.send(verdict);
            }
            Command::Update(key, function, answer) => {
                let now = self.get(&key);
                let function = std::panic::AssertUnwindSafe(|| function(now));
                // A panic drops `answer`, which the caller sees as `Stopped`.
                if let Ok(then) = std::panic::catch_unwind(function) {
                    let expires = self.expiry(&key);
                    self.put(key, then.clone(), expires);
                    let _ = answer.send(then);
                }
            }
            Command::Snapshot(answer) => {
                let alive = self.entries.iter().filter(|(_, entry)| entry.is_alive());
                let copy = alive.map(|(key, entry)| (key.clone(), entry.value.clone()));
                let _ = answer.send(copy.collect());
            }
        }
    }

    fn get(&self, key: &str) -> Option<Value> {
        let entry = self.entries.get(key).filter(|entry| entry.is_alive())?;
        Some(entry.value.clone())
    }

    fn expiry(&self, key: &str) -> Option<Instant> {
        let entry = self.entries.get(key).filter(|entry| entry.is_alive())?;
        entry.expires
    }

    fn put(
        &mut self,
        key: String,
        value: Option<Value>,
        expires: Option<Instant>,
    ) -> Option<Value> {
        let before = match value {
            Some(value) => self.entries.insert(key, Entry { value, expires }),
            None => self.entries.remove(&key),
        };
        before.filter(Entry::is_alive).map(|entry| entry.value)
    }

    fn increment(&mut self, key: String, by: i64) -> Result<i64, StateError> {
        let now = match self.get(&key) {
            None => 0,
            Some(value) => value.as_i64().ok_or(StateError::NotAnInteger)?,
        };
        let sum = now.checked_add(by).ok_or(StateError::NotAnInteger)?;
        let expires = self.expiry(&key);
        self.put(key, Some(sum.into()), expires);
        Ok(sum)
    }

    /// Removes expired entries, once there were as many commands as there are entries. So the
    /// average cost of a command does not grow with the map.
    fn sweep(&mut self) {
        self.unswept += 1;
        if self.unswept > self.entries.len().max(1024) {
            self.unswept = 0;
            self.entries.retain(|_, entry| entry.is_alive());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn dead_entries_are_swept_out() {
        let mut actor = Actor::default();
        for n in 0..5000 {
            let expires = Some(Instant::now() + Duration::from_millis(1));
            actor.put(n.to_string(), Some(json!(n)), expires);
            actor.sweep();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..5001 {
            actor.sweep();
        }
        assert!(actor.entries.is_empty());
    }
}
