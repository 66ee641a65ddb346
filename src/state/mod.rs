//! The state actor: one task owns a map, handles send it commands and get answers.
//!
//! Commands go in over a bounded `mpsc`, answers come back by `oneshot`, and each call has a
//! deadline. If the mailbox stays full for that time, the caller gets [`StateError::Busy`]. The
//! actor carries out every command that its mailbox took.

mod actor;
mod settings;

use std::{collections::HashMap, fmt, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

pub use settings::StateSettings;

use actor::{Actor, Command};

use crate::outcome::{Failure, IntoFailure};

/// Why a call to the state actor gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The mailbox was full until the deadline. The command was not taken.
    #[error("state actor is busy: its mailbox was full until the deadline")]
    Busy,
    /// The command was taken, but not answered before the deadline. It may still be carried out.
    #[error("state actor gave no answer within the deadline")]
    NoAnswer,
    /// The actor has ended.
    #[error("state actor has stopped")]
    Stopped,
    /// The entry is not an integer, or the sum overflows.
    #[error("entry is not an integer that can be incremented")]
    NotAnInteger,
}

impl IntoFailure for StateError {
    fn into_failure(self) -> Failure {
        self.into()
    }
}

/// Sends commands to the state actor. Cheap to clone. The actor ends when the last handle is
/// dropped.
#[derive(Clone)]
pub struct StateHandle {
    mailbox: mpsc::Sender<Command>,
    deadline: Duration,
}

/// Measures how many commands wait for an actor, without keeping the actor alive.
pub(crate) struct MailboxGauge(mpsc::WeakSender<Command>);

impl MailboxGauge {
    /// The number of commands that wait; 0 when the actor has ended.
    pub(crate) fn waiting(&self) -> u64 {
        let mailbox = self.0.upgrade();
        mailbox.map_or(0, |mailbox| {
            (mailbox.max_capacity() - mailbox.capacity()) as u64
        })
    }
}

impl fmt::Debug for StateHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateHandle")
            .field("room", &self.mailbox.capacity())
            .finish_non_exhaustive()
    }
}

/// Starts a state actor on the current runtime: `mailbox` commands may wait, and each call has
/// `deadline` for room in the mailbox and the answer together.
#[must_use]
pub fn start(mailbox: usize, deadline: Duration) -> StateHandle {
    let (state, actor) = new(mailbox, deadline);
    tokio::spawn(actor);
    state
}

/// Starts a state actor in a thread of its own. The functions given to [`StateHandle::update`] are
/// user code: a slow one then delays only other calls to the actor. The thread ends with the actor.
pub(crate) fn start_in_thread(mailbox: usize, deadline: Duration) -> std::io::Result<StateHandle> {
    let (state, actor) = new(mailbox, deadline);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::Builder::new()
        .name("lapwing-state".to_owned())
        .spawn(move || runtime.block_on(actor))?;
    Ok(state)
}

fn new(mailbox: usize, deadline: Duration) -> (StateHandle, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(mailbox.max(1));
    let state = StateHandle {
        mailbox: sender,
        deadline,
    };
    (state, Actor::default().run(receiver))
}

impl StateHandle {
    pub(crate) fn gauge(&self) -> MailboxGauge {
        MailboxGauge(self.mailbox.downgrade())
    }

    /// The entry; `None` if there is none.
    ///
    /// # Errors
    /// [`StateError::Busy`], [`StateError::NoAnswer`] or [`StateError::Stopped`], as for all calls.
    pub async fn get(&self, key: impl Into<String>) -> Result<Option<Value>, StateError> {
        self.call(|answer| Command::Get(key.into(), answer)).await
    }

