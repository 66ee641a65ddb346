//! A walk through a queue: takes letters window by window, and returns in their order those that
//! nothing has taken out.
//!
//! A window is one subscription whose prefetch is the size of the window. So the broker sends no
//! more than the walk asked for, in the order of the queue, and without a round trip for each
//! letter, which `basic.get` would cost. The letters of all windows stay unsettled until the end,
//! because the broker would deliver a letter that went back earlier next.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::{DeadLettersError, Letter, desk::Desk};
use crate::{
    broker::{
        Acks, BrokerError, CopyHeaders, Delivery, Properties, Publication, PublishError, QueueSpec,
        QueueType, Reading, Returns, Session, Topology, Version, Written,
    },
    retry::Ladder,
};

/// The size of the first window. Nothing is known about the size of the letters yet.
const FIRST: usize = 8;
/// The largest window.
const LARGEST: usize = 2000;
/// The bytes of bodies that a window may hold.
const ROOM: usize = 8 * 1024 * 1024;
/// A letter that may be returned fewer times than this is short of deliveries.
const SHORT: u64 = 5;
/// The wait for a delivery after which the walk asks whether any letter is ready.
const QUIET: Duration = Duration::from_millis(500);
/// The wait for a delivery after which the walk gives up, although letters are ready.
const PATIENCE: Duration = Duration::from_secs(15);
/// The wait until the broker has applied what the walk returned.
const RETURNED: Duration = Duration::from_secs(10);
/// The tries to publish the copy of a letter that has no delivery left.
const TRIES: u32 = 5;

/// The copy that replaces a letter without deliveries left: its properties, and our headers if the copy
/// is a worker's.
pub(super) type Copied = (Properties, Option<CopyHeaders>);
pub(super) type Copier<'a> = dyn Fn(&Letter) -> Copied + Sync + 'a;

/// A letter as its publisher could publish it.
pub(super) fn plain(letter: &Letter) -> Copied {
    (letter.properties.kept(&[]), None)
}

/// What a walk did to the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walked {
    /// Letters that were returned.
    pub(super) returned: u64,
    /// Letters that were replaced by a copy at the end of the queue.
    pub(super) renewed: u64,
    /// Letters that were returned although they are short of deliveries.
    pub(super) short: u64,
}

/// A walk. [`end`](Self::end) returns what it holds.
pub(super) struct Walk<'a, B: Reading> {
    desk: &'a Desk<B>,
    broker: B,
    session: Option<B::Session>,
    spec: QueueSpec,
    /// The letters that were ready at the start.
    pub(super) total: u32,
    /// Those of them that the walk has not met.
    left: u32,
    /// The size of the next window.
    room: usize,
    /// The largest body so far.
    largest: usize,
    /// The last window ended because its letters were larger than expected.
    was_full: bool,
    /// Whether the broker had delivered the last letter before.
    last_was_returned: bool,
    /// The tags that the walk holds, window by window.
    held: Vec<Vec<u64>>,
    /// Whether the queue may not have applied what was taken. Acks of renewed letters do not count: the
    /// walk would ask for a proof and get the copy, which costs the copy a delivery.
    is_unproven: bool,
    renew: bool,
    /// Makes the copy that replaces a letter.
    copier: &'a Copier<'a>,
    limit: Option<u64>,
    counts_returns: bool,
    walked: Walked,
}

impl<'a, B: Reading> Walk<'a, B> {
    /// Begins a walk through the letters that are ready now. `renew`: replace letters that are short
    /// of deliveries by a copy. `copier` makes that copy, also for a letter that has none left.
    pub(super) async fn begin(
        desk: &'a Desk<B>,
        renew: bool,
        copier: &'a Copier<'a>,
    ) -> Result<Self, DeadLettersError> {
        let total = desk.depth().await?;
        let free = |version| version >= Version::RETURNS_FREELY;
        Ok(Self {
            broker: desk.broker.clone(),
            session: None,
            spec: spec(&desk.queue),
            total,
            left: total,
            room: FIRST,
            largest: 0,
            was_full: false,
            last_was_returned: false,
            held: Vec::new(),
            is_unproven: false,
            renew,
            copier,
            limit: desk.limit().await?,
            counts_returns: !desk.broker.version().is_some_and(free),
            walked: Walked::default(),
            desk,
        })
    }

    /// Whether the letters that the walk holds would go back to their places if it ended here. A
    /// quorum queue delivers letters that were returned before all others, in the order of their
    /// return. So behind a letter that was returned before, others of its kind may wait, and would
    /// come before the letters of this walk. RabbitMQ 3 puts a letter of a quorum queue without
    /// delivery limit at the end.
    pub(super) fn may_end(&self) -> bool {
        let goes_last = |version| version < Version::LIMITS;
        let goes_last = self.limit.is_none() && self.broker.version().is_some_and(goes_last);
        self.holds_nothing() || !(goes_last || self.last_was_returned)
    }

    /// Whether the walk holds no letter: then one ack may cover all letters up to a tag.
    pub(super) fn holds_nothing(&self) -> bool {
        self.held.iter().all(Vec::is_empty)
    }

