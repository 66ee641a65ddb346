//! Whether the broker can be used at all.

use super::{
    check::{Check, Found, Needs},
    permissions::grant,
    scene::{PlaceSeen, Scene},
    shell,
};
use crate::broker::{Access, BrokerError, Version};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "broker",
        why: "the worker consumes and publishes at this address",
        needs: Needs::Places,
        look: broker,
    },
    Check {
        name: "release",
        why: "releases differ in how they count deliveries and in the arguments that they take",
        needs: Needs::Connection,
        look: release,
    },
    Check {
        name: "management",
        why: "only the management API shows policies, such as one that lowers a delivery limit",
        needs: Needs::Connection,
        look: management,
    },
    Check {
        name: "alarms",
        why: "a message that fails cannot leave its queue before a copy of it is published",
        needs: Needs::Connection,
        look: alarms,
    },
];

/// The oldest release that the worker is tested with.
const OLDEST: Version = Version {
    major: 3,
    minor: 10,
};

fn broker(scene: &Scene<'_>, found: &mut Found) {
    let places = match &scene.places {
        Ok(places) => places,
        Err(error) => {
            let mend = "set broker.url, or write the URL into the file of broker.url_file";
            return found.fail("broker.url", error, mend);
        }
    };
    let works = places.iter().any(|place| place.connected.is_ok());
    for place in places {
        match &place.connected {
            Ok(version) => {
                let release = version.map_or_else(String::new, |it| format!(": RabbitMQ {it}"));
                let (at, user, vhost) = (&place.at, &place.user, &place.vhost);
                found.ok(format!(
                    "{at} takes user `{user}`, virtual host `{vhost}`{release}"
                ));
            }
            Err(error) => {
                let mend = mend(scene, place, error);
                match works {
                    true => found.warn("broker.url", error.to_string(), mend),
                    false => found.fail("broker.url", error.to_string(), mend),
                }
            }
        }
    }
}

/// What makes the broker take the connection.
fn mend(scene: &Scene<'_>, place: &PlaceSeen, error: &BrokerError) -> String {
    let [user, vhost] = [&place.user, &place.vhost].map(|it| shell::word(it));
    let text = error.to_string();
    let is_refused = matches!(error, BrokerError::Refused(_)) && text.contains("NOT_ALLOWED");
    let grants = || grant(scene.settings, &place.user, &place.vhost);
    match error {
        _ if is_refused && text.contains("not found") => format!(
            "correct broker.url (`%2f` is `/`), or create the virtual host: rabbitmqctl add_vhost \
             {vhost}, then {}",
            grants()
        ),
        _ if is_refused && text.contains("limit") => "close connections, or raise the limit that the \
             broker names (rabbitmqctl set_user_limits, set_vhost_limits)"
            .to_owned(),
        _ if is_refused && text.contains("is down") => {
            format!("rabbitmqctl restart_vhost -p {vhost}; the broker's log tells why it is down")
        }
        _ if is_refused => grants(),
        BrokerError::Refused(_) => format!(
            "correct user and password in broker.url (percent-encoded) or broker.password_file; \
             rabbitmqctl authenticate_user {user} tries a password"
        ),
        _ if text.contains("broker.tls") || text.to_lowercase().contains("certificate") => {
            "set broker.tls.ca_file to the authority that signed the broker's certificate, or renew \
             the certificate"
                .to_owned()
        }
        _ => "start the broker, or correct host and port in broker.url".to_owned(),
    }
}

fn release(scene: &Scene<'_>, found: &mut Found) {
    let Some(version) = scene.broker.version else {
        return found.warn(
            "broker.url",
            "the broker names no version",
            "use RabbitMQ: the worker relies on its quorum queues and confirms",
        );
    };
    if version < OLDEST {
        return found.fail(
            "broker.url",
            format!("RabbitMQ {version} is older than {OLDEST}, the oldest that the worker is tested with"),
            "upgrade RabbitMQ: its quorum queues dead-letter with confirms from 3.10 on",
        );
    }
    let counts = match version < Version::RETURNS_FREELY {
        true => "each return of a message counts against its delivery limit",
        false => "a return of a message is free",
    };
    let limit = match version < Version::LIMITS {
        true => "queues have no delivery limit by default",
        false => "quorum queues have a delivery limit of 20 by default",
    };
    found.ok(format!("RabbitMQ {version}: {counts}; {limit}"));
}

fn management(scene: &Scene<'_>, found: &mut Found) {
    let Some(url) = &scene.settings.broker.management_url else {
        return found.ok("broker.management_url is not set, so policies are not looked at");
    };
    match &scene.broker.management {
        None => found.ok(format!("{url} answers")),
        Some(error) => {
            let user = &scene.broker.user;
            let mend = match error.starts_with("401") || error.starts_with("403") {
                true => format!("rabbitmqctl set_user_tags {user} management"),
                false => {
                    "correct broker.management_url, or enable the plugin: rabbitmq-plugins enable \
                          rabbitmq_management"
                        .to_owned()
                }
            };
            let text = format!("the management API does not tell: {error}");
            found.warn("broker.management_url", text, mend);
        }
    }
}

fn alarms(scene: &Scene<'_>, found: &mut Found) {
    match &scene.broker.publish {
        Some(Access::Blocked) => found.fail(
            "broker",
            "the broker has blocked publishing: a memory or disk alarm",
            "free memory or disk space there; rabbitmq-diagnostics alarms names the node",
        ),
        Some(Access::Unknown(reason)) => found.warn(
            "broker",
            format!("the doctor cannot tell whether the broker takes messages: {reason}"),
            "run the doctor again; rabbitmq-diagnostics alarms tells of alarms",
        ),
        _ => found.ok("the broker takes messages"),
    }
}