    /// Sets the entry, and returns the entry before. Without `time_to_live` the entry does not
    /// expire.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn set(
        &self,
        key: impl Into<String>,
        value: impl Into<Value>,
        time_to_live: Option<Duration>,
    ) -> Result<Option<Value>, StateError> {
        self.call(|answer| Command::Set(key.into(), value.into(), time_to_live, answer))
            .await
    }

    /// Removes the entry and returns it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn remove(&self, key: impl Into<String>) -> Result<Option<Value>, StateError> {
        self.call(|answer| Command::Remove(key.into(), answer))
            .await
    }

    /// Adds `by` to an integer entry, and returns the sum. A missing entry counts as 0. The time to
    /// live stays as it was.
    ///
    /// # Errors
    /// [`StateError::NotAnInteger`], and as [`get`](Self::get).
    pub async fn increment(&self, key: impl Into<String>, by: i64) -> Result<i64, StateError> {
        self.call(|answer| Command::Increment(key.into(), by, answer))
            .await?
    }

    /// Sets the entry to `new` if it is `expected`; `None` means no entry. `Ok(Err(entry))`: the
    /// entry was not as expected, and stays as it is.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn compare_and_set(
        &self,
        key: impl Into<String>,
        expected: Option<Value>,
        new: Option<Value>,
    ) -> Result<Result<(), Option<Value>>, StateError> {
        self.call(|answer| Command::CompareAndSet {
            key: key.into(),
            expected,
            new,
            answer,
        })
        .await
    }

    /// Runs a function on the entry inside the actor, and returns the new entry. The function must
    /// be short: all other calls wait for it. If the function panics, the entry stays as it was and
    /// the call returns [`StateError::Stopped`].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn update(
        &self,
        key: impl Into<String>,
        function: impl FnOnce(Option<Value>) -> Option<Value> + Send + 'static,
    ) -> Result<Option<Value>, StateError> {
        self.call(|answer| Command::Update(key.into(), Box::new(function), answer))
            .await
    }

    /// A copy of all entries.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn snapshot(&self) -> Result<HashMap<String, Value>, StateError> {
        self.call(Command::Snapshot).await
    }

    async fn call<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, StateError> {
        let deadline = Instant::now() + self.deadline;
        let (answer, answered) = oneshot::channel();
        let room = timeout_at(deadline, self.mailbox.reserve()).await;
        let room = room.map_err(|_| StateError::Busy)?;
        room.map_err(|_| StateError::Stopped)?.send(command(answer));
        let answer = timeout_at(deadline, answered).await;
        let answer = answer.map_err(|_| StateError::NoAnswer)?;
        answer.map_err(|_| StateError::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DEADLINE: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn entries_are_set_read_counted_and_removed() {
        let state = start(8, DEADLINE);
        assert_eq!(state.set("a", 1, None).await, Ok(None));
        assert_eq!(state.increment("a", 41).await, Ok(42));
        assert_eq!(state.increment("new", -1).await, Ok(-1));
        assert_eq!(
            state.set("a", json!({"x": 1}), None).await,
            Ok(Some(json!(42)))
        );
        assert_eq!(state.increment("a", 1).await, Err(StateError::NotAnInteger));
        assert_eq!(state.snapshot().await.unwrap().len(), 2);
        assert_eq!(state.remove("a").await, Ok(Some(json!({"x": 1}))));
        assert_eq!(state.get("a").await, Ok(None));
        state.set("most", i64::MAX, None).await.unwrap();
        assert_eq!(
            state.increment("most", 1).await,
            Err(StateError::NotAnInteger)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_lives_no_longer_than_its_time() {
        let state = start(8, DEADLINE);
        state
            .set("a", 1, Some(Duration::from_secs(5)))
            .await
            .unwrap();
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(state.increment("a", 1).await, Ok(2));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(state.get("a").await, Ok(None));
        assert_eq!(state.snapshot().await, Ok(HashMap::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_to_live_that_no_clock_reaches_is_for_ever() {
        let state = start(8, DEADLINE);
        let set = state.set("a", 1, Some(Duration::MAX)).await;
        assert_eq!(set, Ok(None));
        assert_eq!(state.increment("a", 1).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn compare_and_set_has_one_winner() {
        let state = start(8, DEADLINE);
        let claim = |who: &'static str| {
            let state = state.clone();
            async move {
                state
                    .compare_and_set("k", None, Some(json!(who)))
                    .await
                    .unwrap()
            }
        };
        let (a, b) = tokio::join!(claim("a"), claim("b"));
        assert_eq!((a, b), (Ok(()), Err(Some(json!("a")))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_update_that_panics_changes_nothing_and_the_actor_lives_on() {
        let state = start(8, DEADLINE);
        let add = |now: Option<Value>| Some(json!(now.unwrap().as_i64().unwrap() * 2));
        state.set("a", 21, None).await.unwrap();
        assert_eq!(state.update("a", add).await, Ok(Some(json!(42))));
        assert_eq!(state.update("b", add).await, Err(StateError::Stopped));
        assert_eq!(state.get("a").await, Ok(Some(json!(42))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_mailbox_is_waited_for_and_then_named() {
        let (sender, mut held) = mpsc::channel(1);
        let state = StateHandle {
            mailbox: sender,
            deadline: DEADLINE,
        };
        let first = tokio::spawn({
            let state = state.clone();
            async move { state.get("a").await }
        });
        let second = tokio::spawn({
            let state = state.clone();
            async move { state.get("b").await }
        });
        assert_eq!(first.await.unwrap(), Err(StateError::NoAnswer));
        assert_eq!(second.await.unwrap(), Err(StateError::Busy));
        assert!(matches!(held.recv().await, Some(Command::Get(key, _)) if key == "a"));
        drop(held);
        assert_eq!(state.get("c").await, Err(StateError::Stopped));
    }
}
