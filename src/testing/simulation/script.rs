//! A script: what happens to workers, handlers and broker, and when. A script and its seed give one
//! run, always the same.

use serde::{Deserialize, Serialize};

use crate::broker::fake::Release;

/// Milliseconds on tokio's clock, since the begin of the run.
pub(super) type Millis = u64;

/// One run: the world in which it takes place, and its events in the order of their times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) world: World,
    pub(super) events: Vec<(Millis, Event)>,
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct World {
    pub(super) release: Year,
    /// Worker processes, each with all lanes.
    pub(super) workers: usize,
    /// Consumers of each worker, each with a queue of its own.
    pub(super) lanes: usize,
    pub(super) concurrency: u16,
    pub(super) prefetch: u16,
    pub(super) timeout: Millis,
    pub(super) cancel_grace: Millis,
    pub(super) max_attempts: u32,
    pub(super) retry_base: Millis,
    pub(super) inline_below: Millis,
    pub(super) delivery_limit: u32,
    pub(super) ack_batch: u16,
    pub(super) ack_delay: Millis,
    pub(super) budget: Millis,
    pub(super) hold: Millis,
    pub(super) grace: Millis,
    /// The time that a frame takes from a worker to the broker.
    pub(super) latency: Millis,
    /// Whether a consumer stops while its service is down.
    #[serde(default)]
    pub(super) breaker: bool,
    /// The most attempts of a consumer in a second; 0: no such limit.
    #[serde(default)]
    pub(super) rate: u32,
}

/// A release of RabbitMQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Year {
    V310,
    V40,
    V43,
}

impl From<Year> for Release {
    fn from(year: Year) -> Self {
        match year {
            Year::V310 => Self::V3,
            Year::V40 => Self::V40,
            Year::V43 => Self::V43,
        }
    }
}

/// What a handler does in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    Succeed(Millis),
    Fail(Millis),
    /// Fails, and names the time until the next attempt.
    FailFor(Millis),
    /// Fails for good.
    Reject(Millis),
    Panic(Millis),
    Snooze(Millis),
    Drop,
    /// Never ends, and does not ask for its cancellation.
    Hang,
    /// Ends with a failure when it is cancelled.
    Heed,
    /// Asks for its cancellation, but never ends.
    Ignore,
    /// Succeeds this long after its cancellation.
    Late(Millis),
}

/// The lines that a frame travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Line {
    Consuming,
    Publishing,
}

/// How the broker answers one publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Nack,
    /// No queue takes the message.
    Return,
    /// The message is stored, and the confirm comes this late.
    Late(Millis),
    /// The message is stored, and the confirm never comes.
    Silence,
    /// The message never reaches the broker, and the publisher learns nothing.
    Swallowed,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Event {
    /// Messages arrive together. For each, what its handler does in its runs; after these it succeeds.
    Publish {
        lane: usize,
        plans: Vec<Vec<Step>>,
    },
    Pause {
        worker: usize,
        lane: usize,
    },
    Resume {
        worker: usize,
        lane: usize,
    },
    Concurrency {
        worker: usize,
        lane: usize,
        limit: u16,
    },
    /// An operator cancels one of the handlers that run.
    Cancel {
        worker: usize,
        lane: usize,
        pick: usize,
    },
    /// SIGTERM. The worker is started again this long after its end.
    Drain {
        worker: usize,
        again: Millis,
    },
    /// A second signal.
    StopNow {
        worker: usize,
    },
    /// SIGKILL. Of the frames under way, this many still reach the broker. The worker is started
    /// again after a while.
    Kill {
        worker: usize,
        frames: usize,
        again: Millis,
    },
    /// A connection breaks. Of the frames under way, this many still reach the broker. The worker
    /// notices after a while, and is connected again after another.
    Cut {
        worker: usize,
        line: Line,
        frames: usize,
        notice: Millis,
        back: Millis,
    },
    /// The consuming channels of one lane close.
    ChannelLost {
        worker: usize,
        lane: usize,
        notice: Millis,
    },
    ConsumerCancelled {
        lane: usize,
    },
    /// The broker answers the next requests to subscribe of this worker with an error.
    RefuseSubscriptions {
        worker: usize,
        count: usize,
    },
    /// Answers to this worker's requests are late.
    LateAnswers {
        worker: usize,
        by: Millis,
    },
    /// The socket takes nothing for this time.
    Stall {
        worker: usize,
        line: Line,
        time: Millis,
    },
    /// A memory alarm: publishing is blocked for this time.
    Alarm {
        time: Millis,
    },
    /// The answers to the next publishes of this worker.
    Answers {
        worker: usize,
        answers: Vec<Answer>,
    },
    /// The time of day jumps. Tokio's clock does not.
    Jump {
        by: Millis,
        back: bool,
    },
}

impl Script {
    /// The number of messages.
    pub(super) fn messages(&self) -> usize {
        let plans = self.events.iter().map(|(_, event)| match event {
            Event::Publish { plans, .. } => plans.len(),
            _ => 0,
        });
        plans.sum()
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = format!("seed {}\n{}\n", self.seed, json(&self.world));
        for (at, event) in &self.events {
            text += &format!("{at} {}\n", json(event));
        }
        text
    }

    /// Reads what [`to_text`](Self::to_text) wrote. Lines that begin with `#` are comments.
    pub(super) fn from_text(text: &str) -> Self {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let seed = lines.next().and_then(|line| line.strip_prefix("seed "));
        let world = lines.next().expect("a script has a world");
        let events = lines.map(|line| {
            let (at, event) = line.split_once(' ').expect("a line is a time and an event");
            let event = serde_json::from_str(event).expect("an event can be read");
            (at.parse().expect("a time is a number"), event)
        });
        Self {
            seed: seed
                .and_then(|it| it.parse().ok())
                .expect("a script has a seed"),
            world: serde_json::from_str(world).expect("the world can be read"),
            events: events.collect(),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("it can be written")
}
