//! Storing, expiring, dropping and dead-lettering messages.

use std::{iter, time::Duration};

use tokio::time::Instant;

use super::{
    Model, Release,
    arguments::{Overflow, Target, Type},
    death::Reason,
    message::Stored,
    queue::Dying,
    timers::Due,
};

/// The wait before a quorum queue publishes a dead letter again that was not confirmed.
const AGAIN: Duration = Duration::from_mins(3);

/// The dead letters that a queue publishes at a time.
const PREFETCH: usize = 32;

/// What a queue did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    Stored,
    /// The queue is full and refuses the message.
    Refused,
    /// The queue has no leader: it stores the message later.
    Late,
    NoQueue,
}

impl Model {
    pub(super) fn is_quorum(&self, name: &str) -> bool {
        let queue = self.queues.get(name);
        queue.is_some_and(|queue| queue.kind == Type::Quorum)
    }

    /// Puts a message at the end of a queue.
    pub(super) fn store(&mut self, name: &str, message: Stored) -> Placed {
        let Some(queue) = self.queues.get_mut(name) else {
            return Placed::NoQueue;
        };
        let is_classic = queue.kind == Type::Classic;
        if queue.leaderless {
            queue.late.push(message);
            return Placed::Late;
        }
        let refuses = match queue.kind {
            Type::Quorum => queue.refusing,
            Type::Classic => queue.limits.overflow != Overflow::DropHead && queue.is_full(),
        };
        if refuses {
            if queue.limits.overflow == Overflow::RejectPublishDlx && is_classic {
                self.dead_letter(name, vec![message], Reason::MaxLen);
            }
            return Placed::Refused;
        }
        queue.push(message, Instant::now());
        self.deliver(name);
        if is_classic {
            self.drop_expired(name);
            self.watch_expiry(name);
        }
        Placed::Stored
    }

    /// Dead-letters the expired messages at the head of a queue.
    pub(super) fn drop_expired(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        if queue.leaderless {
            return;
        }
        let now = Instant::now();
        let expired: Vec<_> = iter::from_fn(|| queue.pop_expired(now)).collect();
        self.dead_letter(name, expired, Reason::Expired);
    }

    /// Drops messages from the head of a queue that is too long, or lets it refuse new ones.
    pub(super) fn shrink(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        if queue.limits.overflow != Overflow::DropHead {
            if queue.is_too_long() {
                queue.refusing = true;
            } else if queue.has_shrunk() {
                queue.refusing = false;
            }
            return;
        }
        queue.refusing = false;
        let mut over = Vec::new();
        while queue.is_too_long()
            && let Some(message) = queue.ready.pop()
        {
            over.push(message);
        }
        if queue.kind == Type::Quorum && self.release != Release::V43 {
            // Before 4.3 a quorum queue publishes what it drops at once in the reverse order.
            over.reverse();
        }
        self.dead_letter(name, over, Reason::MaxLen);
    }

    /// Looks at the queue again when its next message expires.
    pub(super) fn watch_expiry(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        let Some(at) = queue.expires_at() else {
            return;
        };
        if queue.check_at.is_none_or(|known| at < known) {
            queue.check_at = Some(at);
            self.timers.at(at, Due::Expire(name.to_owned()));
        }
    }

    /// Moves messages to the dead-letter target of their queue. Without a target they are dropped.
    pub(super) fn dead_letter(&mut self, name: &str, messages: Vec<Stored>, reason: Reason) {
        let Some(queue) = self.queues.get_mut(name).filter(|_| !messages.is_empty()) else {
            return;
        };
        let (target, confirms) = (queue.limits.target.clone(), queue.limits.at_least_once);
        let Some(target) = target else {
            self.dropped.extend(messages);
            return;
        };
        if confirms {
            let dying = messages.into_iter().map(|message| Dying {
                message,
                reason,
                again_at: None,
            });
            queue.dying.extend(dying);
            self.publish_dying(name);
            return;
        }
        for message in messages {
            let Some(moved) = self.moved(name, &target, &message, reason) else {
                self.dropped.push(message);
                continue;
            };
            let key = moved.routing_key.to_string();
            match self.store(&key, moved) {
                Placed::Stored | Placed::Late => {}
                Placed::Refused | Placed::NoQueue => self.dropped.push(message),
            }
        }
    }

    /// The message as its dead-letter target gets it; `None` if it would go round without end.
    fn moved(
        &self,
        name: &str,
        target: &Target,
        message: &Stored,
        reason: Reason,
    ) -> Option<Stored> {
        let key = match target {
            Target::Queue(queue) => queue.clone(),
            Target::OwnKey => message.routing_key.to_string(),
            Target::Nowhere => return None,
        };
        let moved = message.clone();
        let moved = moved.dead_lettered(name, reason, &key, self.release);
        (!moved.has_died_in(&key)).then_some(moved)
    }

    /// Publishes the dead letters of a quorum queue that are due. What the target does not confirm,
    /// the queue keeps and publishes again later.
    pub(super) fn publish_dying(&mut self, name: &str) {
        let now = Instant::now();
        let mut at = 0;
        let mut again = None;
        while let Some(queue) = self.queues.get(name)
            && at < PREFETCH
            && let Some(dying) = queue.dying.get(at)
            && let Some(target) = queue.limits.target.clone()
        {
            if dying.again_at.is_some_and(|again| again > now) {
                at += 1;
                continue;
            }
            let (reason, message) = (dying.reason, dying.message.clone());
            let placed = match self.moved(name, &target, &message, reason) {
                Some(moved) => {
                    let key = moved.routing_key.to_string();
                    let has_leader = self.queues.get(&key).is_some_and(|it| !it.leaderless);
                    if has_leader {
                        self.store(&key, moved)
                    } else {
                        Placed::NoQueue
                    }
                }
                // The queue never gets rid of a message that goes round, nor of one whose exchange
                // is missing.
                None => Placed::NoQueue,
            };
            let Some(queue) = self.queues.get_mut(name) else {
                return;
            };
            if placed == Placed::Stored {
                queue.dying.remove(at);
            } else if let Some(dying) = queue.dying.get_mut(at) {
                dying.again_at = Some(now + AGAIN);
                again = Some(now + AGAIN);
                at += 1;
            }
        }
        if let Some(time) = again {
            self.timers.at(time, Due::DeadLetter(name.to_owned()));
        }
        self.shrink(name);
    }
}
