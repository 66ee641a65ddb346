//! Random scripts.

use std::fmt;

use proptest::{collection::vec, prelude::*};

use crate::broker::{
    Acks, Returns,
    fake::{Arguments, Type},
};

/// The queues of a script: `work` dead-letters to `dead` or not; `dead` has no limits.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// The beginning of the queues' names.
    pub(super) prefix: String,
    pub(super) work: Arguments,
    pub(super) dead: Arguments,
    pub(super) steps: Vec<Step>,
}

/// One step. Numbers that name a session or a delivery count modulo those that there are; a step
/// without an object does nothing.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The worker publishes, mandatory and confirmed. Queue 2 does not exist.
    Publish {
        queue: usize,
        letter: Letter,
    },
    /// A lane subscribes.
    Open {
        prefetch: u16,
        dead: bool,
    },
    Ack {
        session: usize,
        through: Option<usize>,
        singles: Vec<usize>,
    },
    Return {
        session: usize,
        deliveries: Vec<usize>,
        multiple: bool,
    },
    /// An ack of a tag that is not unsettled.
    AckUnknown {
        session: usize,
    },
    Cancel {
        session: usize,
    },
    SubscribeAgain {
        session: usize,
        prefetch: u16,
    },
    Close {
        session: usize,
    },
    /// The connection of a session ends. The other sessions close before.
    Kill {
        session: usize,
    },
    Delete {
        dead: bool,
    },
    /// Another client declares the work queue, perhaps with other arguments.
    Declare {
        dead: bool,
        other: bool,
    },
    Purge {
        dead: bool,
    },
    /// Another client takes a message and acks it.
    Take {
        dead: bool,
    },
}

/// What a message has besides its body.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    /// Expires at once, or never.
    pub(super) expires: bool,
    pub(super) priority: Option<u8>,
    /// A delivery count that the client writes.
    pub(super) count: Option<u32>,
}

fn letters() -> impl Strategy<Value = Letter> {
    (
        prop::bool::weighted(0.05),
        prop::option::weighted(0.2, 0_u8..8),
        prop::option::weighted(0.03, 1_u32..4),
    )
        .prop_map(|(expires, priority, count)| Letter {
            expires,
            priority,
            count,
        })
}

fn arguments(dead: String) -> impl Strategy<Value = Arguments> {
    let kind = prop_oneof![Just(Type::Quorum), Just(Type::Classic)];
    (
        kind,
        prop::option::weighted(0.5, 0_i64..4),
        prop::option::weighted(0.3, (0_i64..5, 0_u8..3)),
        prop::option::weighted(0.6, any::<bool>()),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.15),
        prop::option::weighted(0.2, 1_i64..6),
    )
        .prop_map(
            move |(kind, limit, length, net, at_once, single, priorities)| {
                let mut arguments = Arguments::of(kind);
                if let Some(limit) = limit.filter(|_| kind == Type::Quorum) {
                    arguments = arguments.int("x-delivery-limit", limit);
                }
                if let Some(priorities) = priorities.filter(|_| kind == Type::Classic) {
                    arguments = arguments.int("x-max-priority", priorities);
                }
                if let Some(at_least_once) = net {
                    arguments = arguments.dead_letters_to(&dead);
                    if at_least_once && kind == Type::Quorum {
                        arguments = arguments.at_least_once();
                    }
                }
                if let Some((length, overflow)) = length {
                    arguments = arguments.int("x-max-length", length);
                    let overflows: &[&str] = match kind {
                        Type::Quorum => &["drop-head", "reject-publish"],
                        Type::Classic => &["drop-head", "reject-publish", "reject-publish-dlx"],
                    };
                    if net != Some(true) {
                        let overflow = overflows[usize::from(overflow) % overflows.len()];
                        arguments = arguments.text("x-overflow", overflow);
                    }
                }
                if at_once {
                    arguments = arguments.int("x-message-ttl", 0);
                }
                if single {
                    arguments = arguments.flag("x-single-active-consumer");
                }
                arguments
            },
        )
}

fn steps() -> impl Strategy<Value = Step> {
    let session = || 0_usize..4;
    let deliveries = || vec(0_usize..6, 1..4);
    let dead = || prop::bool::weighted(0.2);
    prop_oneof![
        18 => (0_usize..8, letters()).prop_map(|(queue, letter)| Step::Publish {
            queue: [0, 0, 0, 0, 0, 1, 1, 2][queue],
            letter,
        }),
        6 => (prop_oneof![1_u16..6, Just(0)], dead())
            .prop_map(|(prefetch, dead)| Step::Open { prefetch, dead }),
        8 => (session(), prop::option::of(0_usize..4), vec(0_usize..6, 0..3))
            .prop_map(|(session, through, singles)| Step::Ack { session, through, singles }),
        14 => (session(), deliveries(), any::<bool>()).prop_map(
            |(session, deliveries, multiple)| Step::Return { session, deliveries, multiple }
        ),
        1 => session().prop_map(|session| Step::AckUnknown { session }),
        3 => session().prop_map(|session| Step::Cancel { session }),
        3 => (session(), 1_u16..6)
            .prop_map(|(session, prefetch)| Step::SubscribeAgain { session, prefetch }),
        3 => session().prop_map(|session| Step::Close { session }),
        2 => session().prop_map(|session| Step::Kill { session }),
        1 => dead().prop_map(|dead| Step::Delete { dead }),
        2 => (dead(), any::<bool>()).prop_map(|(dead, other)| Step::Declare { dead, other }),
        1 => dead().prop_map(|dead| Step::Purge { dead }),
        2 => dead().prop_map(|dead| Step::Take { dead }),
    ]
}

pub(super) fn scripts(prefix: String) -> impl Strategy<Value = Script> {
    let dead = prop_oneof![
        4 => Just(Arguments::of(Type::Quorum).int("x-delivery-limit", 100_000)),
        1 => Just(Arguments::of(Type::Classic)),
        1 => Just(Arguments::of(Type::Quorum)),
    ];
    let work = arguments(format!("{prefix}.dead"));
    (work, dead, vec(steps(), 8..28)).prop_map(move |(work, dead, steps)| Script {
        prefix: prefix.clone(),
        work,
        dead,
        steps,
    })
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "work {:?}", self.work)?;
        writeln!(f, "dead {:?}", self.dead)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:3} {step:?}")?;
        }
        Ok(())
    }
}

/// The acks of a step, with these unsettled tags of the session; `None` if there are none.
pub(super) fn acks(tags: &[u64], through: Option<usize>, singles: &[usize]) -> Option<Acks> {
    let through = through.and_then(|at| tags.get(at)).copied();
    let mut left: Vec<_> = tags.iter().filter(|tag| Some(**tag) > through).collect();
    let mut acks = Acks {
        through,
        singles: Vec::new(),
    };
    for single in singles {
        if !left.is_empty() {
            acks.singles.push(*left.remove(single % left.len()));
        }
    }
    (!acks.is_empty()).then_some(acks)
}

/// The returns of a step, with these unsettled tags of the session; `None` if there are none.
pub(super) fn returns(tags: &[u64], deliveries: &[usize], multiple: bool) -> Option<Returns> {
    let mut left = tags.to_vec();
    let mut chosen = Vec::new();
    for delivery in deliveries {
        if !left.is_empty() {
            chosen.push(left.remove(delivery % left.len()));
        }
    }
    if !multiple {
        return (!chosen.is_empty()).then_some(Returns::Single(chosen));
    }
    let last = chosen.iter().max()?;
    let through = tags.iter().copied().filter(|tag| tag <= last).collect();
    Some(Returns::Through(through))
}
