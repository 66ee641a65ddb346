//! The commands and settings that mend what a plan cannot change.

use super::{Bound, QueueRole, plan::Facts};
use crate::broker::{Difference, QueueSpec, Standing, SurveyedQueue, Topology};

/// A word for a shell: as it is if that is safe, else in quotes.
pub(super) fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@%+,".contains(letter);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// `rabbitmqctl` with the virtual host.
pub(super) fn rabbitmqctl(vhost: &str) -> String {
    format!("rabbitmqctl -p {}", word(vhost))
}

fn rabbitmqadmin(vhost: &str) -> String {
    format!("rabbitmqadmin -V {}", word(vhost))
}

/// A free name beside this one.
pub(super) fn beside(name: &str) -> String {
    let (stem, number) = match name.rsplit_once(".v") {
        Some((stem, number)) => (stem, number.parse::<u32>().ok()),
        None => (name, None),
    };
    match number {
        Some(number) => format!("{stem}.v{}", number.saturating_add(1)),
        None => format!("{name}.v2"),
    }
}

pub(super) fn queue(spec: &QueueSpec, facts: &Facts<'_>, queue: &SurveyedQueue) -> Vec<String> {
    let section = format!("consumers.{}", facts.consumer);
    let name = queue.name();
    match (&queue.standing, queue.role) {
        (Standing::Hidden(_), _) => vec![permission(facts, name)],
        (Standing::Missing, QueueRole::Work) if spec.topology == Topology::Attach => vec![
            format!("create the queue {name}, as its publishers need it"),
            format!("or set {section}.topology = \"declare\""),
        ],
        (Standing::Missing, _) => vec![declare(facts, queue)],
        (Standing::Differs(differences), QueueRole::Work) => {
            work(&section, name, differences, spec.topology)
        }
        (Standing::Differs(_), QueueRole::Retry) => vec![format!(
            "set {section}.retry_queue_prefix = \"{}\": the retry queues until now become empty \
             by themselves",
            beside(spec.ladder.prefix())
        )],
        (Standing::Differs(_), QueueRole::DeadLetter) => vec![format!(
            "set {section}.dead_letter_queue = \"{}\": the letters until now stay in {name}, where \
             `lapwing dead list --queue {}` finds them",
            beside(name),
            word(name)
        )],
        (Standing::Fits, _) => Vec::new(),
    }
}

/// Arguments that go with the type of a queue.
const OF_TYPE: [&str; 4] = [
    "x-queue-type",
    "x-overflow",
    "x-dead-letter-strategy",
    "x-delivery-limit",
];

fn work(section: &str, name: &str, differences: &[Difference], topology: Topology) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut has = None;
    for difference in differences {
        let Difference::Argument {
            argument, values, ..
        } = difference
        else {
            return vec![format!("set {section}.queue to another name")];
        };
        if argument == "x-queue-type" {
            // A queue without this argument is a classic one.
            let of_queue = values.as_ref().map(|values| values.has.as_deref());
            has = of_queue.map(|has| has.unwrap_or("classic"));
        }
        arguments.push(argument.as_str());
    }
    let other_type = has.filter(|_| arguments.iter().all(|it| OF_TYPE.contains(it)));
    let mut ways = Vec::new();
    if has != Some("quorum") {
        let (name, to) = (word(name), word(&beside(name)));
        ways.push(format!("lapwing topology migrate {name} --to {to}"));
    }
    if let Some(other_type) = other_type {
        ways.push(format!("set {section}.queue_type = \"{other_type}\""));
    }
    if topology == Topology::Declare || topology == Topology::Verify {
        ways.push(format!(
            "set {section}.topology = \"attach\": the queue is used as it is"
        ));
    }
    for way in ways.iter_mut().skip(1) {
        way.insert_str(0, "or ");
    }
    ways
}

fn permission(facts: &Facts<'_>, name: &str) -> String {
    let user = facts.user.as_deref().unwrap_or("USER");
    format!(
        "{} set_permissions {} CONFIGURE WRITE READ, with a pattern CONFIGURE that fits {name}",
        rabbitmqctl(&facts.vhost),
        word(user)
    )
}

fn declare(facts: &Facts<'_>, queue: &SurveyedQueue) -> String {
    let arguments = serde_json::to_string(queue.arguments()).unwrap_or_default();
    format!(
        "{} declare queue {} durable=true {}",
        rabbitmqadmin(&facts.vhost),
        word(&format!("name={}", queue.name())),
        word(&format!("arguments={arguments}"))
    )
}

pub(super) fn exchange(facts: &Facts<'_>, name: &str) -> Vec<String> {
    vec![format!(
        "{} declare exchange {} durable=true type=topic, or another type: as its publishers need it",
        rabbitmqadmin(&facts.vhost),
        word(&format!("name={name}"))
    )]
}

pub(super) fn binding(facts: &Facts<'_>, queue: &str, bound: &Bound) -> Vec<String> {
    vec![format!(
        "{} declare binding {} {} {}",
        rabbitmqadmin(&facts.vhost),
        word(&format!("source={}", bound.exchange)),
        word(&format!("destination={queue}")),
        word(&format!("routing_key={}", bound.routing_key))
    )]
}
