//! A service behind a proxy, with its moods.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::{Rng, rngs::StdRng};

use crate::support::{HttpHandler, Proxy, Reply, Request, ms};

/// How a service treats its requests.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mood {
    Well,
    /// Nothing listens.
    Away,
    /// Connections are accepted, and nothing comes back.
    Silent,
    /// Each request is answered by this status.
    Status {
        status: u16,
        retry_after: bool,
    },
    /// So many requests in any second are served, and others answered by 429.
    Limited {
        rate: usize,
        retry_after: bool,
    },
    /// Each request takes this long.
    Slow(Duration),
    /// So many in a hundred are answered by 503.
    Flaky(usize),
}

impl Mood {
    pub(super) fn any(random: &mut StdRng) -> Self {
        let retry_after = random.random_bool(0.5);
        match random.random_range(0..8) {
            0 | 1 => Self::Away,
            2 => Self::Silent,
            3 => Self::Status {
                status: [500, 502, 503, 504][random.random_range(0..4)],
                retry_after,
            },
            4 | 5 => Self::Limited {
                rate: random.random_range(5..200),
                retry_after,
            },
            6 => Self::Slow(ms(random.random_range(1..600))),
            _ => Self::Flaky(random.random_range(1..90)),
        }
    }
}

/// The messages that every service refuses for good.
pub(super) fn is_refused(id: &str) -> bool {
    let number = id.rsplit('-').next().and_then(|number| number.parse().ok());
    number.is_some_and(|number: usize| number.is_multiple_of(40))
}

struct State {
    mood: Mood,
    /// When the requests of the last second were served.
    served: VecDeque<Instant>,
}

/// A service.
pub(super) struct Site {
    server: HttpHandler,
    proxy: Proxy,
    state: Arc<Mutex<State>>,
}

impl Site {
    pub(super) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State {
            mood: Mood::Well,
            served: VecDeque::new(),
        }));
        let answering = Arc::clone(&state);
        let server = HttpHandler::answering(move |request| {
            let mut state = answering.lock().unwrap_or_else(PoisonError::into_inner);
            state.answer(request)
        })
        .await;
        let proxy = Proxy::to_address(server.address().to_string()).await;
        Self {
            server,
            proxy,
            state,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.proxy.address())
    }

    /// The messages that were served.
    pub(super) fn served(&self) -> BTreeSet<String> {
        self.server.seen().succeeded().map(str::to_owned).collect()
    }

    /// Changes the mood.
    pub(super) async fn be(&self, mood: Mood) {
        let before = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut state.mood, mood)
        };
        match before {
            Mood::Away => self.proxy.accept_again(),
            Mood::Silent => self.proxy.resume(),
            _ => {}
        }
        match mood {
            Mood::Away => {
                self.proxy.refuse().await;
                self.proxy.cut().await;
            }
            Mood::Silent => self.proxy.stall(),
            _ => {}
        }
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        let refusal = |status, retry_after| match retry_after {
            true => Reply::status(status).header("retry-after", "1"),
            false => Reply::status(status),
        };
        let mood = self.mood;
        match mood {
            Mood::Status {
                status,
                retry_after,
            } => refusal(status, retry_after),
            Mood::Limited { rate, retry_after } if !self.has_room(rate) => {
                refusal(429, retry_after)
            }
            Mood::Flaky(percent) if request.index * 37 % 100 < percent => refusal(503, false),
            _ if is_refused(request.message_id()) => Reply::status(422),
            Mood::Slow(time) => Reply::ok().after(time),
            _ => Reply::ok(),
        }
    }

    /// Whether fewer requests than this were served in the last second.
    fn has_room(&mut self, rate: usize) -> bool {
        let now = Instant::now();
        let old = |at: &Instant| now - *at >= Duration::from_secs(1);
        while self.served.front().is_some_and(old) {
            self.served.pop_front();
        }
        let has_room = self.served.len() < rate;
        if has_room {
            self.served.push_back(now);
        }
        has_room
    }
}
