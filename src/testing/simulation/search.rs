//! Searches for scripts that break a property, and plays those that once did.

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use super::{
    play::{Played, play},
    scenario,
    script::Script,
    shrink::shrunk,
};

/// Properties that are known to break: see docs/simulation.md. The search goes on behind them.
const KNOWN: &[&str] = &[];

/// How many scripts are played to shrink one.
const TRIES: usize = 3000;

/// The properties that may break: those that are known to, unless somebody looks for them.
fn ignored() -> &'static [&'static str] {
    match env::var_os("LAPWING_SIMULATE_ALL") {
        Some(_) => &[],
        None => KNOWN,
    }
}

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

/// Plays seeds one after the other, and panics with the shortest script that breaks a property.
fn search(first: u64, time: Duration, most: u64) {
    let began = Instant::now();
    let (mut lives, mut entries, mut seed) = (0, 0, first);
    while began.elapsed() < time && seed < first.saturating_add(most) {
        let script = scenario::script(seed);
        watchdog::plays(seed);
        let Played {
            failure,
            lives: ended,
            log,
        } = play(&script, ignored());
        lives += ended;
        entries += log.len();
        if let Some(failure) = failure {
            watchdog::rests();
            report(&script, failure.property);
        }
        seed += 1;
    }
    watchdog::rests();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "seeds {first} to {}: {} runs, {lives} lives, {entries} log entries in {seconds:.1} s, {:.0} lives a second",
        seed.saturating_sub(1),
        seed - first,
        lives as f64 / seconds
    );
}

fn report(script: &Script, property: &'static str) -> ! {
    let seed = script.seed;
    println!("seed {seed} breaks {property:?}; shrinking");
    if variable("LAPWING_SIMULATE_SHRINK") == Some(0) {
        panic!("seed {seed} breaks {property:?}");
    }
    let short = shrunk(script, property, ignored(), TRIES);
    let played = play(&short, ignored());
    println!("{}", short.to_text());
    println!("{}", played.log);
    panic!("seed {seed} breaks a property: {:?}", played.failure);
}

/// Ends the process if a run takes too long: a worker that spins stops the paused clock.
mod watchdog {
    use std::{
        sync::{Mutex, Once},
        time::{Duration, Instant},
    };

    static PLAYS: Mutex<Option<(u64, Instant)>> = Mutex::new(None);
    const LONGEST: Duration = Duration::from_secs(20);

    pub(super) fn plays(seed: u64) {
        static WATCH: Once = Once::new();
        *crate::lock::lock(&PLAYS) = Some((seed, Instant::now()));
        WATCH.call_once(|| {
            std::thread::spawn(|| {
                loop {
                    std::thread::park_timeout(Duration::from_secs(1));
                    let plays = *crate::lock::lock(&PLAYS);
                    if let Some((seed, _)) = plays.filter(|(_, since)| since.elapsed() > LONGEST) {
                        eprintln!("seed {seed} stands still: it breaks \"everything ends\"");
                        std::process::exit(101);
                    }
                }
            });
        });
    }

    pub(super) fn rests() {
        *crate::lock::lock(&PLAYS) = None;
    }
}

/// A seed that no run had before.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_micros() as u64 * 1000
}

#[test]
fn a_hundred_seeds_give_the_same_log_twice_byte_for_byte() {
    for seed in 0..100 {
        let script = scenario::script(seed);
        let [once, twice] = [(); 2].map(|()| play(&script, KNOWN).log.to_string());
        let differs = once.lines().zip(twice.lines()).find(|(a, b)| a != b);
        assert!(once == twice, "seed {seed}: {differs:?}");
        assert!(!once.is_empty());
    }
}

#[test]
fn fresh_seeds_break_no_property() {
    let seconds = variable("LAPWING_SIMULATE_SECONDS").unwrap_or(20);
    search(fresh(), Duration::from_secs(seconds), u64::MAX);
}

/// `make simulate`: plays fresh seeds, or those from `LAPWING_SIMULATE_SEED` on.
#[test]
#[ignore = "runs until it is stopped: make simulate"]
fn search_for_long() {
    let seconds = variable("LAPWING_SIMULATE_SECONDS").unwrap_or(u64::MAX / 4);
    let first = variable("LAPWING_SIMULATE_SEED").unwrap_or_else(fresh);
    let most = variable("LAPWING_SIMULATE_SEEDS").unwrap_or(u64::MAX);
    search(first, Duration::from_secs(seconds), most);
}

/// Plays one seed, and prints its time line: `LAPWING_SIMULATE_SEED`.
#[test]
#[ignore = "shows one seed: make replay SEED=…"]
fn replay() {
    let seed = variable("LAPWING_SIMULATE_SEED").expect("a seed");
    let script = scenario::script(seed);
    let played = play(&script, &[]);
    println!("{}\n{}", script.to_text(), played.log);
}

/// The scripts in a folder, with their file names.
fn scripts(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    let mut paths: Vec<_> = paths.filter(|path| path.is_file()).collect();
    paths.sort();
    let read = |path| fs::read_to_string(path).expect("a script can be read");
    let named = paths
        .iter()
        .map(|path| (path.display().to_string(), read(path)));
    named.collect()
}

/// Scripts that once broke a property. Each is a file, named for what it shows.
#[test]
fn scripts_of_old_failures_break_no_property() {
    let scripts = scripts("src/testing/simulation/scripts");
    assert!(!scripts.is_empty());
    for (name, text) in scripts {
        let played = play(&Script::from_text(&text), KNOWN);
        assert_eq!(played.failure, None, "{name}\n{}", played.log);
    }
}

/// If this fails, a known failure is mended: take its property from `KNOWN`, and its script to the others.
#[test]
fn known_failures_still_break_the_property_that_their_script_names() {
    let scripts = scripts("src/testing/simulation/scripts/known");
    assert!(scripts.len() >= KNOWN.len(), "each has a script");
    for (name, text) in scripts {
        let named = text
            .lines()
            .find_map(|line| line.strip_prefix("# breaks: "));
        let played = play(&Script::from_text(&text), &[]);
        let broken = played.failure.as_ref().map(|it| it.property);
        assert_eq!(broken, named, "{name}\n{}", played.log);
    }
}
