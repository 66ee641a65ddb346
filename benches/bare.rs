//! What the system allows without a worker, for `make bench`: `bare spawn` starts programs that do
//! nothing, and `bare pipe` passes lines to co-processes and back, `BATCH` messages in each. `N` times,
//! `CONC` at once. Prints the number in a second.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

fn env(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn spawn(n: usize) {
    for _ in 0..n {
        let mut program = Command::new("/bin/true");
        let program = program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let output = program.stderr(Stdio::piped()).output();
        assert!(output.expect("it starts").status.success());
    }
}

/// As long as what a line has about a message of the benchmark.
const MESSAGE: usize = 600;

/// A line about the messages with these ids.
fn line(id: usize, batch: usize, body: &str) -> String {
    let message = |id| format!("{{\"id\":{id},\"body\":\"{body}\"}}");
    match batch {
        1 => message(id) + "\n",
        batch => {
            let messages: Vec<_> = (id + 1..=id + batch).map(message).collect();
            format!("{{\"id\":{id},\"messages\":[{}]}}\n", messages.join(","))
        }
    }
}

fn pipe(n: usize, batch: usize, argv: &[String]) {
    let mut program = Command::new(&argv[0]);
    let program = program.args(&argv[1..]).stdin(Stdio::piped());
    let mut program = program.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = program.stdin.take().expect("it is piped");
    let mut lines = BufReader::new(program.stdout.take().expect("it is piped")).lines();
    lines.next().expect("it is ready").expect("it is text");
    let body = "x".repeat(MESSAGE - 40);
    for id in (0..n).step_by(batch) {
        let line = line(id, batch, &body);
        stdin.write_all(line.as_bytes()).expect("it reads");
        lines.next().expect("it answers").expect("it is text");
    }
    drop(stdin);
    program.wait().expect("it ends");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (n, at_once) = (env("N", 10_000), env("CONC", 2));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| match arguments[0].as_str() {
                "spawn" => spawn(n / at_once),
                _ => pipe(n / at_once, env("BATCH", 1), &arguments[1..]),
            });
        }
    });
    println!("{:.0}", n as f64 / began.elapsed().as_secs_f64());
}
