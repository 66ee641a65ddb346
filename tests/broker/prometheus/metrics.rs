//! The text of `/metrics`.

use lapwing::telemetry::catalogue::{INSTRUMENTS, Instrument, Kind};

use super::{Setup, in_repository, program};
use crate::support::{DEADLINE, get, run_with_input, wait_until};

/// An instrument's name as Prometheus sees it.
fn name(instrument: &Instrument) -> String {
    let name = instrument.name.replace('.', "_");
    match instrument.kind {
        Kind::Counter => name + "_total",
        Kind::Histogram => name + "_seconds",
        _ => name,
    }
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_and_no_instrument_is_missing() {
    let mut setup = Setup::new().await;
    setup.three_messages(1).await;
    let url = format!("http://{}/metrics", setup.address);
    // After six counts of its queue the worker knows whether it grows: the last instrument is there.
    let look = async || get(&url, &[]).await;
    let counted = |text: &String| text.contains("lapwing_consumer_at_limit{");
    let text = wait_until("the queues are counted", DEADLINE, look, counted).await;

    let mut promtool = program("promtool").await;
    let checked = run_with_input(promtool.args(["check", "metrics"]), &text).await;
    let said = [checked.stdout, checked.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(checked.status.success() && said.is_empty(), "{said}");

    for instrument in INSTRUMENTS {
        let help = format!("# HELP {} {}\n", name(instrument), instrument.meaning);
        // The drain's duration exists only after the drain, and this consumer makes no batches.
        let there = !["lapwing.drain.duration", "lapwing.batch.size"].contains(&instrument.name);
        assert_eq!(text.contains(&help), there, "{help}{text}");
    }
    assert!(text.contains("target_info{"), "{text}");
    setup.worker.drain(DEADLINE).await;
}

#[test]
fn the_document_has_the_names_that_prometheus_sees() {
    let document =
        std::fs::read_to_string(in_repository("docs/telemetry.md")).expect("it is there");
    for instrument in INSTRUMENTS {
        let row = format!("| `{}` | `{}` |", instrument.name, name(instrument));
        assert!(document.contains(&row), "docs/telemetry.md has no {row}");
    }
}
