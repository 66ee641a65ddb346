use std::collections::BTreeMap;

use super::{
    plan::Facts,
    resolve::{Resolved, resolve},
    *,
};
use crate::{
    broker::{Difference, QueueSpec, QueueType, Standing, Survey, Topology, Unknown, Values},
    consumer::ConsumerSettings,
};

/// The consumers of this text.
fn consumers(text: &str) -> BTreeMap<String, ConsumerSettings> {
    toml::from_str(text).unwrap()
}

fn refused(text: &str) -> String {
    resolve(&consumers(text), "orders", "orders.v2").unwrap_err()
}

fn resolved(text: &str) -> Resolved {
    resolve(&consumers(text), "orders", "orders.v2").unwrap()
}

fn keys(bindings: &[Bound]) -> Vec<&str> {
    bindings.iter().map(|it| it.routing_key.as_str()).collect()
}

#[test]
fn a_migration_that_a_worker_would_undo_is_refused() {
    let bound = "[orders]\nqueue = 'orders'\nqueue_type = 'classic'\n\
                 bindings = [{ exchange = 'shop', routing_key = 'a' }]\n";
    let why = refused(bound);
    assert!(
        why.contains("consumers.orders.topology = \"attach\""),
        "{why}"
    );

    let attached = format!("{bound}topology = 'attach'\n");
    let resolved = resolved(&attached);
    assert_eq!(keys(&resolved.bindings), ["a"]);
    assert_eq!(resolved.target.queue, "orders.v2");
    assert_eq!(resolved.target.queue_type, QueueType::Quorum);
    assert_eq!(resolved.target.topology, Topology::Declare);
    assert!(
        resolved.target.bindings.is_empty(),
        "each is made with its unbinding"
    );
}

#[test]
fn a_queue_of_another_purpose_is_neither_replaced_nor_a_replacement() {
    for (text, why) in [
        (
            "[a]\nqueue = 'x'\n",
            "the settings have no consumer of orders",
        ),
        (
            "[a]\nqueue = 'x'\ndead_letter_queue = 'orders.v2'\n",
            "dead-letter queue",
        ),
        (
            "[a]\nqueue = 'x'\ndead_letter_queue = 'orders'\n",
            "dead-letter queue",
        ),
        (
            "[a]\nqueue = 'orders.v2'\nqueue_type = 'classic'\n",
            "must be a quorum queue",
        ),
    ] {
        assert!(refused(text).contains(why), "{text}: {}", refused(text));
    }
    let same = resolve(&consumers("[a]\nqueue = 'orders'\n"), "orders", "orders");
    assert!(same.is_err());
}

#[test]
fn two_consumers_in_the_settings_say_what_both_queues_are() {
    let resolved = resolved(
        "[old]\nqueue = 'orders'\ntopology = 'attach'\n\
         bindings = [{ exchange = 'shop', routing_key = 'a' }]\n\
         [new]\nqueue = 'orders.v2'\ndelivery_limit = 7\n\
         bindings = [{ exchange = 'shop', routing_key = 'a' }, { exchange = 'shop', routing_key = 'b' }]\n",
    );
    assert_eq!(keys(&resolved.bindings), ["a", "b"]);
    assert_eq!(resolved.target.delivery_limit, 7);
    let notes = resolved.notes.join("\n");
    assert!(notes.contains("have bound orders.v2 already"), "{notes}");
    assert!(
        notes.contains("lapwing dead replay --queue orders.dead --to orders.v2"),
        "{notes}"
    );
}

/// A classic queue of which nothing is left, and the command has seen all that matters.
fn nothing() -> Left {
    Left {
        vhost: "/".to_owned(),
        from: "orders".to_owned(),
        to: "orders.v2".to_owned(),
        is_gone: false,
        ready: 0,
        consumers: 0,
        arrived: 0,
        unsettled: Some(0),
        leading: Some(Vec::new()),
        bindings: Some(Vec::new()),
        not_seen: None,
        is_quorum: Some(false),
        failed: Vec::new(),
    }
}

/// What is left after a change, and the only obstacle.
type Case = (fn(&mut Left), Obstacle);

