//! The model tells the truth: random scripts run on the model and on RabbitMQ, and the worker sees
//! the same on both, step by step. A difference is a fault of the model.
//!
//! A script has no timing: every step ends before the next one begins. Before each step the driver
//! waits until RabbitMQ shows what the model shows, so that a difference is not a matter of time.

mod lane;
mod observe;
mod real;
mod script;

use std::{
    env,
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use proptest::{
    prelude::Strategy,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use tokio::task::JoinSet;

use super::FakeBroker;
use crate::{chance, lock::lock};
use observe::Stage;
use real::{BROKEN, Node, Real};
use script::{Script, scripts};

/// The scripts that run at the same time: most of a script's time is waiting for the broker.
const AT_ONCE: usize = 8;

/// The longest that one script takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = env::var(format!("LAPWING_COMPARE_{name}")).ok()?;
    Some(text.parse().expect("the setting is a number"))
}

/// The script of this number: the same for the same seed.
fn script(seed: u64, number: usize) -> Script {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = scripts(format!("compare.{seed:x}.{number}")).new_tree(&mut runner);
    tree.expect("the strategy rejects nothing").current()
}

/// Plays a script on the model and on RabbitMQ. The first difference, if there is one.
async fn difference(node: &Node, real: &mut Real, script: &Script) -> Option<String> {
    loop {
        let stage = Stage::new(FakeBroker::new(node.release), real);
        let told = tokio::time::timeout(LIMIT, stage.play(script)).await;
        let told = told.unwrap_or_else(|_| Err("the script takes too long".to_owned()));
        let told = told.err()?;
        // Something may be left on the connections.
        *real = node.worker().await;
        if !told.contains(BROKEN) {
            return Some(told);
        }
    }
}

/// The shortest part of the script that still shows a difference: leaves out one step after the
/// other.
async fn shortest(node: &Node, script: Script, told: String) -> (Script, String) {
    let (mut script, mut told) = (script, told);
    let mut real = node.worker().await;
    let mut at = 0;
    while at < script.steps.len() {
        let mut shorter = script.clone();
        shorter.steps.remove(at);
        match difference(node, &mut real, &shorter).await {
            Some(text) => (script, told) = (shorter, text),
            None => at += 1,
        }
    }
    (script, told)
}

/// Plays the scripts with these numbers, and returns the differences.
async fn play(node: &Node, seed: u64, numbers: Range<usize>) -> Vec<(usize, String)> {
    let numbers = Arc::new(Mutex::new(numbers));
    let mut playing = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (node, numbers) = (node.clone(), Arc::clone(&numbers));
        playing.spawn(async move {
            let mut real = node.worker().await;
            let mut found = Vec::new();
            let next = || lock(&numbers).next();
            while let Some(number) = next() {
                let script = script(seed, number);
                let told = difference(&node, &mut real, &script).await;
                found.extend(told.map(|told| (number, told)));
            }
            found
        });
    }
    let mut found: Vec<_> = playing.join_all().await.into_iter().flatten().collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs RabbitMQ: make compare"]
async fn the_worker_sees_the_same_on_the_model_and_on_rabbitmq() {
    let node = Node::find();
    let seed = setting("SEED").unwrap_or_else(|| chance::message_id().as_u128() as u64);
    let count = setting("SCRIPTS").unwrap_or(150) as usize;
    let numbers = match setting("ONLY") {
        Some(only) => only as usize..only as usize + 1,
        None => 0..count,
    };
    println!(
        "{:?}: {count} scripts, LAPWING_COMPARE_SEED={seed}",
        node.release
    );
    let different = play(&node, seed, numbers).await;
    for (number, told) in &different {
        println!("LAPWING_COMPARE_ONLY={number}: {told}");
    }
    println!("{} of {count} scripts differ", different.len());
    let Some((number, told)) = different.into_iter().next() else {
        return;
    };
    let (script, told) = shortest(&node, script(seed, number), told).await;
    panic!("script {number} of seed {seed} differs; its shortest part:\n{script}\n{told}");
}
