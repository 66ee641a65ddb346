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
        "[old]\nqueue = 'orders'\ntopology = 'attach'\nretry_queue_prefix = 'later'\n\
         bindings = [{ exchange = 'shop', routing_key = 'a' }]\n\
         [new]\nqueue = 'orders.v2'\ndelivery_limit = 7\n\
         bindings = [{ exchange = 'shop', routing_key = 'a' }, { exchange = 'shop', routing_key = 'b' }]\n",
    );
    assert_eq!(keys(&resolved.bindings), ["a", "b"]);
    assert_eq!(resolved.target.delivery_limit, 7);
    for queue in ["later.1s", "orders.retry.2s", "orders.retry.quorum.4s"] {
        assert!(resolved.returning.contains(&queue.to_owned()), "{queue}");
    }
    let notes = resolved.notes.join("\n");
    assert!(notes.contains("have bound orders.v2 already"), "{notes}");
    assert!(
        notes.contains("lapwing dead replay --queue orders.dead --to orders.v2"),
        "{notes}"
    );
}

/// A classic queue of which nothing is left.
fn nothing() -> Left {
    Left {
        vhost: "/".to_owned(),
        from: "orders".to_owned(),
        to: "orders.v2".to_owned(),
        ready: 0,
        consumers: 0,
        arrived: 0,
        unsettled: Some(0),
        not_seen: None,
        parked: BTreeMap::from([("orders.retry.1s".to_owned(), 0)]),
        bindings: Vec::new(),
        is_quorum: Some(false),
        failed: Vec::new(),
    }
}

#[test]
fn the_old_queue_stays_while_a_message_may_come_back_to_it() {
    assert_eq!(nothing().obstacles(false), []);
    let parked = BTreeMap::from([("orders.retry.1s".to_owned(), 3)]);
    let bound = Bound {
        exchange: "shop".to_owned(),
        routing_key: "a".to_owned(),
        arguments: BTreeMap::new(),
    };
    let cases = [
        (
            Left {
                ready: 1,
                ..nothing()
            },
            Obstacle::Ready,
        ),
        (
            Left {
                consumers: 1,
                ..nothing()
            },
            Obstacle::Consumed,
        ),
        (
            Left {
                arrived: 1,
                ..nothing()
            },
            Obstacle::Arrives,
        ),
        (
            Left {
                unsettled: Some(1),
                ..nothing()
            },
            Obstacle::Unsettled,
        ),
        (
            Left {
                unsettled: None,
                ..nothing()
            },
            Obstacle::NotSeen,
        ),
        (
            Left {
                parked,
                ..nothing()
            },
            Obstacle::Parked,
        ),
        (
            Left {
                bindings: vec![bound],
                ..nothing()
            },
            Obstacle::Bound,
        ),
        (
            Left {
                is_quorum: Some(true),
                ..nothing()
            },
            Obstacle::Quorum,
        ),
        (
            Left {
                is_quorum: None,
                ..nothing()
            },
            Obstacle::Quorum,
        ),
        (
            Left {
                failed: vec!["x".to_owned()],
                ..nothing()
            },
            Obstacle::Failed,
        ),
    ];
    for (left, obstacle) in cases {
        assert_eq!(
            left.obstacles(false),
            std::slice::from_ref(&obstacle),
            "{left:?}"
        );
        let stays = left.obstacles(true);
        let is_allowed = obstacle == Obstacle::NotSeen;
        assert_eq!(
            stays.is_empty(),
            is_allowed,
            "--delete allows one thing: {left:?}"
        );
        assert!(left.tell(&obstacle).contains("orders") || obstacle == Obstacle::Failed);
    }
    let quorum = Left {
        is_quorum: Some(true),
        ..nothing()
    };
    let command = "rabbitmqctl -p / delete_queue orders";
    assert!(quorum.tell(&Obstacle::Quorum).contains(command));
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
    for item in &planned("declare", differs, Ok(Vec::new())).consumers[0].items[..3] {
        assert_eq!(item.action, Action::Cannot);
        assert!(!item.mend.is_empty(), "{item:?}");
    }
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
