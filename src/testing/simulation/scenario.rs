//! Makes a script from a seed. Each kind of fault is switched on in half of the runs ("swarm"), so that
//! the kinds do not hide each other.

use super::script::{Answer, Event, Line, Millis, Script, Step, World, Year};
use crate::chance::Dice;

/// The time in which events happen.
const SPAN: Millis = 30_000;

/// Draws values for a script.
struct Draw(Dice);

impl Draw {
    fn coin(&mut self) -> bool {
        self.0.below(2) == 1
    }

    fn one_in(&mut self, number: u64) -> bool {
        self.0.below(number) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let place = usize::try_from(self.0.below(all.len() as u64)).unwrap_or_default();
        all[place]
    }

    fn number(&mut self, limit: usize) -> usize {
        usize::try_from(self.0.below(limit as u64)).unwrap_or_default()
    }

    /// When an event happens: at any time, or near others, because faults that come together show most.
    fn when(&mut self, hot: &[Millis]) -> Millis {
        match self.coin() {
            true => self.0.below(SPAN),
            false => self.one_of(hot) + self.time(1000),
        }
    }

    /// A time: often 0 or short, sometimes long.
    fn time(&mut self, longest: Millis) -> Millis {
        match self.0.below(4) {
            0 => 0,
            1 => self.0.below(20),
            2 => self.0.below(longest / 10 + 1),
            _ => self.0.below(longest + 1),
        }
    }
}