#[test]
fn the_old_queue_is_deleted_only_if_the_command_has_seen_that_nothing_can_come_back() {
    assert_eq!(nothing().obstacles(), []);
    let cases: [Case; 13] = [
        (|it| it.ready = 1, Obstacle::Ready),
        (|it| it.consumers = 1, Obstacle::Consumed),
        (|it| it.arrived = 1, Obstacle::Arrives),
        (|it| it.unsettled = Some(1), Obstacle::Unsettled),
        (|it| it.unsettled = None, Obstacle::NotSeen),
        (|it| it.leading = None, Obstacle::NotSeen),
        (|it| it.bindings = None, Obstacle::NotSeen),
        (
            |it| it.leading = Some(vec!["orders.retry.1s".to_owned()]),
            Obstacle::Leading,
        ),
        (
            |it| {
                it.bindings = Some(vec![Bound {
                    exchange: "shop".to_owned(),
                    routing_key: "a".to_owned(),
                    arguments: BTreeMap::new(),
                }]);
            },
            Obstacle::Bound,
        ),
        (|it| it.is_quorum = Some(true), Obstacle::Quorum),
        (|it| it.is_quorum = None, Obstacle::Quorum),
        (|it| it.failed = vec!["x".to_owned()], Obstacle::Failed),
        (
            |it| {
                it.is_gone = true;
                (it.bindings, it.unsettled, it.leading) = (None, None, None);
            },
            Obstacle::NotSeen,
        ),
    ];
    for (change, obstacle) in cases {
        let mut left = nothing();
        change(&mut left);
        assert_eq!(left.obstacles(), [obstacle], "{left:?}");
        assert!(left.tell(obstacle).contains("orders") || obstacle == Obstacle::Failed);
    }
}

#[test]
fn what_the_command_does_not_delete_it_says_how_to_check_and_delete() {
    let quorum = Left {
        is_quorum: Some(true),
        ..nothing()
    };
    let by_hand = "Then: rabbitmqctl -p / delete_queue orders";
    assert!(quorum.tell(Obstacle::Quorum).ends_with(by_hand));
    let unseen = Left {
        leading: None,
        ..nothing()
    };
    let text = unseen.tell(Obstacle::NotSeen);
    let conditions = format!("{by_hand} --if-empty --if-unused");
    assert!(text.ends_with(&conditions), "{text}");

    let gone = Left {
        is_gone: true,
        is_quorum: None,
        leading: Some(vec!["later.\u{1b}[2J".to_owned()]),
        ..nothing()
    };
    let text = gone.tell(Obstacle::Leading);
    assert!(text.contains("declare orders again"), "{text}");
    assert!(text.contains(r"later.\u{1b}[2J"), "{text}");
}

