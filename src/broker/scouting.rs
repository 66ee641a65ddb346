//! What the connections of a worker tell each other while the broker is away.
//!
//! Only one of them tries to connect: the scout. The others wait for what it learns. So a broker that
//! comes back sees one attempt of each worker, not one of each connection, and the worker can try
//! more often.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use super::{BrokerError, trust::Trust};

/// The news that connections share. Clones share it and are cheap.
#[derive(Clone, Default)]
pub(crate) struct Scouting {
    turn: Arc<Mutex<()>>,
    news: watch::Sender<News>,
    trust: Arc<Trust>,
}

/// The right to try. Dropping it lets another connection try.
pub(super) struct Turn {
    _guard: OwnedMutexGuard<()>,
}

#[derive(Default)]
struct News {
    /// The number of times that the broker took a connection.
    answers: u64,
    /// Why the last attempt failed.
    error: Option<BrokerError>,
}

impl Scouting {
    /// The users whose copies the worker believes.
    pub(super) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The number of times that the broker took a connection.
    pub(super) fn answers(&self) -> u64 {
        self.news.borrow().answers
    }

    /// The broker took a connection.
    pub(super) fn answered(&self) {
        self.news.send_modify(|news| news.answers += 1);
    }

    /// An attempt failed.
    pub(super) fn failed(&self, error: &BrokerError) {
        self.news
            .send_modify(|news| news.error = Some(error.clone()));
    }

    /// The right to try, if no other connection has it.
    pub(super) fn try_turn(&self) -> Option<Turn> {
        let guard = Arc::clone(&self.turn).try_lock_owned().ok()?;
        Some(Turn { _guard: guard })
    }

    /// Waits until a connection shall try again: at once when the broker took another connection
    /// since `answers`, otherwise after `wait`, if no other connection has the turn. Reports to
    /// `failed` why the attempts of the scout fail.
    pub(super) async fn next(
        &self,
        turn: Option<Turn>,
        wait: Duration,
        answers: u64,
        mut failed: impl FnMut(BrokerError),
    ) -> Option<Turn> {
        let mut news = self.news.subscribe();
        let mut waited = pin!(async {
            let turn = match turn {
                Some(turn) => turn,
                None => Turn {
                    _guard: Arc::clone(&self.turn).lock_owned().await,
                },
            };
            tokio::time::sleep(wait).await;
            turn
        });
        loop {
            if news.borrow_and_update().answers != answers {
                return None;
            }
            tokio::select! {
                biased;
                turn = &mut waited => return Some(turn),
                Ok(()) = news.changed() => {
                    if let Some(error) = news.borrow().error.clone() {
                        failed(error);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    const WAIT: Duration = Duration::from_secs(3);

    fn lost(why: &str) -> BrokerError {
        BrokerError::Lost(why.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_connection_tries_while_the_broker_is_away() {
        let scouting = Scouting::default();
        let turn = scouting.try_turn();
        assert!(turn.is_some());
        assert!(scouting.try_turn().is_none());
        let mut told = Vec::new();
        let other = scouting.next(None, WAIT, 0, |error| told.push(error.to_string()));
        let scout = async {
            let mut turn = turn;
            for why in ["connection refused", "access refused"] {
                turn = scouting.next(turn, WAIT, 0, drop).await;
                assert!(turn.is_some());
                scouting.failed(&lost(why));
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(WAIT * 10).await;
            drop(turn);
        };
        let both = async { tokio::join!(biased; other, scout) };
        assert!(
            timeout(WAIT * 10, both).await.is_err(),
            "the other one waits"
        );
        assert_eq!(told, ["connection refused", "access refused"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_try_at_once_when_the_broker_answers() {
        let scouting = Scouting::default();
        let turn = scouting.try_turn();
        let began = Instant::now();
        let scout = async {
            let turn = scouting.next(turn, WAIT, 0, drop).await;
            scouting.answered();
            drop(turn);
        };
        let (other, ()) = tokio::join!(scouting.next(None, WAIT, 0, drop), scout);
        assert!(other.is_none());
        assert_eq!(began.elapsed(), WAIT);
        // An answer during one's own attempt counts too.
        let late = scouting.next(scouting.try_turn(), WAIT, 0, drop).await;
        assert!(late.is_none());
        assert_eq!(began.elapsed(), WAIT);
    }
}
