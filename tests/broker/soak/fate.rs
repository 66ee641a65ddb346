//! What handlers do with a message. The message's number decides.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use lapwing::handler::Shared;
use lapwing::{Context, Failure, Outcome};
use std::sync::Arc;

use super::load::Load;
use crate::support::ms;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Quick,
    Waits,
    Computes,
    Blocks,
    Drops,
    /// Fails once, and then succeeds.
    Fails,
    Panics,
    Snoozes,
    Hangs,
    BlocksTooLong,
    PanicsWhenDropped,
    /// And ends as a dead letter.
    FailsAlways,
    FailsForGood,
    PanicsAlways,
}

impl Fate {
    pub(super) fn of(number: usize) -> Self {
        match number % 1000 {
            10 => Self::Hangs,
            20 => Self::BlocksTooLong,
            30 => Self::PanicsWhenDropped,
            rest => match rest % 40 {
                0 => Self::FailsAlways,
                1 => Self::FailsForGood,
                2 => Self::PanicsAlways,
                3..6 => Self::Fails,
                6 => Self::Panics,
                7 => Self::Snoozes,
                8 => Self::Blocks,
                9..13 => Self::Computes,
                13..18 => Self::Waits,
                18 => Self::Drops,
                _ => Self::Quick,
            },
        }
    }

    pub(super) fn of_id(id: &str) -> Self {
        Self::of(number_of(id))
    }

    pub(super) fn is_dead(self) -> bool {
        matches!(
            self,
            Self::FailsAlways | Self::FailsForGood | Self::PanicsAlways
        )
    }
}

/// Ids end in their number.
fn number_of(id: &str) -> usize {
    let number = id.rsplit('-').next().and_then(|number| number.parse().ok());
    number.expect("it has a number")
}

/// How often each message was handled with success, by consumer and number.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Whether handlers block their threads beyond their timeout, and so delay others on the same
    /// thread. The consumer gives their slots away while they still run.
    keeps: bool,
    pub(super) load: Arc<Load>,
    done: Mutex<BTreeMap<String, usize>>,
    snoozed: Mutex<BTreeSet<String>>,
}

impl Seen {
    pub(super) fn new(keeps: bool) -> Self {
        Self {
            keeps,
            ..Self::default()
        }
    }

    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    pub(super) fn done(&self) -> BTreeMap<String, usize> {
        self.done.lock().expect("no holder panics").clone()
    }

    /// Whether this message has been snoozed before.
    fn snoozed(&self, id: &str) -> bool {
        !self
            .snoozed
            .lock()
            .expect("no holder panics")
            .insert(id.to_owned())
    }

    fn note(&self, context: &Context) {
        let id = context.message().id().unwrap_or_default().to_owned();
        *self
            .done
            .lock()
            .expect("no holder panics")
            .entry(id)
            .or_default() += 1;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a handler that keeps its thread is what is tested"
)]
fn keep_thread(time: Duration) {
    std::thread::sleep(time);
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a panic in a drop");
    }
}

pub(super) async fn handle(context: Context, seen: Shared<Arc<Seen>>) -> Outcome {
    let _inside = (!seen.keeps).then(|| seen.load.enter(context.consumer()));
    let id = context.message().id().unwrap_or_default();
    let number = number_of(id);
    let first = context.attempt() == 1;
    let failed = || Outcome::Failed(Failure::retryable("soak", "not yet"));
    match Fate::of(number) {
        Fate::Quick => {}
        Fate::Waits => tokio::time::sleep(ms(number as u64 % 20)).await,
        Fate::Computes => {
            let until = Instant::now() + Duration::from_micros(number as u64 % 700);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        Fate::Blocks => match number % 3 {
            0 => tokio::task::block_in_place(|| keep_thread(ms(5))),
            1 => keep_thread(ms(3)),
            _ => {
                tokio::task::yield_now().await;
                keep_thread(ms(number as u64 % 30));
            }
        },
        Fate::Drops => {
            seen.note(&context);
            return Outcome::dropped("soak");
        }
        Fate::Fails if first => return failed(),
        Fate::Panics => assert!(!first, "soak"),
        Fate::Snoozes => {
            // A snooze does not count as an attempt.
            if !seen.snoozed(id) {
                return Outcome::snooze(ms(number as u64 % 60));
            }
        }
        Fate::Hangs if first => pending().await,
        Fate::BlocksTooLong if first && seen.keeps => {
            keep_thread(ms(2_500));
            return failed();
        }
        Fate::PanicsWhenDropped if first => {
            let _bomb = PanicsWhenDropped;
            pending::<()>().await;
        }
        Fate::Fails | Fate::Hangs | Fate::BlocksTooLong | Fate::PanicsWhenDropped => {}
        Fate::FailsAlways => return failed(),
        Fate::FailsForGood => return Outcome::Failed(Failure::permanent("soak", "never")),
        Fate::PanicsAlways => panic!("soak"),
    }
    seen.note(&context);
    Outcome::Succeeded
}
