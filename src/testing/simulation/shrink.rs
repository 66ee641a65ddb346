//! Shrinks a script that breaks a property to the shortest that still breaks it.

use super::{
    play::play,
    script::{Event, Script},
};

/// The shortest script found that breaks the same property. Plays at most `tries` scripts.
pub(super) fn shrunk(
    script: &Script,
    property: &str,
    ignored: &'static [&'static str],
    mut tries: usize,
) -> Script {
    let mut best = script.clone();
    let mut breaks = |candidate: &Script| {
        tries = tries.saturating_sub(1);
        tries > 0
            && play(candidate, ignored)
                .failure
                .is_some_and(|it| it.property == property)
    };
    loop {
        let before = best.clone();
        fewer(
            &mut best,
            &mut breaks,
            |it| it.events.len(),
            |it, at| drop(it.events.remove(at)),
        );
        for place in 0..best.events.len() {
            if let Event::Publish { .. } = best.events[place].1 {
                let plans = |it: &Script| plans(it, place).len();
                fewer(&mut best, &mut breaks, plans, |it, at| {
                    plans_mut(it, place).map(|plans| plans.remove(at));
                });
            }
        }
        simplify(&mut best, &mut breaks);
        if best == before {
            return best;
        }
    }
}

fn plans(script: &Script, place: usize) -> &[Vec<super::script::Step>] {
    match &script.events[place].1 {
        Event::Publish { plans, .. } => plans,
        _ => &[],
    }
}

fn plans_mut(script: &mut Script, place: usize) -> Option<&mut Vec<Vec<super::script::Step>>> {
    match &mut script.events[place].1 {
        Event::Publish { plans, .. } => Some(plans),
        _ => None,
    }
}

/// Takes away chunks of parts, large ones first.
fn fewer(
    best: &mut Script,
    breaks: &mut impl FnMut(&Script) -> bool,
    count: impl Fn(&Script) -> usize,
    take: impl Fn(&mut Script, usize),
) {
    let mut chunk = count(best).max(1);
    while chunk > 0 {
        let mut at = 0;
        while at < count(best) {
            let mut candidate = best.clone();
            for _ in 0..chunk.min(count(&candidate) - at) {
                take(&mut candidate, at);
            }
            if breaks(&candidate) {
                *best = candidate;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
}

/// Makes the world plainer, one setting after the other, and the times rounder.
fn simplify(best: &mut Script, breaks: &mut impl FnMut(&Script) -> bool) {
    let changes: [fn(&mut Script); 14] = [
        |it| it.world.workers = 1,
        |it| it.world.lanes = 1,
        |it| it.world.latency = 0,
        |it| it.world.breaker = false,
        |it| it.world.rate = 0,
        |it| it.world.concurrency = 1,
        |it| it.world.prefetch = it.world.concurrency,
        |it| it.world.ack_batch = 1,
        |it| it.world.ack_delay = 10,
        |it| it.world.max_attempts = 3,
        |it| it.world.inline_below = 0,
        |it| it.world.hold = 1000,
        |it| it.world.budget = 500,
        |it| {
            it.events
                .iter_mut()
                .for_each(|(at, _)| *at = at.div_ceil(1000) * 1000)
        },
    ];
    for change in changes {
        let mut candidate = best.clone();
        change(&mut candidate);
        if candidate != *best && breaks(&candidate) {
            *best = candidate;
        }
    }
    for place in 0..best.events.len() {
        for at in 0..plans(best, place).len() {
            let mut candidate = best.clone();
            let shorter = plans_mut(&mut candidate, place).and_then(|it| it[at].pop());
            if shorter.is_some() && breaks(&candidate) {
                *best = candidate;
            }
        }
    }
}