#[test]
fn the_name_of_an_exchange_cannot_forge_a_line() {
    let bound = Bound {
        exchange: "x\u{1b}[2J".to_owned(),
        routing_key: "\u{1b}".to_owned(),
        arguments: BTreeMap::new(),
    };
    assert_eq!(bound.to_string(), r#"x\u{1b}[2J with key "\u{1b}""#);
}

/// The queues of `orders`, with one retry queue and a binding.
fn spec(topology: &str) -> QueueSpec {
    let text = format!(
        "[orders]\nqueue = 'orders'\ntopology = '{topology}'\nretry.cap = '1s'\n\
         bindings = [{{ exchange = 'shop', routing_key = 'a' }}]\n"
    );
    consumers(&text)["orders"].queue_spec()
}

/// The plan if each queue stands so, and the broker lists these bindings.
fn planned(
    topology: &str,
    standing: impl Fn(&str) -> Standing,
    bindings: Result<Vec<Bound>, Unknown>,
) -> Plan {
    let spec = spec(topology);
    let facts = Facts {
        consumer: "orders",
        survey: Survey::standing(&spec, standing),
        bindings,
        vhost: "/".to_owned(),
        user: Some("guest".to_owned()),
    };
    Plan::new(vec![ConsumerPlan::new(&spec, &facts)])
}

fn actions(plan: &Plan) -> Vec<(&str, Action)> {
    let items = plan.consumers.iter().flat_map(|it| &it.items);
    items.map(|it| (it.name.as_str(), it.action)).collect()
}

#[test]
fn what_is_missing_is_created_as_far_as_the_topology_creates() {
    let missing = |_: &str| Standing::Missing;
    let of = |topology| planned(topology, missing, Err(Unknown::NoManagement));
    let queues = ["orders.retry.1s", "orders.dead", "orders"];
    let all = |action: [Action; 4]| {
        let names = queues.into_iter().chain(["orders"]);
        names.zip(action).collect::<Vec<_>>()
    };
    use Action::{Bind, Cannot, Create};
    assert_eq!(actions(&of("declare")), all([Create, Create, Create, Bind]));
    assert_eq!(
        actions(&of("attach")),
        all([Create, Create, Cannot, Cannot])
    );
    assert_eq!(actions(&of("verify")), all([Cannot; 4]));
    assert_eq!(actions(&of("none"))[..3], all([Cannot; 4])[..3]);
    let plan = of("declare");
    assert_eq!((plan.changes, plan.blocked, plan.unknown), (4, 0, 0));
}

#[test]
fn a_binding_is_known_only_by_the_management_api() {
    let fits = |_: &str| Standing::Fits;
    let bound = || Bound {
        exchange: "shop".to_owned(),
        routing_key: "a".to_owned(),
        arguments: BTreeMap::new(),
    };
    let of = |bindings| actions(&planned("declare", fits, bindings))[3].1;
    assert_eq!(of(Ok(vec![bound()])), Action::None);
    assert_eq!(of(Ok(Vec::new())), Action::Bind);
    assert_eq!(of(Err(Unknown::NoManagement)), Action::Unknown);
}

#[test]
fn what_cannot_be_changed_says_how_to_mend_it() {
    let hidden = |_: &str| Standing::Hidden("ACCESS_REFUSED".to_owned());
    let plan = planned("declare", hidden, Ok(Vec::new()));
    assert_eq!(plan.blocked, 3);
    assert!(plan.consumers[0].items[0].mend[0].contains("set_permissions guest"));
    let plan = planned("none", hidden, Ok(Vec::new()));
    assert_eq!(
        (plan.blocked, plan.unknown),
        (0, 3),
        "a worker starts all the same"
    );

    let differs = |queue: &str| {
        let (queue, text) = (queue.to_owned(), "no".to_owned());
        Standing::Differs(vec![Difference::Refused { queue, text }])
    };
    let plan = planned("declare", differs, Ok(Vec::new()));
    for item in &plan.consumers[0].items[..3] {
        assert_eq!(item.action, Action::Cannot);
        assert!(!item.mend.is_empty(), "{item:?}");
    }
    assert_eq!(
        plan.consumers[0].items[1].mend,
        [
            "set consumers.orders.dead_letter_queue = \"orders.dead.v2\": the letters until now stay \
             in orders.dead, where `lapwing dead list --queue orders.dead` finds them"
        ],
        "no letter is deleted"
    );
}

#[test]
fn another_type_of_queue_is_mended_by_a_setting_if_nothing_else_differs() {
    let differs = |has: &'static str, more: Option<&'static str>| {
        move |queue: &str| {
            let argument =
                |argument: &str, has: Option<&str>, wanted: Option<&str>| Difference::Argument {
                    queue: queue.to_owned(),
                    argument: argument.to_owned(),
                    values: Some(Values {
                        has: has.map(str::to_owned),
                        wanted: wanted.map(str::to_owned),
                    }),
                };
            let of_type = argument("x-queue-type", Some(has), Some("quorum"));
            let more = more.map(|it| argument(it, Some("5"), None));
            Standing::Differs([Some(of_type), more].into_iter().flatten().collect())
        }
    };
    let mend = |standing: &dyn Fn(&str) -> Standing| {
        let plan = planned("declare", standing, Ok(Vec::new()));
        plan.consumers[0].items[2].mend.clone()
    };
    let attach = "or set consumers.orders.topology = \"attach\": the queue is used as it is";
    let migrate = "lapwing topology migrate orders --to orders.v2";
    let set = "or set consumers.orders.queue_type = \"classic\"";
    assert_eq!(mend(&differs("classic", None)), [migrate, set, attach]);
    assert_eq!(
        mend(&differs("classic", Some("x-max-length"))),
        [migrate, attach]
    );
}
