//! `lapwing topology plan` and `lapwing topology apply`.

use std::process::ExitCode;

use clap::Args;
use lapwing::topology::{Action, Item, Object, Plan as Planned, QueueRole, TopologyDesk};

use super::{At, EXIT_BLOCKED, EXIT_CHANGES, chosen};
use crate::cli::print::{self, Out};

pub(super) const AFTER_PLAN: &str = "\
Exit codes:
  0   nothing to do
  3   `lapwing topology apply` has something to do
  4   something differs that apply cannot change, or the user may not look at it; the plan has the
      command or setting that mends it
  69  the broker cannot be reached
  78  the settings are wrong, or the broker refuses the password or the virtual host

AMQP has no request that shows a binding. With broker.management_url the plan asks the management
API; without it bindings are listed as not seen, and do not change the exit code.

Example:
  lapwing topology plan --config worker.toml --json | jq '.consumers[].items[] | select(.action != \"none\")'";

pub(super) const AFTER_APPLY: &str = "\
Exit codes:
  0   everything is as the settings want it
  1   the question was answered with no
  4   something differs that apply cannot change, and nothing was made; or the broker refused a
      request, and queues that were made before it can stay
  69  the broker cannot be reached
  78  the settings are wrong, or the broker refuses the password or the virtual host

All checks come before the first change. Bindings that cannot be seen are bound again, which changes
nothing if they exist.

Example:
  lapwing topology apply --config worker.toml --yes";

/// Compare what exists with what the settings want. Creates nothing.
#[derive(Args)]
pub(super) struct Plan {
    #[command(flatten)]
    at: At,
    /// Only this consumer [default: all of the settings]
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
}

/// Make what is missing, as a worker does at its start.
#[derive(Args)]
pub(super) struct Apply {
    #[command(flatten)]
    plan: Plan,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Plan {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let settings = self.at.load()?;
        let consumers = chosen(&settings, self.consumer.as_deref())?;
        At::run(&settings, async |desk: &TopologyDesk| {
            let plan = desk.plan(&consumers).await?;
            show(&plan, self.at.json);
            Ok(ExitCode::from(code(&plan)))
        })
    }
}