    /// The next letters, at most `most`; none at the end. The caller passes each of them to
    /// [`keep`](Self::keep) or [`take`](Self::take).
    pub(super) async fn window(&mut self, most: usize) -> Result<Vec<Letter>, DeadLettersError> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let size = most.min(left).min(self.room);
        if size == 0 {
            return Ok(Vec::new());
        }
        self.subscribe(size).await?;
        let deliveries = self.deliveries(size).await?;
        self.left = match deliveries.len() < size && !self.was_full {
            true => 0,
            false => self
                .left
                .saturating_sub(u32::try_from(deliveries.len()).unwrap_or(u32::MAX)),
        };
        let largest = deliveries.iter().map(|it| it.body.len()).max();
        self.largest = self.largest.max(largest.unwrap_or(0));
        let fits = (ROOM / self.largest.max(1)).clamp(1, LARGEST);
        self.room = fits.min(self.room * 4);
        Ok(self.read(deliveries))
    }

    /// The letters of a subscription that has ended.
    fn read(&mut self, deliveries: Vec<Delivery>) -> Vec<Letter> {
        self.last_was_returned = deliveries.last().is_some_and(|last| last.redelivered);
        self.held.push(Vec::new());
        deliveries.into_iter().map(Letter::read).collect()
    }

    /// Waits until the queue has applied the acks of what was taken. AMQP has no reply to an ack, and an
    /// ack that the queue has not applied is lost when the channel closes. But the queue answers the
    /// cancellation of a consumer behind the acks. The walk keeps a letter that the queue sends to that
    /// consumer.
    ///
    /// A `basic.get` would show as much. On a queue with a single active consumer it closes the channel,
    /// and the letters that the walk holds would not go back to their places.
    pub(super) async fn prove(&mut self) -> Result<(), DeadLettersError> {
        if !self.is_unproven {
            return Ok(());
        }
        self.subscribe(1).await?;
        let deliveries = self.deliveries(0).await?;
        let count = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
        self.left = self.left.saturating_sub(count);
        let letters = self.read(deliveries);
        self.keep(letters).await
    }

    async fn subscribe(&mut self, size: usize) -> Result<(), BrokerError> {
        self.spec.prefetch = u16::try_from(size).unwrap_or(u16::MAX);
        match &mut self.session {
            None => {
                let (queue, prefetch) = (&self.spec.queue, self.spec.prefetch);
                let session = self
                    .broker
                    .look_into(queue, prefetch, "lapwing-tool")
                    .await?;
                self.session = Some(session);
            }
            Some(session) => {
                let subscription = session.subscribe_again(&self.spec).await?;
                session.resume(subscription);
            }
        }
        Ok(())
    }

    /// Waits for this many deliveries, or until no letter is ready. Then ends the subscription.
    async fn deliveries(&mut self, size: usize) -> Result<Vec<Delivery>, DeadLettersError> {
        let ended = || DeadLettersError::Ended(self.desk.queue.clone());
        let session = self.session.as_mut().ok_or_else(ended)?;
        let mut deliveries: Vec<Delivery> = Vec::with_capacity(size);
        let mut since = Instant::now();
        let mut bytes = 0;
        self.was_full = false;
        while deliveries.len() < size {
            // Larger letters follow small ones. The end of the subscription stops them.
            if bytes > ROOM {
                self.was_full = true;
                break;
            }
            match timeout(QUIET, session.next()).await {
                Ok(next) => {
                    let delivery = next.ok_or_else(ended)??;
                    bytes += delivery.body.len();
                    deliveries.push(delivery);
                    since = Instant::now();
                }
                Err(_) => match self.desk.depth().await? {
                    0 => break,
                    ready if since.elapsed() >= PATIENCE => {
                        let queue = self.desk.queue.clone();
                        return Err(DeadLettersError::Silent { queue, ready });
                    }
                    _ => {}
                },
            }
        }
        session.cancel().await?;
        self.is_unproven = false;
        // What the broker sent before it answered.
        while let Some(more) = session.next().await {
            deliveries.push(more?);
        }
        Ok(deliveries)
    }

    /// Keeps these letters for the queue. They go back at the end of the walk.
    pub(super) async fn keep(&mut self, letters: Vec<Letter>) -> Result<(), DeadLettersError> {
        let mut failed = None;
        for letter in letters {
            let left = self.deliveries_left(&letter);
            let is_short = left.is_some_and(|left| left < SHORT);
            // A return would be the last thing that the broker does with such a letter.
            let must_renew = left == Some(0) || (self.renew && is_short);
            if must_renew {
                match self.renew(&letter, left == Some(0)).await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    // The others need not share its fate.
                    Err(error) => {
                        failed.get_or_insert(error);
                        continue;
                    }
                }
            }
            self.walked.short += u64::from(is_short);
            match self.held.last_mut() {
                Some(tags) => tags.push(letter.tag),
                None => self.held.push(vec![letter.tag]),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// How often the letter can be returned; `None` without limit.
    fn deliveries_left(&self, letter: &Letter) -> Option<u64> {
        let (limit, used) = (self.limit?, letter.summary.deliveries);
        match self.counts_returns {
            true => Some(limit.saturating_sub(used)),
            // Only a lost connection counts. A letter at its limit survives a return, one beyond it
            // does not (measured on 4.3).
            false => Some((limit + 1).saturating_sub(used)),
        }
    }

    /// Replaces a letter by a copy at the end of its queue, which has all its deliveries before it.
    /// False: the letter stays, because the broker may have a copy already. A letter that cannot go back
    /// does not stay: a duplicate is better than no letter.
    async fn renew(&mut self, letter: &Letter, is_last: bool) -> Result<bool, DeadLettersError> {
        let (properties, headers) = (self.copier)(letter);
        let publication = Publication {
            exchange: "",
            routing_key: &self.desk.queue,
            body: &letter.body,
            properties: match headers {
                Some(headers) => Written::Copy(&properties, headers),
                None => Written::New(&properties),
            },
        };
        let mut tries = 1;
        while let Err(error) = self.broker.publish(&publication).await {
            if matches!(error, PublishError::Unconfirmed(_)) && !is_last {
                warn!(id = letter.summary.id, %error, "failed to renew a message; the message stays");
                return Ok(false);
            }
            // It is safe as long as it is held, and an alarm or a lost connection ends.
            let is_passing = matches!(error, PublishError::Blocked | PublishError::NoChannel(_));
            if is_last && is_passing {
                tries = 0;
            }
            if tries == TRIES {
                let id = letter.summary.id.clone();
                return Err(DeadLettersError::NotRenewed { id, error });
            }
            warn!(id = letter.summary.id, %error, "failed to renew a message; trying again");
            tries += 1;
            sleep(Duration::from_secs(1)).await;
        }
        self.ack(&[letter.tag], false).await?;
        self.walked.renewed += 1;
        Ok(true)
    }

    /// Takes letters out of the queue for good. `through`: one ack for everything up to the last of
    /// the tags, which must be all that the walk has.
    pub(super) async fn take(
        &mut self,
        tags: &[u64],
        through: bool,
    ) -> Result<(), DeadLettersError> {
        self.is_unproven |= !tags.is_empty();
        self.ack(tags, through).await
    }

    /// Tells whoever wants to know which letters have left the queue.
    pub(super) fn tell_gone(&self, ids: Vec<String>) {
        if let Some(gone) = &self.desk.gone {
            gone(ids);
        }
    }

    async fn ack(&self, tags: &[u64], through: bool) -> Result<(), DeadLettersError> {
        let Some(session) = self.session.as_ref().filter(|_| !tags.is_empty()) else {
            return Ok(());
        };
        let acks = match through {
            true => Acks {
                through: tags.last().copied(),
                singles: Vec::new(),
            },
            false => Acks {
                through: None,
                singles: tags.to_vec(),
            },
        };
        session.ack(acks).await.1?;
        Ok(())
    }

    /// Waits for the queue to apply the acks. Then returns what the walk holds, oldest first, and waits
    /// until the broker has it.
    pub(super) async fn end(mut self) -> Result<Walked, DeadLettersError> {
        let proven = self.prove().await;
        let Some(session) = self.session.take() else {
            return Ok(self.walked);
        };
        let returned = give_back(&session, &self.held).await;
        if let Ok(count @ 1..) = returned {
            self.walked.returned = count;
            self.wait_for_returned(count).await;
        }
        // Whatever is still unsettled goes back with the channel.
        session.close().await;
        proven?;
        returned?;
        Ok(self.walked)
    }

    /// A channel that closes throws away what its queue has not taken from it yet. So wait until the
    /// letters are ready again, or somebody else has them.
    async fn wait_for_returned(&self, count: u64) {
        let until = Instant::now() + RETURNED;
        while let Ok(ready) = self.desk.depth().await
            && u64::from(ready) < count
            && Instant::now() < until
        {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The letters that one nack returns. A quorum queue of RabbitMQ 3.10 keeps the order of the letters of
/// one nack up to this number, and mixes up more of them (measured).
const AT_ONCE: usize = 32;

/// Returns the letters, oldest first. One nack covers letters of one window only, because RabbitMQ
/// does not keep the order between subscriptions either.
async fn give_back(session: &impl Session, held: &[Vec<u64>]) -> Result<u64, BrokerError> {
    let mut count = 0;
    for tags in held {
        let mut tags = tags.clone();
        // The nack goes to the last one, which must be the newest.
        tags.sort_unstable();
        for tags in tags.chunks(AT_ONCE) {
            count += tags.len() as u64;
            let returns = Returns::Through(tags.to_vec());
            session.give_back(returns).await.1?;
        }
    }
    Ok(count)
}

/// The queue as the session knows it: as it is.
fn spec(queue: &str) -> QueueSpec {
    QueueSpec {
        queue: queue.to_owned(),
        prefetch: 0,
        topology: Topology::None,
        queue_type: QueueType::Quorum,
        arguments: Default::default(),
        bindings: Vec::new(),
        dead_letter_queue: String::new(),
        delivery_limit: 0,
        ladder: Ladder::fixed("", &Default::default()),
    }
}
