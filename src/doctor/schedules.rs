//! Whether the attempts of a message fit its longest age.

use humantime::format_duration;

use super::{check::Found, scene::Scene};
use crate::{config::KeyPath, explain::Schedule, retry::RetrySettings};

pub(super) fn retry_schedule(scene: &Scene<'_>, found: &mut Found) {
    for (name, consumer) in &scene.settings.consumers {
        let at = KeyPath::of("consumers").key(name).key("retry");
        fits_age(found, name, &at, &consumer.retry);
        for (route, own) in &consumer.routes {
            if !own.retry.is_empty() {
                let at = KeyPath::of("consumers")
                    .key(name)
                    .key("routes")
                    .key(route)
                    .key("retry");
                let label = format!("{name}, route {route}");
                fits_age(
                    found,
                    &label,
                    &at,
                    &consumer.of_route(Some(route.as_str())).retry,
                );
            }
        }
    }
}

/// Tells if a message becomes too old before it has had its attempts.
fn fits_age(found: &mut Found, label: &str, at: &KeyPath, retry: &RetrySettings) {
    let Schedule {
        summary, attempts, ..
    } = Schedule::new(retry);
    let wanted = retry.attempts();
    // The schedule does not look at so many attempts that nobody can say which limit ends them.
    let most = attempts[1].and_then(|most| u32::try_from(most).ok());
    let most = most.unwrap_or(u32::MAX);
    let age = format_duration(retry.max_age);
    // Who wants the age to decide sets a number of attempts that is far too high.
    let mend = match !retry.delays.is_empty() {
        true => RAISE.to_owned(),
        false => format!(
            "{RAISE}. If `max_age` alone is to end the retries, set `max_attempts` to more than \
             {FAR} times {most}"
        ),
    };
    if most < wanted && most >= wanted / FAR {
        found.warn(
            at.key("max_age").to_string(),
            format!("is {age}: of {wanted} attempts a message has {most} at most"),
            mend,
        );
    } else {
        found.ok(format!("{label}: {summary}"));
    }
}

/// What makes the attempts fit the age.
const RAISE: &str = "raise `max_age`, or lower `cap` or the delays";
/// So many times too high is no mistake.
const FAR: u32 = 10;

#[cfg(test)]
mod tests {
    use super::super::tests::{found, start};

    #[test]
    fn a_route_whose_attempts_do_not_fit_its_age_is_found() {
        let lines = "routes.a.retry = { max_attempts = 30, base = '1h', factor = 1, jitter = 0 }";
        let told = found(&start(lines), "retry-schedule");
        assert_eq!(told.len(), 1, "{told:?}");
        let text = "WARN consumers.orders.routes.a.retry.max_age: is 1day";
        assert!(told[0].starts_with(text), "{told:?}");
    }

    #[test]
    fn attempts_that_do_not_fit_the_age_are_found() {
        let told = |retry: &str| found(&start(&format!("retry = {{ {retry} }}")), "retry-schedule");
        assert_eq!(told(""), [""; 0]);
        let told_of = told("max_age = '1h'");
        assert_eq!(told_of.len(), 1, "{told_of:?}");
        assert!(
            told_of[0].starts_with("WARN consumers.orders.retry.max_age: is 1h: of 20 attempts")
        );
        assert_eq!(told("max_age = '1h', max_attempts = 1000000"), [""; 0]);
        // So many attempts that nobody looks at all of them.
        let many = "max_attempts = 2000, base = '1s', factor = 1, max_age = '7d'";
        assert_eq!(told(many), [""; 0]);
        let list = told("delays = ['5s', '1m', '10m', '1h'], max_age = '10s'");
        assert_eq!(list.len(), 1, "{list:?}");
    }
}