impl Apply {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let settings = self.plan.at.load()?;
        let consumers = chosen(&settings, self.plan.consumer.as_deref())?;
        let json = self.plan.at.json;
        At::run(&settings, async |desk: &TopologyDesk| {
            let plan = desk.plan(&consumers).await?;
            let unseen = unseen_bindings(&plan);
            if plan.blocked > 0 || (plan.changes == 0 && unseen == 0) {
                show(&plan, json);
                let is_blocked = plan.blocked > 0;
                return Ok(ExitCode::from(if is_blocked { EXIT_BLOCKED } else { 0 }));
            }
            if !json {
                show(&plan, false);
            }
            let question = match plan.changes {
                0 => "Bind again what cannot be seen?".to_owned(),
                _ => "Make these changes?".to_owned(),
            };
            if !self.yes && !print::confirm(&question)? {
                return Ok(ExitCode::FAILURE);
            }
            desk.apply(&consumers).await?;
            if json {
                show(&plan, true);
            } else {
                tell_applied(&plan);
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn unseen_bindings(plan: &Planned) -> usize {
    let items = plan.consumers.iter().flat_map(|it| &it.items);
    let unseen = items.filter(|it| it.object == Object::Binding && it.action == Action::Unknown);
    unseen.count()
}

fn code(plan: &Planned) -> u8 {
    match (plan.blocked, plan.changes) {
        (1.., _) => EXIT_BLOCKED,
        (0, 1..) => EXIT_CHANGES,
        (0, 0) => 0,
    }
}

fn show(plan: &Planned, json: bool) {
    let out = Out::default();
    if json {
        // Serialisation cannot fail, because every key is a string.
        return out.line(serde_json::to_string(plan).unwrap_or_default());
    }
    for line in lines(plan) {
        out.line(line);
    }
}

fn tell_applied(plan: &Planned) {
    let items = || plan.consumers.iter().flat_map(|it| &it.items);
    let created = items().filter(|it| it.action == Action::Create).count();
    let bound = items().filter(|it| it.action == Action::Bind).count() + unseen_bindings(plan);
    Out::default().line(format_args!(
        "created {created} queues, made {bound} bindings"
    ));
}

/// The plan for a terminal.
fn lines(plan: &Planned) -> Vec<String> {
    let mut lines = Vec::new();
    for consumer in &plan.consumers {
        let topology = format!("{:?}", consumer.topology).to_lowercase();
        let (name, queue) = (&consumer.consumer, &consumer.queue);
        lines.push(format!("{name}: queue {queue}, topology {topology}"));
        let mut left = consumer.items.as_slice();
        while let Some(first) = left.first() {
            let same = left.iter().take_while(|item| is_alike(first, item)).count();
            let (group, rest) = left.split_at(same);
            lines.extend(group_lines(group));
            left = rest;
        }
    }
    lines.push(summary(plan));
    lines
}

/// Whether two queues share a line.
fn is_alike(first: &Item, item: &Item) -> bool {
    let kind = |it: &Item| (it.object, it.role, it.action, it.bound.is_some());
    let is_same = std::ptr::eq(first, item) || item.bound.is_none();
    is_same && kind(first) == kind(item) && first.why == item.why
}

fn group_lines(group: &[Item]) -> Vec<String> {
    const INDENT: usize = 12;
    let Some(first) = group.first() else {
        return Vec::new();
    };
    let sign = match first.action {
        Action::None => "= exists",
        Action::Create => "+ create",
        Action::Bind => "+ bind",
        Action::Cannot => "! cannot",
        Action::Unknown => "? unseen",
    };
    let names: Vec<_> = group.iter().map(|it| it.name.as_str()).collect();
    let plural = if names.len() > 1 { "s" } else { "" };
    let names = names.join(", ");
    let what = match (first.object, first.role, &first.bound) {
        (_, _, Some(bound)) => format!("binding of {names} to {bound}"),
        (Object::Queue, Some(QueueRole::Retry), _) => format!("retry queue{plural} {names}"),
        (Object::Queue, Some(QueueRole::DeadLetter), _) => format!("dead-letter queue {names}"),
        (Object::Exchange, ..) => format!("exchange{plural} {names}"),
        _ => format!("queue{plural} {names}"),
    };
    let mut lines = vec![print::wrapped(&format!("  {sign:<9} {what}"), INDENT)];
    let indent = " ".repeat(INDENT);
    for why in &first.why {
        lines.push(print::wrapped(&format!("{indent}{why}"), INDENT + 2));
    }
    for (number, mend) in first.mend.iter().enumerate() {
        let start = if number == 0 { "mend: " } else { "      " };
        let line = format!("{indent}{start}{mend}");
        lines.push(match is_command(mend) {
            // A command stays on one line, to be copied.
            true => line,
            false => print::wrapped(&line, INDENT + 8),
        });
    }
    if group.len() > 1 && !first.mend.is_empty() {
        lines.push(format!(
            "{indent}      and so for the others: --json has all"
        ));
    }
    lines
}

fn is_command(mend: &str) -> bool {
    ["lapwing ", "rabbitmqctl ", "rabbitmqadmin "]
        .iter()
        .any(|program| mend.starts_with(program))
}

fn summary(plan: &Planned) -> String {
    let mut parts = Vec::new();
    if plan.changes > 0 {
        parts.push(format!("{} to create or bind", plan.changes));
    }
    if plan.blocked > 0 {
        parts.push(format!("{} that apply cannot change", plan.blocked));
    }
    if plan.unknown > 0 {
        parts.push(format!("{} not seen", plan.unknown));
    }
    match (parts.is_empty(), plan.changes + plan.blocked) {
        (true, _) => "nothing to do: everything is as the settings want it".to_owned(),
        (false, 0) => format!("nothing to do that can be seen; {}", parts.join(", ")),
        (false, _) => parts.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use lapwing::{settings::Topology, topology::ConsumerPlan};

    use super::*;

    fn item(name: &str, role: QueueRole, action: Action) -> Item {
        Item {
            object: Object::Queue,
            name: name.to_owned(),
            role: Some(role),
            bound: None,
            action,
            why: Vec::new(),
            mend: Vec::new(),
            wanted: Default::default(),
        }
    }

    fn plan(items: Vec<Item>) -> Planned {
        let count = |action| items.iter().filter(|it| it.action == action).count();
        Planned {
            changes: count(Action::Create) + count(Action::Bind),
            blocked: count(Action::Cannot),
            unknown: count(Action::Unknown),
            consumers: vec![ConsumerPlan {
                consumer: "orders".to_owned(),
                queue: "orders".to_owned(),
                topology: Topology::Declare,
                items,
            }],
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        let of = |actions: &[Action]| {
            let items = actions
                .iter()
                .map(|action| item("q", QueueRole::Work, *action));
            code(&plan(items.collect()))
        };
        assert_eq!(of(&[Action::None, Action::Unknown]), 0);
        assert_eq!(of(&[Action::None, Action::Create]), 3);
        assert_eq!(of(&[Action::Bind]), 3);
        assert_eq!(of(&[Action::Create, Action::Cannot]), 4);
    }

    #[test]
    fn a_plan_fits_a_terminal_and_queues_of_one_kind_share_a_line() {
        let rung = |seconds| {
            item(
                &format!("orders.retry.{seconds}s"),
                QueueRole::Retry,
                Action::Create,
            )
        };
        let mut items: Vec<_> = (0..15).map(|power| rung(1 << power)).collect();
        items.push(Item {
            why: vec!["x-queue-type is 'classic', wanted 'quorum'".to_owned()],
            mend: vec![
                "lapwing topology migrate orders --to orders.v2".to_owned(),
                "or set consumers.orders.queue_type = \"classic\"".to_owned(),
            ],
            ..item("orders", QueueRole::Work, Action::Cannot)
        });
        let lines = lines(&plan(items)).join("\n");
        assert!(
            lines
                .lines()
                .all(|line| line.chars().count() <= print::WIDTH),
            "{lines}"
        );
        assert_eq!(lines.matches("+ create").count(), 1, "{lines}");
        for part in [
            "! cannot  queue orders\n            x-queue-type is 'classic', wanted 'quorum'\n",
            "            mend: lapwing topology migrate orders --to orders.v2\n",
            "15 to create or bind, 1 that apply cannot change",
        ] {
            assert!(lines.contains(part), "{part:?} is not in:\n{lines}");
        }
    }
}
