//! Whether the handlers can do their work.

use super::{
    check::{Check, Found, Needs},
    scene::Scene,
};
use crate::{
    config::KeyPath,
    consumer::ConsumerSettings,
    handler::{HTTP_CLASSES, HandlerSettings, proxy_warning},
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "handlers",
        why: "until the handler works, no message of the consumer succeeds",
        needs: Needs::Handlers,
        look: handlers,
    },
    Check {
        name: "inbox",
        why: "without its inbox a consumer runs no handler",
        needs: Needs::Handlers,
        look: inboxes,
    },
    Check {
        name: "proxies",
        why: "the HTTP handler uses the proxy that the environment names",
        needs: Needs::Settings,
        look: proxies,
    },
    Check {
        name: "rules",
        why: "a rule that fits no failure of its handler never decides anything",
        needs: Needs::Settings,
        look: rules,
    },
];

fn handlers(scene: &Scene<'_>, found: &mut Found) {
    for handler in &scene.handlers {
        let at = &handler.at;
        match &handler.reached {
            None => {}
            // The worker starts without the service, and waits for it.
            Some(Ok(reached)) if reached.is_away => {
                let mend = format!("start the service, or correct {at}.url");
                found.warn(at.to_string(), &reached.what, mend);
            }
            Some(Ok(reached)) => found.ok(format!("{at}: {}", reached.what)),
            Some(Err(error)) => {
                let mend = match &handler.settings {
                    HandlerSettings::Http(_) => {
                        format!("correct {at}.url; for TLS also {at}.ca_file")
                    }
                    HandlerSettings::Sql(_) => {
                        format!("correct {at}.statement or {at}.url, or give its user the right")
                    }
                    _ => format!("correct {at}.argv, or install what is missing"),
                };
                found.fail(at.to_string(), error.to_string(), mend);
            }
        }
    }
    if found.rows.is_empty() {
        found.ok("all handlers are registered in code");
    }
}

fn inboxes(scene: &Scene<'_>, found: &mut Found) {
    for (at, reached) in &scene.inboxes {
        match reached {
            Ok(reached) if reached.is_away => {
                let mend = format!("start the database, or correct {at}.url");
                found.warn(at.to_string(), &reached.what, mend);
            }
            Ok(reached) => found.ok(format!("{at}: {}", reached.what)),
            Err(error) => {
                let mend = "run `lapwing migrate`, or correct the database's user";
                found.fail(at.to_string(), error.to_string(), mend);
            }
        }
    }
    if found.rows.is_empty() {
        found.ok("no consumer has an inbox in a database");
    }
}

fn proxies(scene: &Scene<'_>, found: &mut Found) {
    for (at, handler) in scene.settings.handlers() {
        if let HandlerSettings::Http(http) = handler
            && let Some(text) = proxy_warning(&http.url, &scene.around.variable)
        {
            let mend = "correct the variable in the environment of the worker";
            found.warn(at.key("url").to_string(), text, mend);
        }
    }
    found.ok("no proxy of the environment is in the way");
}

fn rules(scene: &Scene<'_>, found: &mut Found) {
    for (name, consumer) in &scene.settings.consumers {
        let section = KeyPath::of("consumers").key(name);
        for (route, own) in consumer.sorts() {
            // A route without retry settings has the rules of its consumer, which are for all routes.
            let at = match route {
                Some(route) if consumer.routes[route].retry.is_empty() => continue,
                Some(route) => section.key("routes").key(route),
                None if !consumer.routes.is_empty() => continue,
                None => section.clone(),
            };
            for (index, key, text) in idle_rules(&own) {
                let mend = "correct or remove the rule";
                let at = at.key("retry").key("rules").index(index).key(key);
                found.warn(at.to_string(), text, mend);
            }
        }
    }
    found.ok("each rule fits failures of its handler");
}

/// Rules for a class or a status that no failure of an HTTP handler has: the rule's index, the key and
/// the text.
fn idle_rules(consumer: &ConsumerSettings) -> impl Iterator<Item = (usize, &'static str, String)> {
    let is_http = matches!(consumer.handler, HandlerSettings::Http(_));
    let rules = consumer.retry.rules.iter().enumerate();
    rules.filter_map(move |(index, rule)| {
        let class = rule.class.as_deref();
        let class = class.filter(|class| is_http && !HTTP_CLASSES.contains(class));
        if let Some(class) = class {
            let known = HTTP_CLASSES.join(", ");
            let text =
                format!("no failure of an HTTP handler has the class {class:?}, only: {known}");
            return Some((index, "class", text));
        }
        let mut statuses = 100..600;
        let status = rule.status.filter(|_| is_http)?;
        let is_known = statuses.any(|number| status.contains(number));
        (!is_known).then(|| {
            let text = format!("no HTTP response has the status {status}");
            (index, "status", text)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, start};

    #[test]
    fn a_rule_that_fits_nothing_is_found() {
        let rule = |rule: &str| {
            let http = "handler = { kind = 'http', url = 'http://a' }";
            found(
                &start(&format!(
                    "{http}\nretry.rules = [{{ {rule}, action = 'retry' }}]"
                )),
                "rules",
            )
        };
        assert_eq!(rule("class = 'http-connect'"), [""; 0]);
        assert!(
            rule("class = 'htpp'")[0].starts_with("WARN consumers.orders.retry.rules[0].class")
        );
        let at = "WARN consumers.orders.retry.rules[0].status: no HTTP response has the status 6xx";
        assert!(rule("status = '600-699'")[0].starts_with(at));
        assert_eq!(rule("status = '599-699'"), [""; 0]);
    }

    #[test]
    fn a_rule_of_a_route_that_fits_nothing_is_found() {
        let lines = "handler = { kind = 'log' }
            routes.a.handler = { kind = 'http', url = 'http://a' }
            routes.a.retry.rules = [{ class = 'htpp', action = 'retry' }]";
        let told = found(&start(lines), "rules");
        assert_eq!(told.len(), 1, "{told:?}");
        let at = "WARN consumers.orders.routes.a.retry.rules[0].class";
        assert!(told[0].starts_with(at), "{told:?}");
    }

    #[test]
    fn a_proxy_that_cannot_work_is_found() {
        let mut start = start("handler = { kind = 'http', url = 'http://shop/' }");
        assert_eq!(found(&start, "proxies"), [""; 0]);
        start.around.variable =
            Box::new(|name| (name == "HTTP_PROXY").then(|| "socks5://proxy".to_owned()));
        let told = found(&start, "proxies");
        assert!(told[0].starts_with("WARN consumers.orders.handler.url: every request will fail"));
    }
}