/// The script of a seed.
pub(super) fn script(seed: u64) -> Script {
    let mut draw = Draw(Dice::new(seed));
    let world = world(&mut draw);
    let steps = steps(&mut draw);
    let kinds: Vec<_> = KINDS.iter().filter(|_| draw.coin()).collect();
    let hot: Vec<_> = (0..1 + draw.number(3))
        .map(|_| draw.0.below(SPAN))
        .collect();
    let mut events = Vec::new();
    let most = draw.one_of(&[4, 24, 24, 100]);
    for _ in 0..=draw.number(6) {
        let plans = (0..1 + draw.number(most)).map(|_| plan(&mut draw, &steps, &world));
        let plans = plans.collect();
        let lane = draw.number(world.lanes);
        events.push((draw.when(&hot), Event::Publish { lane, plans }));
    }
    if !kinds.is_empty() {
        for _ in 0..draw.number(24) {
            let kind = kinds[draw.number(kinds.len())];
            let event = kind(&mut draw, &world);
            events.push((draw.when(&hot), event));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    Script {
        seed,
        world,
        events,
    }
}

fn world(draw: &mut Draw) -> World {
    let concurrency = draw.one_of(&[1, 1, 2, 3, 8]);
    World {
        release: draw.one_of(&[Year::V310, Year::V40, Year::V43]),
        workers: draw.one_of(&[1, 1, 2, 3]),
        lanes: draw.one_of(&[1, 1, 2]),
        concurrency,
        prefetch: concurrency * draw.one_of(&[1, 2, 4, 8]),
        timeout: draw.one_of(&[500, 2000, 10_000]),
        cancel_grace: draw.one_of(&[0, 200, 1000]),
        max_attempts: draw.one_of(&[1, 2, 3, 5]),
        retry_base: draw.one_of(&[1, 100, 1000, 4000]),
        inline_below: draw.one_of(&[0, 1000, 8000]),
        delivery_limit: draw.one_of(&[100, 100, 4]),
        ack_batch: draw.one_of(&[1, 4, 64]),
        ack_delay: draw.one_of(&[1, 10, 500]),
        budget: draw.one_of(&[500, 5000, 30_000]),
        hold: draw.one_of(&[100, 1000, 5000]),
        grace: draw.one_of(&[0, 500, 5000, 25_000]),
        latency: draw.one_of(&[0, 0, 1, 20, 200]),
        breaker: draw.one_of(&[false, true]),
        rate: draw.one_of(&[0, 0, 5, 100, 2000]),
    }
}

/// The steps that handlers of this run take, apart from success.
fn steps(draw: &mut Draw) -> Vec<Step> {
    let all = [
        Step::Succeed(1),
        Step::Fail(0),
        Step::Fail(50),
        Step::FailFor(3000),
        Step::Reject(0),
        Step::Panic(0),
        Step::Panic(30),
        Step::Snooze(500),
        Step::Snooze(20_000),
        Step::Drop,
        Step::Hang,
        Step::Heed,
        Step::Ignore,
        Step::Late(0),
        Step::Late(100),
    ];
    all.into_iter().filter(|_| draw.coin()).collect()
}

fn plan(draw: &mut Draw, steps: &[Step], world: &World) -> Vec<Step> {
    if steps.is_empty() || draw.coin() {
        return vec![Step::Succeed(draw.time(world.timeout))];
    }
    (0..1 + draw.number(5))
        .map(|_| match draw.one_in(3) {
            true => Step::Succeed(draw.time(world.timeout + 100)),
            false => draw.one_of(steps),
        })
        .collect()
}

type Kind = fn(&mut Draw, &World) -> Event;

/// The kinds of event. To add a kind, add a variant to `Event`, what it does to `Play`, and a line here.
const KINDS: [Kind; 17] = [
    |draw, world| Event::Pause {
        worker: draw.number(world.workers),
        lane: draw.number(world.lanes),
    },
    |draw, world| Event::Resume {
        worker: draw.number(world.workers),
        lane: draw.number(world.lanes),
    },
    |draw, world| Event::Concurrency {
        worker: draw.number(world.workers),
        lane: draw.number(world.lanes),
        limit: draw.one_of(&[1, 2, 4, 16]),
    },
    |draw, world| Event::Cancel {
        worker: draw.number(world.workers),
        lane: draw.number(world.lanes),
        pick: draw.number(8),
    },
    |draw, world| Event::Drain {
        worker: draw.number(world.workers),
        again: draw.time(3000),
    },
    |draw, world| Event::StopNow {
        worker: draw.number(world.workers),
    },
    |draw, world| Event::Kill {
        worker: draw.number(world.workers),
        frames: draw.number(4),
        again: draw.time(3000),
    },
    |draw, world| cut(draw, world, Line::Consuming),
    |draw, world| cut(draw, world, Line::Publishing),
    |draw, world| Event::ChannelLost {
        worker: draw.number(world.workers),
        lane: draw.number(world.lanes),
        notice: draw.time(500),
    },
    |draw, world| Event::ConsumerCancelled {
        lane: draw.number(world.lanes),
    },
    |draw, world| Event::RefuseSubscriptions {
        worker: draw.number(world.workers),
        count: 1 + draw.number(3),
    },
    |draw, world| Event::LateAnswers {
        worker: draw.number(world.workers),
        by: draw.time(15_000),
    },
    |draw, world| Event::Stall {
        worker: draw.number(world.workers),
        line: draw.one_of(&[Line::Consuming, Line::Publishing]),
        time: draw.time(25_000),
    },
    |draw, _| Event::Alarm {
        time: draw.time(20_000),
    },
    |draw, world| Event::Answers {
        worker: draw.number(world.workers),
        answers: answers(draw),
    },
    |draw, _| Event::Jump {
        by: draw.time(600_000),
        back: draw.coin(),
    },
];

fn cut(draw: &mut Draw, world: &World, line: Line) -> Event {
    Event::Cut {
        worker: draw.number(world.workers),
        line,
        frames: draw.number(4),
        notice: draw.time(20_000),
        back: draw.time(5000),
    }
}

fn answers(draw: &mut Draw) -> Vec<Answer> {
    let late = Answer::Late(draw.time(20_000));
    let all = [
        Answer::Nack,
        Answer::Return,
        late,
        Answer::Silence,
        Answer::Swallowed,
    ];
    (0..1 + draw.number(8)).map(|_| draw.one_of(&all)).collect()
}
